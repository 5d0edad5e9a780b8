"""FlexMatch (Zhang et al. 2021): a lower threshold for classes that are learnt less.

As in USB (semilearn algorithms/flexmatch/flexmatch.py, utils.py), except that all
devices share one memory; in USB every process has one.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from rsmatch_jax import losses
from rsmatch_jax.methods import base, keys
from rsmatch_jax.runtime import parallel


@dataclasses.dataclass(frozen=True)
class FlexMatch(base.Rule):
    """threshold_warmup: images not yet selected count as a class when learning effects
    are normalised, which keeps thresholds low at first."""

    threshold: float = keys.key("method.threshold")  # tau
    threshold_warmup: bool = keys.key()

    def init(self, dims):
        return {
            # The label under which each image last passed tau, -1 = never.
            "selected": jnp.full((dims.num_unlabeled,), -1, jnp.int32),
            "effect": jnp.zeros((dims.num_classes,), jnp.float32),  # beta
        }

    def select(self, inputs, buffers):
        """weight = [max q >= T(beta_c)], c = the label, beta that before the step: at
        step 0 every image passes."""
        labels, confidence = losses.pseudo_label(inputs.weak_logits)
        thresholds = class_thresholds(buffers["effect"], self.threshold)
        weights = (confidence >= thresholds[labels]).astype(jnp.float32)
        passed = confidence >= self.threshold
        selected = self._remember(buffers["selected"], inputs, labels, passed)
        effect = self._learning_effect(selected, buffers["effect"])
        return labels, weights, {"selected": selected, "effect": effect}

    def _remember(self, selected, inputs, labels, passed):
        """Writes the labels of all devices' rows that passed; an image that passes
        twice in a batch keeps the label of its last row."""
        out_of_range = selected.shape[0]
        slot = jnp.where(passed, inputs.indices, out_of_range)
        rows = parallel.gather_rows(jnp.stack([slot, labels], axis=1), inputs.axis)
        slot, label = rows.T  # [U] each
        slot = base.written_once(slot, out_of_range)
        return selected.at[slot].set(label, mode="drop")

    def _learning_effect(self, selected, effect):
        """Returns beta_c = sigma_c / M; sigma_c images are remembered under class c, M
        is the largest sigma; with warm-up the number of unused images counts, too. beta
        stays as long as all images are unused, or all are of one class."""
        counts = jnp.bincount(selected + 1, length=effect.shape[0] + 1)
        largest = jnp.max(counts)
        used = counts[1:]
        most = largest if self.threshold_warmup else jnp.max(used)
        new = used.astype(jnp.float32) / jnp.maximum(most, 1).astype(jnp.float32)
        return jnp.where(largest < selected.shape[0], new, effect)


def class_thresholds(
    effect: Float[Array, " classes"], threshold: float
) -> Float[Array, " classes"]:
    """Returns T(beta) = tau * beta / (2 - beta), the convex mapping."""
    return threshold * effect / (2.0 - effect)
