"""FlexMatch (Zhang et al. 2021): a lower threshold for classes that are learnt less.

As in USB (semilearn algorithms/flexmatch/flexmatch.py, utils.py). There every process
keeps a memory of its own; here all devices share one.
"""

import dataclasses

import jax
import jax.numpy as jnp

from rsmatch_jax import losses
from rsmatch_jax.methods import base
from rsmatch_jax.runtime import parallel


@dataclasses.dataclass(frozen=True)
class FlexMatch:
    """threshold: tau; threshold_warmup: images not yet selected count as a class when
    learning effects are normalised, which keeps thresholds low at first.

    Buffers: selected, int32 [N], the label under which each unlabelled image last
    passed tau, -1 = never; effect, float32 [K], beta.
    """

    threshold: float
    threshold_warmup: bool

    def init(self, dims):
        return {
            "selected": jnp.full((dims.num_unlabeled,), -1, jnp.int32),
            "effect": jnp.zeros((dims.num_classes,), jnp.float32),
        }

    def select(self, weak_logits, buffers, indices):
        """mask = [max q >= tau * beta / (2 - beta)], with beta of the label's class and
        of the step before: at step 0 every image passes."""
        labels, confidence = losses.pseudo_label(weak_logits)
        mask = confidence >= class_thresholds(buffers["effect"], self.threshold)[labels]
        selected = remember(
            buffers["selected"], indices, labels, confidence >= self.threshold
        )
        effect = self._learning_effect(selected, buffers["effect"])
        return labels, mask, {"selected": selected, "effect": effect}

    def regulariser(self, strong_logits, mask, buffers):
        del strong_logits, mask, buffers
        return jnp.float32(0.0), {}

    def _learning_effect(self, selected, effect):
        """beta_c = sigma_c / M; sigma_c images are remembered under class c. M is the
        largest sigma; with warm-up the number of unused images counts, too. As long as
        all images are unused, or all are of one class, beta stays."""
        counts = jnp.bincount(selected + 1, length=effect.shape[0] + 1)
        largest = jnp.max(counts)
        used = counts[1:]
        most = largest if self.threshold_warmup else jnp.max(used)
        new = used.astype(jnp.float32) / jnp.maximum(most, 1).astype(jnp.float32)
        return jnp.where(largest < selected.shape[0], new, effect)


def class_thresholds(effect: jax.Array, threshold: float) -> jax.Array:
    """T(beta) = tau * beta / (2 - beta), the convex mapping: float32 [K] -> [K]."""
    return threshold * effect / (2.0 - effect)


def remember(
    selected: jax.Array, indices: jax.Array, labels: jax.Array, passed: jax.Array
) -> jax.Array:
    """Writes this step's labels of the rows that passed into the memory, int32 [N].

    indices, labels: int32 [U/D], passed: bool [U/D], this device's rows; every device
    writes those of all. An image that passes twice in a batch keeps the label of its
    last row in the global batch: the order of a scatter's own duplicates is undefined.
    """
    out_of_range = selected.shape[0]
    slot = jnp.where(passed, indices, out_of_range)
    slot, label = parallel.gather_rows(jnp.stack([slot, labels], axis=1)).T  # [U] each
    passes_again = jnp.triu(slot[:, None] == slot[None, :], k=1).any(axis=1)
    slot = jnp.where(passes_again, out_of_range, slot)
    return selected.at[slot].set(label, mode="drop")


def make(config: base.Config) -> FlexMatch:
    """From the whole config: `method.threshold` and `method.flexmatch`."""
    return FlexMatch(
        threshold=config.method.threshold,
        threshold_warmup=config.method.flexmatch.threshold_warmup,
    )
