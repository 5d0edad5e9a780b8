"""AdaMatch (Berthelot et al. 2022): predictions aligned to the labelled ones, and a
threshold relative to the confidence in the labelled images. As in USB (semilearn
algorithms/adamatch/adamatch.py), which has neither the paper's random mixture of logits
nor its ramp of the loss."""

import dataclasses

import jax
import jax.numpy as jnp

from rsmatch_jax import losses
from rsmatch_jax.methods import alignment, base, keys
from rsmatch_jax.runtime import parallel


@dataclasses.dataclass(frozen=True)
class AdaMatch(base.Rule):
    """align: as in USB; False, ours, leaves the predictions as they are."""

    threshold: float = keys.key("method.threshold")  # of the labelled confidence
    ema_decay: float = keys.key(least=0, most=1)  # of both mean predictions
    align: bool = keys.key()

    def init(self, dims):
        if not self.align:
            return {}
        return alignment.averages(dims.num_classes, to_labelled=True)

    def select(self, inputs, buffers):
        """weight = [max p >= threshold * mean confidence in this batch's labelled
        images]; label and p are of the aligned predictions."""
        _, confidence = losses.pseudo_label(inputs.lab_logits)
        threshold = self.threshold * parallel.mean(jnp.mean(confidence), inputs.axis)
        log_p = jax.nn.log_softmax(inputs.weak_logits.astype(jnp.float32))
        if self.align:
            log_p, buffers = alignment.by_average(
                inputs.weak_logits,
                inputs.lab_logits,
                buffers,
                self.ema_decay,
                inputs.axis,
            )
        weights = (jnp.max(jnp.exp(log_p), axis=1) >= threshold).astype(jnp.float32)
        return jnp.argmax(log_p, axis=1).astype(jnp.int32), weights, buffers
