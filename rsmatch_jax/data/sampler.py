"""Which images a step sees: a pure function of (seed, stream, step).

USB's law (samplers.py, RandomSampler): an epoch of 1024 steps is a row of full
permutations, the last one cut short, and batches are its consecutive slices, so counts
differ by at most one within an epoch. Unlike USB's, the order depends on the seed.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from rsmatch_jax.errors import RequestError

STEPS_PER_EPOCH = 1024
STREAMS = ("labelled", "unlabelled")


@functools.partial(jax.jit, static_argnames=("stream", "n", "batch", "steps_per_epoch"))
def epoch_indices(
    seed: jax.typing.ArrayLike,
    stream: str,
    epoch: jax.typing.ArrayLike,
    n: int,
    batch: int,
    steps_per_epoch: int = STEPS_PER_EPOCH,
) -> jax.Array:
    """Image positions of one epoch, int32 [steps_per_epoch, batch] in 0..n-1.

    seed, epoch: int32 scalars, which may be traced; stream: one of STREAMS. Callable
    inside jit. Memory is a few times n + steps_per_epoch * batch integers.
    """
    total = steps_per_epoch * batch
    # The generator is named, so that no jax configuration changes the order.
    key = jax.random.key(seed, impl="threefry2x32")
    key = jax.random.fold_in(key, STREAMS.index(stream))
    key = jax.random.fold_in(key, epoch)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(
        jnp.arange(-(-total // n), dtype=jnp.int32)
    )
    orders = jax.vmap(lambda k: jax.random.permutation(k, n))(keys)
    return orders.reshape(-1)[:total].reshape(steps_per_epoch, batch).astype(jnp.int32)


def step_indices(
    seed: int,
    stream: str,
    step: int,
    n: int,
    batch: int,
    steps_per_epoch: int = STEPS_PER_EPOCH,
) -> np.ndarray:
    """Image positions of one step on the host, read-only int32 [batch].

    The row `step % steps_per_epoch` of that epoch's `epoch_indices`. Epochs are made
    on the CPU and the last few are kept; threads may share them.

    Raises: RequestError if there are no images to draw from.
    """
    if n < 1:
        raise RequestError(
            f"the {stream} set has {n} images; a step draws {batch} of them, so give "
            "it at least one image"
        )
    epoch, row = divmod(int(step), steps_per_epoch)
    return _host_epoch(seed, stream, epoch, n, batch, steps_per_epoch)[row]


@functools.lru_cache(maxsize=8)
def _host_epoch(seed, stream, epoch, n, batch, steps_per_epoch) -> np.ndarray:
    # Not on the accelerator, where the input pipeline would wait for training steps.
    with jax.default_device(_cpu_device()):
        indices = epoch_indices(seed, stream, epoch, n, batch, steps_per_epoch)
        host = np.array(indices)
    host.flags.writeable = False
    return host


def _cpu_device() -> jax.Device | None:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS may name accelerators alone
        return None
