"""FlexMatch (Zhang et al. 2021): a lower threshold for classes that are learnt less.

As in USB (semilearn algorithms/flexmatch/flexmatch.py, utils.py), except that all
devices share one memory; in USB every process has one.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rsmatch_jax import losses
from rsmatch_jax.methods import base, keys
from rsmatch_jax.runtime import parallel


@dataclasses.dataclass(frozen=True)
class FlexMatch(base.Rule):
    """threshold: tau. threshold_warmup: images not yet selected count as a class when
    learning effects are normalised, which keeps thresholds low at first.

    Buffers: selected, int32 [N], the label under which each unlabelled image last
    passed tau, -1 = never; effect, float32 [K], beta.
    """

    threshold: float = keys.key("method.threshold")
    threshold_warmup: bool = keys.key()

    def init(self, dims):
        return {
            "selected": jnp.full((dims.num_unlabeled,), -1, jnp.int32),
            "effect": jnp.zeros((dims.num_classes,), jnp.float32),
        }

    def select(self, inputs, buffers):
        """weight = [max q >= tau * beta / (2 - beta)], of the label's class.

        beta is that after the step before: at step 0 every image passes.
        """
        labels, confidence = losses.pseudo_label(inputs.weak_logits)
        thresholds = class_thresholds(buffers["effect"], self.threshold)
        weights = (confidence >= thresholds[labels]).astype(jnp.float32)
        selected = remember(
            buffers["selected"],
            inputs.indices,
            labels,
            confidence >= self.threshold,
            inputs.axis,
        )
        effect = self._learning_effect(selected, buffers["effect"])
        return labels, weights, {"selected": selected, "effect": effect}

    def _learning_effect(self, selected, effect):
        """Returns beta_c = sigma_c / M; sigma_c images are remembered under class c.

        M is the largest sigma; with warm-up the number of unused images counts, too.
        beta stays as long as all images are unused, or all are of one class.
        """
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


def remember(
    selected: Int[Array, " images"],
    indices: Int[Array, " unlabelled"],
    labels: Int[Array, " unlabelled"],
    passed: Bool[Array, " unlabelled"],
    axis: str | None,
) -> Int[Array, " images"]:
    """Writes the labels of this step's rows that passed into the memory.

    indices, labels, passed: this device's rows; every device writes those of all. An
    image that passes twice in a batch keeps the label of its last row in the global
    batch, because a scatter has no defined order of duplicates.
    """
    out_of_range = selected.shape[0]
    slot = jnp.where(passed, indices, out_of_range)
    rows = parallel.gather_rows(jnp.stack([slot, labels], axis=1), axis)
    slot, label = rows.T  # [U] each
    passes_again = jnp.triu(slot[:, None] == slot[None, :], k=1).any(axis=1)
    slot = jnp.where(passes_again, out_of_range, slot)
    return selected.at[slot].set(label, mode="drop")
