"""The data types that pass between the parts. No logic.

Sizes in a step: B = labelled images, U = unlabelled images (mu * B), S = image size,
K = classes, D = feature width. A device's share of a batch has B and U divided by the
number of devices.
"""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
from jaxtyping import Array, Bool, Float, Int, UInt8

PyTree = Any


@flax.struct.dataclass
class Batch:
    """One step's images, uint8 from the input pipeline (NHWC, RGB).

    lab: weakly augmented. lab_indices: positions in the labelled set.
    weak, strong: two views of the same unlabelled images. indices: their positions in
    the unlabelled set. weak2: a second weak view, None unless the method asks for it
    (`Method.weak_views`). synthetic: ground truth, None unless the method needs it
    (`Method.needs_truth`): no other method may see which unlabelled image is synthetic.
    """

    lab: UInt8[Array, "B S S 3"]
    labels: Int[Array, " B"]
    lab_indices: Int[Array, " B"]
    weak: UInt8[Array, "U S S 3"]
    strong: UInt8[Array, "U S S 3"]
    indices: Int[Array, " U"]
    synthetic: Bool[Array, " U"] | None = None
    weak2: UInt8[Array, "U S S 3"] | None = None


@flax.struct.dataclass
class Outputs:
    """A network's outputs for N images, float32, by head; features: after pooling."""

    features: Float[Array, "N D"]
    logits: Mapping[str, Float[Array, "N classes"]]
    projections: Mapping[str, Float[Array, "N size"]] = flax.struct.field(
        default_factory=dict
    )


@flax.struct.dataclass
class CSQueue:
    """K queues of N_q images in one ring buffer (methods/csqueue.py has its functions).

    indices: the images' positions in the unlabelled set, -1 in an empty slot. head: the
    slot to be written next. count: filled slots.
    """

    images: UInt8[Array, "K N_q S S C"]
    indices: Int[Array, "K N_q"]
    head: Int[Array, " K"]
    count: Int[Array, " K"]

    @property
    def capacity(self) -> int:
        """Number of slots, K * N_q."""
        return self.indices.size


@flax.struct.dataclass
class TrainState:
    """Everything that must survive a restart, in one pytree.

    step: completed steps. key: typed PRNG key, never changed: a step folds its number
    in. params, stats (BN running statistics), ema (shadow params): {network: tree}.
    opt_state: of optax. extra: the method's buffers.
    """

    step: Int[Array, ""]
    key: jax.Array
    params: PyTree
    stats: PyTree
    ema: PyTree
    opt_state: PyTree
    extra: PyTree
