"""SCOMatch's threshold for predictions of "out": the fewer of them are confident beside
those of a class, the lower it is. As in the authors' code (trainer.py)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool

from rsmatch_jax.methods import base
from rsmatch_jax.runtime import parallel

LEAST, MOST = 0.75, 0.95  # bounds of a renewed threshold
Rows = Bool[Array, " unlabelled"]


def buffers(first: float) -> base.Buffers:
    """Returns the threshold, and the counts of confident predictions of a class and of
    "out" since it was renewed, in the global batches."""
    return {
        "ood_threshold": jnp.full((), first, jnp.float32),
        "confident": jnp.zeros((2,), jnp.int32),
    }


def renewed(
    old: base.Buffers, due: Bool[Array, ""], threshold: float, first: float
) -> base.Buffers:
    """Returns the buffers after a renewal, the old ones unless it is due: `threshold`
    times the counts' ratio within bounds, or `first` if no class was counted."""
    of_class, of_out = old["confident"]
    ratio = of_out / jnp.maximum(of_class, 1)
    new = jnp.where(of_class > 0, jnp.clip(threshold * ratio, LEAST, MOST), first)
    return {
        "ood_threshold": jnp.where(due, new, old["ood_threshold"]),
        "confident": jnp.where(due, 0, old["confident"]),
    }


def counted(
    old: base.Buffers, is_out: Rows, confident: Rows, axis: str | None
) -> base.Buffers:
    """Returns the buffers after the predictions of a step, of all devices."""
    local = jnp.stack([jnp.sum(confident & ~is_out), jnp.sum(confident & is_out)])
    mean = parallel.mean(local.astype(jnp.float32), axis)
    total = jnp.round(mean * parallel.num_devices(axis)).astype(jnp.int32)
    return {**old, "confident": old["confident"] + total}
