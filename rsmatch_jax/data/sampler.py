"""The images of each step: a pure function of (seed, stream, step).

USB's law (samplers.py, RandomSampler): an epoch of 1024 steps is a sequence of full
permutations, the last one cut short, in slices of a batch. So the counts of two images
in an epoch differ by at most one. Unlike USB's, the order depends on the seed.
"""

import functools
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32

from rsmatch_jax.errors import RequestError

STEPS_PER_EPOCH = 1024
STREAMS = ("labelled", "unlabelled", "synthetic")


@flax.struct.dataclass(eq=False)  # compared and hashed as an object
class Parts:
    """An unlabelled set of which every batch takes `rows` real images and fills up with
    synthetic ones. Each part has its own order; that of the real ones, the stream
    "unlabelled", does not depend on the synthetic ones."""

    real: Int32[Array, " n"] | np.ndarray  # positions in the unlabelled set
    synthetic: Int32[Array, " m"] | np.ndarray
    rows: int = flax.struct.field(pytree_node=False)


@functools.partial(jax.jit, static_argnames=("stream", "n", "batch"))
def epoch_indices(
    seed: jax.typing.ArrayLike,
    stream: str,
    epoch: jax.typing.ArrayLike,
    n: int,
    batch: int,
) -> Int32[Array, "steps {batch}"]:
    """Returns the image positions of one epoch, in 0..n-1; stream: one of STREAMS.
    Needs a few times n + STEPS_PER_EPOCH * batch integers of memory."""
    total = STEPS_PER_EPOCH * batch
    # Names the generator, so that jax's configuration does not change the order.
    key = jax.random.key(seed, impl="threefry2x32")
    key = jax.random.fold_in(key, STREAMS.index(stream))
    key = jax.random.fold_in(key, epoch)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(
        jnp.arange(-(-total // n), dtype=jnp.int32)
    )
    orders = jax.vmap(lambda k: jax.random.permutation(k, n))(keys)
    return orders.reshape(-1)[:total].reshape(STEPS_PER_EPOCH, batch).astype(jnp.int32)


@functools.partial(jax.jit, static_argnames="batch")
def epoch_in_parts(
    seed: jax.typing.ArrayLike, epoch: jax.typing.ArrayLike, parts: Parts, batch: int
) -> Int32[Array, "steps {batch}"]:
    """Returns the image positions of one epoch of batches of fixed parts, the real rows
    first. Devices, to which rows are dealt in turn, get as many, give or take one."""
    rows = []
    counts = {"unlabelled": parts.rows, "synthetic": batch - parts.rows}
    for (stream, count), at in zip(
        counts.items(), (parts.real, parts.synthetic), strict=True
    ):
        if count:
            rows.append(at[epoch_indices(seed, stream, epoch, len(at), count)])
    return jnp.concatenate(rows, axis=1)


def step_indices(
    seed: int,
    stream: str,
    step: int | np.integer,
    n: int,
    batch: int,
    parts: Parts | None = None,
) -> np.ndarray:
    """Returns a step's row of its epoch's `epoch_indices`, or of `epoch_in_parts`,
    read-only, as numpy."""
    if n < 1:
        raise RequestError(f"the {stream} set has 0 images, but a step draws {batch}")
    epoch, row = divmod(int(step), STEPS_PER_EPOCH)
    return _host_epoch(seed, stream, epoch, n, batch, parts)[row]


class Stream(NamedTuple):
    """A run's labelled or unlabelled images, and the rows of its batches to make."""

    name: str  # one of STREAMS
    images: Any  # has a shape
    seed: int
    batch: int  # rows of a global batch
    rows: np.ndarray  # int [n], positions in it
    purposes: tuple[str, ...]  # of the views, see views.PURPOSES
    parts: Parts | None = None

    def indices(self, step: int | np.integer) -> np.ndarray:
        """Returns the images' positions in a step's rows, int32 [n]."""
        count = self.images.shape[0]
        order = (self.seed, self.name, step, count, self.batch, self.parts)
        return step_indices(*order)[self.rows]


@functools.lru_cache(maxsize=8)
def _host_epoch(seed, stream, epoch, n, batch, parts) -> np.ndarray:
    # On the accelerator the input pipeline would wait for training steps.
    with jax.default_device(_cpu_device()):
        if parts is None:
            order = epoch_indices(seed, stream, epoch, n, batch)
        else:
            order = epoch_in_parts(seed, epoch, parts, batch)
        host = np.array(order)
    host.flags.writeable = False
    return host


def _cpu_device() -> jax.Device | None:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS may name accelerators only
        return None
