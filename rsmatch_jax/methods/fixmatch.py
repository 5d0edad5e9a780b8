"""FixMatch (Sohn et al. 2020): one fixed confidence threshold for all pseudo-labels. As
in USB (semilearn algorithms/fixmatch/fixmatch.py)."""

import dataclasses

import jax.numpy as jnp

from rsmatch_jax import losses
from rsmatch_jax.methods import base, keys


@dataclasses.dataclass(frozen=True)
class FixMatch(base.Rule):
    """One threshold, no buffers."""

    threshold: float = keys.key("method.threshold")  # tau

    def select(self, inputs, buffers):
        """weight = [max q >= tau]."""
        labels, confidence = losses.pseudo_label(inputs.weak_logits)
        weights = (confidence >= self.threshold).astype(jnp.float32)
        return labels, weights, buffers
