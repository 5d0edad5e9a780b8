"""FreeMatch (Wang et al. 2023): thresholds that follow the model's own confidence, and
a fairness loss against predicting few classes.

As in USB (semilearn algorithms/freematch/freematch.py, utils.py).
"""

import dataclasses

import jax
import jax.numpy as jnp

from rsmatch_jax import losses
from rsmatch_jax.methods import base
from rsmatch_jax.runtime import parallel

QUANTILE = 0.8  # of the confidences, with use_quantile
CLIP = 0.95  # the highest global threshold, with clip_threshold


@dataclasses.dataclass(frozen=True)
class FreeMatch:
    """ema_decay: lambda, of all three buffers; entropy_weight: of the fairness loss;
    use_quantile: follow the 0.8-quantile of the confidences instead of their mean;
    clip_threshold: keep tau at 0.95 or below (USB does so for SVHN).

    Buffers, float32: tau, scalar, the global threshold; probs [K], p-tilde, the mean
    prediction; histogram [K], h-tilde, the share of each pseudo-label. All start at
    1 / K and follow the global batch.
    """

    ema_decay: float
    entropy_weight: float
    use_quantile: bool
    clip_threshold: bool

    def init(self, dims):
        k = dims.num_classes
        return {
            "tau": jnp.full((), 1 / k, jnp.float32),
            "probs": jnp.full((k,), 1 / k, jnp.float32),
            "histogram": jnp.full((k,), 1 / k, jnp.float32),
        }

    def select(self, weak_logits, buffers, indices):
        """mask = [max q >= tau * p_c / max p], c being the label. The buffers take in
        this batch first."""
        del indices
        labels, confidence = losses.pseudo_label(weak_logits)
        buffers = self._update(buffers, weak_logits, labels, confidence)
        probs = buffers["probs"]
        thresholds = buffers["tau"] * probs / jnp.max(probs)
        return labels, confidence >= thresholds[labels], buffers

    def regulariser(self, strong_logits, mask, buffers):
        fairness = fairness_loss(
            strong_logits, mask, buffers["probs"], buffers["histogram"]
        )
        return self.entropy_weight * fairness, {"loss_fairness": fairness}

    def _update(self, buffers, weak_logits, labels, confidence):
        probs = jax.nn.softmax(jax.lax.stop_gradient(weak_logits.astype(jnp.float32)))
        batch = parallel.mean(
            {
                "tau": jnp.mean(confidence),
                "probs": jnp.mean(probs, axis=0),
                "histogram": jnp.mean(jax.nn.one_hot(labels, probs.shape[1]), axis=0),
            }
        )
        if self.use_quantile:
            everyone = parallel.gather_rows(confidence)
            batch["tau"] = jnp.quantile(everyone, QUANTILE)
        new = jax.tree.map(
            lambda old, now: self.ema_decay * old + (1 - self.ema_decay) * now,
            buffers,
            batch,
        )
        if self.clip_threshold:
            new["tau"] = jnp.clip(new["tau"], 0.0, CLIP)
        return new


def fairness_loss(
    strong_logits: jax.Array, mask: jax.Array, probs: jax.Array, histogram: jax.Array
) -> jax.Array:
    """L_f = sum_c a_c log(b_c), a = norm(p-tilde / h-tilde), b = norm(p-bar / h-bar).

    strong_logits [U/D, K], mask bool [U/D]: this device's rows; probs, histogram [K]:
    the buffers. p-bar is the mean prediction of the masked rows of the global batch,
    h-bar the share of their predicted classes; only p-bar has a gradient. The result
    is at most 0, equal on all devices, and 0 where no row is masked.
    """
    chosen = mask.astype(jnp.float32)[:, None]
    strong = jax.nn.softmax(strong_logits.astype(jnp.float32))
    said = jax.nn.one_hot(jnp.argmax(strong, axis=1), strong.shape[1])
    # Ratios of batch sums must be formed after the reduction. `norm` removes scale, so
    # means over devices serve as sums, and p-bar and h-bar need no division by rows.
    p, h = parallel.mean((jnp.sum(chosen * strong, 0), jnp.sum(chosen * said, 0)))
    a = _norm(probs * _inverse(histogram))
    b = _norm(p * _inverse(h))
    return jnp.where(jnp.sum(h) > 0, jnp.sum(a * jnp.log(b + 1e-12)), 0.0)


def _inverse(x: jax.Array) -> jax.Array:
    """1 / x, with 1 / 0 = 0, a constant for the gradient."""
    inverse = 1 / jax.lax.stop_gradient(x)
    return jnp.where(jnp.isfinite(inverse), inverse, 0.0)


def _norm(x: jax.Array) -> jax.Array:
    """Scales to sum 1; zeros stay zeros."""
    total = jnp.sum(x)
    return x / jnp.where(total > 0, total, 1.0)


def make(config: base.Config) -> FreeMatch:
    """From the whole config: `method.freematch`. It needs no `method.threshold`."""
    own = config.method.freematch
    names = [field.name for field in dataclasses.fields(FreeMatch)]
    return FreeMatch(**{name: own[name] for name in names})
