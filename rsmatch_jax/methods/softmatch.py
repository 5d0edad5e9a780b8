"""SoftMatch (Chen et al. 2023): every unlabelled image counts, the less the further its
confidence lies below the mean. As in USB (semilearn algorithms/softmatch/softmatch.py,
utils.py)."""

import dataclasses

import jax
import jax.numpy as jnp

from rsmatch_jax.methods import alignment, base, keys
from rsmatch_jax.runtime import parallel


@dataclasses.dataclass(frozen=True)
class SoftMatch(base.Rule):
    """align: weights by predictions aligned to equal classes. USB's key of this name is
    read nowhere, so that False is ours."""

    ema_decay: float = keys.key(least=0, most=1)  # of all averages
    n_sigma: float = keys.key(above=0)
    align: bool = keys.key()

    def init(self, dims):
        """mean and variance of the confidences follow the global batch."""
        k = dims.num_classes
        return {
            "mean": jnp.full((), 1 / k, jnp.float32),  # mu
            "variance": jnp.ones((), jnp.float32),  # v, unbiased
            **(alignment.averages(k, to_labelled=False) if self.align else {}),
        }

    def select(self, inputs, buffers):
        """weight = exp(-min(max p - mu, 0)^2 n_sigma^2 / 2 v), mu and v after their
        update. The label is that of the predictions before alignment."""
        logits, aligned = inputs.weak_logits, {}
        log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
        if self.align:
            log_p, aligned = alignment.by_average(
                logits, None, buffers, self.ema_decay, inputs.axis
            )
        confidence = jnp.max(jnp.exp(log_p), axis=1)
        new = self._update(buffers, parallel.gather_rows(confidence, inputs.axis))
        below = jnp.minimum(confidence - new["mean"], 0.0)
        # Equal confidences may make v zero.
        v = jnp.maximum(new["variance"], jnp.finfo(jnp.float32).tiny)
        weights = jnp.exp(-jnp.square(below * self.n_sigma) / (2 * v))
        labels = jnp.argmax(logits, axis=1).astype(jnp.int32)
        return labels, weights, {**aligned, **new}

    def _update(self, buffers, confidences):
        spread = jnp.square(confidences - jnp.mean(confidences))
        batch = {
            "mean": jnp.mean(confidences),
            "variance": jnp.sum(spread) / max(len(confidences) - 1, 1),
        }
        keep = self.ema_decay
        return {k: keep * buffers[k] + (1 - keep) * now for k, now in batch.items()}
