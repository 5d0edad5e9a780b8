"""FreeMatch (Wang et al. 2023): thresholds that follow the model's own confidence, and
a fairness loss against predicting few classes. As in USB (semilearn
algorithms/freematch/freematch.py, utils.py)."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rsmatch_jax import losses
from rsmatch_jax.methods import base, keys
from rsmatch_jax.runtime import parallel

QUANTILE = 0.8  # of the confidences, with use_quantile
CLIP = 0.95  # the highest global threshold, with clip_threshold


@dataclasses.dataclass(frozen=True)
class FreeMatch(base.Rule):
    """use_quantile: follow the 0.8-quantile of the confidences instead of their mean.
    clip_threshold: keep tau at 0.95 or below (USB does so for SVHN)."""

    ema_decay: float = keys.key(least=0, most=1)  # lambda, of all three buffers
    entropy_weight: float = keys.key(least=0)  # of the fairness loss
    use_quantile: bool = keys.key()
    clip_threshold: bool = keys.key()

    def init(self, dims):
        """All buffers start at 1 / K and follow the global batch."""
        k = dims.num_classes
        return {
            "tau": jnp.full((), 1 / k, jnp.float32),  # the global threshold
            "probs": jnp.full((k,), 1 / k, jnp.float32),  # p-tilde, mean prediction
            "histogram": jnp.full((k,), 1 / k, jnp.float32),  # h-tilde, label shares
        }

    def select(self, inputs, buffers):
        """weight = [max q >= tau * p_c / max p], c = the label, p after its update."""
        labels, confidence = losses.pseudo_label(inputs.weak_logits)
        buffers = self._update(buffers, inputs, labels, confidence)
        probs = buffers["probs"]
        thresholds = buffers["tau"] * probs / jnp.max(probs)
        weights = (confidence >= thresholds[labels]).astype(jnp.float32)
        return labels, weights, buffers

    def regulariser(self, logits, weights, buffers, axis):
        probs, histogram = buffers["probs"], buffers["histogram"]
        fairness = fairness_loss(logits, weights, probs, histogram, axis)
        return self.entropy_weight * fairness, {"loss_fairness": fairness}

    def _update(self, buffers, inputs, labels, confidence):
        probs = losses.probabilities(inputs.weak_logits)
        batch = {
            "tau": jnp.mean(confidence),
            "probs": jnp.mean(probs, axis=0),
            "histogram": jnp.mean(jax.nn.one_hot(labels, probs.shape[1]), axis=0),
        }
        batch = parallel.mean(batch, inputs.axis)
        if self.use_quantile:
            confidences = parallel.gather_rows(confidence, inputs.axis)
            batch["tau"] = jnp.quantile(confidences, QUANTILE)
        new = jax.tree.map(
            lambda old, now: self.ema_decay * old + (1 - self.ema_decay) * now,
            buffers,
            batch,
        )
        if self.clip_threshold:
            new["tau"] = jnp.clip(new["tau"], 0.0, CLIP)
        return new


def fairness_loss(
    strong_logits: base.Logits,
    weights: base.Weights,
    probs: Float[Array, " classes"],
    histogram: Float[Array, " classes"],
    axis: str | None,
) -> base.Loss:
    """Returns L_f = sum_c a_c log(b_c), at most 0, and 0 if all weights are.

    a = norm(p-tilde / h-tilde) of the buffers, b = norm(p-bar / h-bar). p-bar is the
    weighted mean prediction of the global batch, h-bar the weighted share of the
    predicted classes; only p-bar has a gradient.
    """
    factor = weights[:, None]
    strong = jax.nn.softmax(strong_logits.astype(jnp.float32))
    predicted = jax.nn.one_hot(jnp.argmax(strong, axis=1), strong.shape[1])
    # Ratios of batch sums must be formed after the reduction. `norm` removes scale, so
    # means over devices serve as sums, and p-bar and h-bar need no division by rows.
    sums = (jnp.sum(factor * strong, 0), jnp.sum(factor * predicted, 0))
    p, h = parallel.mean(sums, axis)
    a = _norm(probs * _inverse(histogram))
    b = _norm(p * _inverse(h))
    return jnp.where(jnp.sum(h) > 0, jnp.sum(a * jnp.log(b + 1e-12)), 0.0)


def _inverse(x: jax.Array) -> jax.Array:
    """Returns 1 / x, with 1 / 0 = 0, a constant for the gradient."""
    inverse = 1 / jax.lax.stop_gradient(x)
    return jnp.where(jnp.isfinite(inverse), inverse, 0.0)


def _norm(x: jax.Array) -> jax.Array:
    """Scales x to sum 1; zeros stay zeros."""
    total = jnp.sum(x)
    return x / jnp.where(total > 0, total, 1.0)
