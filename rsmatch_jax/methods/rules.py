"""Pseudo-labelling rules by name: which unlabelled images are trusted in a step.

A rule is what tells FixMatch, FlexMatch and FreeMatch apart. `self_training.py` trains
with a rule alone, `rsmatch.py` puts its detector and its two heads on top of one. A new
rule is a file beside these and a line here, and works in both.
"""

from collections.abc import Mapping
from typing import Protocol

import jax

from rsmatch_jax.methods import fixmatch, flexmatch, freematch
from rsmatch_jax.methods.base import Dims, Metrics

Buffers = Mapping[str, jax.Array]


class Rule(Protocol):
    """A frozen dataclass of hyper-parameters with pure functions.

    Buffers live in the train state and must come out equal on all devices.
    """

    def init(self, dims: Dims) -> Buffers:
        """Buffers before step 0, every leaf with an explicit dtype."""
        ...

    def select(
        self, weak_logits: jax.Array, buffers: Buffers, indices: jax.Array
    ) -> tuple[jax.Array, jax.Array, Buffers]:
        """This device's weak logits [U/D, K] and positions in the unlabelled set,
        int32 [U/D] -> (labels int32 [U/D], mask bool [U/D], new buffers), all of them
        constants for the gradient."""
        ...

    def regulariser(
        self, strong_logits: jax.Array, mask: jax.Array, buffers: Buffers
    ) -> tuple[jax.Array, Metrics]:
        """A further term of the loss on the masked rows [U/D, K], with its weight, and
        what to report of it. Takes the buffers that `select` returned. Equal on all
        devices."""
        ...


RULES = {
    "fixmatch": fixmatch.make,
    "flexmatch": flexmatch.make,
    "freematch": freematch.make,
}
