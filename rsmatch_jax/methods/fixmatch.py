"""FixMatch (Sohn et al. 2020): one fixed confidence threshold for every pseudo-label.

As in USB (semilearn algorithms/fixmatch/fixmatch.py).
"""

import dataclasses

import jax.numpy as jnp

from rsmatch_jax import losses
from rsmatch_jax.methods import base


@dataclasses.dataclass(frozen=True)
class FixMatch:
    """threshold: tau. No buffers."""

    threshold: float

    def init(self, dims):
        del dims
        return {}

    def select(self, weak_logits, buffers, indices):
        """mask = [max q >= tau]."""
        del indices
        labels, confidence = losses.pseudo_label(weak_logits)
        return labels, confidence >= self.threshold, buffers

    def regulariser(self, strong_logits, mask, buffers):
        del strong_logits, mask, buffers
        return jnp.float32(0.0), {}


def make(config: base.Config) -> FixMatch:
    """From the whole config: `method.threshold`."""
    return FixMatch(threshold=config.method.threshold)
