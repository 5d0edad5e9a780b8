"""The data types that pass between the parts. No logic.

B = labelled images a step, U = unlabelled images a step (mu * B), S = image size,
K = classes, D = feature width.
"""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax

PyTree = Any


@flax.struct.dataclass
class Batch:
    """One step's images, uint8 as they leave the input pipeline (NHWC, RGB).

    lab: uint8 [B, S, S, 3], weakly augmented; labels: int32 [B];
    lab_indices: int32 [B], positions in the labelled set.
    weak, strong: uint8 [U, S, S, 3], two views of the same unlabelled images;
    indices: int32 [U], their positions in the unlabelled set.
    synthetic: bool [U], ground truth. None but for `routing=oracle`: no other method
    may see which unlabelled image is synthetic.
    weak2: uint8 [U, S, S, 3], a second weak view; None unless the method asks for it.
    """

    lab: jax.Array
    labels: jax.Array
    lab_indices: jax.Array
    weak: jax.Array
    strong: jax.Array
    indices: jax.Array
    synthetic: jax.Array | None = None
    weak2: jax.Array | None = None


@flax.struct.dataclass
class Outputs:
    """What a network says of N images, always float32.

    features: [N, D], after pooling; logits: head name -> [N, classes of that head];
    projections: head name -> [N, size], of heads that project.
    """

    features: jax.Array
    logits: Mapping[str, jax.Array]
    projections: Mapping[str, jax.Array] = flax.struct.field(default_factory=dict)


@flax.struct.dataclass
class TrainState:
    """Everything that must survive a restart, in one pytree.

    step: int32 scalar, completed steps. key: typed PRNG key, never changed: a step
    folds its number in. params, stats (BN running statistics) and ema (shadow params):
    {network name: tree}. opt_state: optax. extra: the method's own buffers.
    """

    step: jax.Array
    key: jax.Array
    params: PyTree
    stats: PyTree
    ema: PyTree
    opt_state: PyTree
    extra: PyTree
