"""The data types that pass between the parts. No logic.

Sizes: B = labelled images of a step, U = unlabelled ones (mu * B), S = image size, K =
classes, D = feature width. A device's share of a batch has B / devices, U / devices.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

PyTree = Any


@flax.struct.dataclass
class Batch:
    """One step's images, uint8 from the input pipeline (NHWC, RGB)."""

    lab: UInt8[Array, "B S S 3"]  # weakly augmented
    labels: Int[Array, " B"]
    lab_indices: Int[Array, " B"]  # positions in the labelled set
    # Two views of the same unlabelled images, and their positions in the set.
    weak: UInt8[Array, "U S S 3"]
    strong: UInt8[Array, "U S S 3"]
    indices: Int[Array, " U"]
    # Ground truth, None unless `Method.needs_truth`: no other method may see which
    # unlabelled image is synthetic.
    synthetic: Bool[Array, " U"] | None = None
    # A second weak view, None unless `Method.weak_views` is 2.
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
    """K queues of N_q images in one ring buffer; methods/csqueue.py works on it."""

    images: UInt8[Array, "K N_q S S C"]
    indices: Int[Array, "K N_q"]  # positions in the unlabelled set, -1 in an empty slot
    head: Int[Array, " K"]  # the slot to be written next
    count: Int[Array, " K"]  # filled slots

    @property
    def capacity(self) -> int:
        """Number of slots, K * N_q."""
        return self.indices.size


class TrainingImages(NamedTuple):
    """The images that a run trains on, on the host: uint8 [.., S, S, 3] or encoded."""

    labelled: Any
    labels: np.ndarray  # int [L]
    unlabelled: Any  # [N - L]: the unlabelled set, which begins with the labelled ones


class OriginScores(NamedTuple):
    """Synthetic scores (Eq. 1) of an evaluation, float32: what it tells a method."""

    labelled: np.ndarray  # [L]
    unlabelled: np.ndarray  # [N - L], as in TrainingImages
    # [H], of real images that train nothing: those of validation; without any, those of
    # the test set, which choose the best step, too.
    held_out: np.ndarray


@flax.struct.dataclass
class ScoredQueue(CSQueue):
    """A CSQueue that keeps the scores with which its images were pushed."""

    scores: Float[Array, "K N_q"]


@flax.struct.dataclass
class TrainState:
    """Everything that must survive a restart, in one pytree."""

    step: Int[Array, ""]  # completed steps
    key: jax.Array  # typed PRNG key, never changed: a step folds its number in
    params: PyTree  # {network: tree}, as the next two
    stats: PyTree  # BN running statistics
    ema: PyTree  # shadow parameters
    opt_state: PyTree  # of optax
    extra: PyTree  # the method's buffers
