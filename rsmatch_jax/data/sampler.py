"""The images of each step: a pure function of (seed, stream, step).

USB's law (samplers.py, RandomSampler): an epoch of 1024 steps is a sequence of full
permutations, the last one cut short, in slices of a batch. So the counts of two images
in an epoch differ by at most one. Unlike USB's, the order depends on the seed.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32

from rsmatch_jax.errors import RequestError

STEPS_PER_EPOCH = 1024
STREAMS = ("labelled", "unlabelled")


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


def step_indices(
    seed: int, stream: str, step: int | np.integer, n: int, batch: int
) -> np.ndarray:
    """Returns a step's row of its epoch's `epoch_indices`, read-only, as numpy."""
    if n < 1:
        raise RequestError(f"the {stream} set has 0 images, but a step draws {batch}")
    epoch, row = divmod(int(step), STEPS_PER_EPOCH)
    return _host_epoch(seed, stream, epoch, n, batch)[row]


class Stream(NamedTuple):
    """A run's labelled or unlabelled images, and the rows of its batches to make."""

    name: str  # one of STREAMS
    images: Any  # has a shape
    seed: int
    batch: int  # rows of a global batch
    rows: np.ndarray  # int [n], positions in it
    purposes: tuple[str, ...]  # of the views, see views.PURPOSES

    def indices(self, step: int | np.integer) -> np.ndarray:
        """Returns the images' positions in a step's rows, int32 [n]."""
        count = self.images.shape[0]
        return step_indices(self.seed, self.name, step, count, self.batch)[self.rows]


@functools.lru_cache(maxsize=8)
def _host_epoch(seed, stream, epoch, n, batch) -> np.ndarray:
    # On the accelerator the input pipeline would wait for training steps.
    with jax.default_device(_cpu_device()):
        host = np.array(epoch_indices(seed, stream, epoch, n, batch))
    host.flags.writeable = False
    return host


def _cpu_device() -> jax.Device | None:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS may name accelerators only
        return None
