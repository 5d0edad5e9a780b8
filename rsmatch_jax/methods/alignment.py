"""Distribution alignment (Berthelot et al. 2019): predictions p of unlabelled images
become p * (target + e) / (mean prediction + e), scaled to sum 1. As in USB (semilearn
hooks/dist_align.py). In logarithms, because p of a class may be too small for float32.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rsmatch_jax.methods import base
from rsmatch_jax.runtime import parallel

EPSILON = 1e-6
Classes = Float[Array, " classes"]


def averages(num_classes: int, *, to_labelled: bool) -> base.Buffers:
    """Returns the buffers of `by_average`: zeros until the first mean prediction, and
    equal classes at first if the target follows the labelled images."""
    buffers = {"p_model": jnp.zeros((num_classes,), jnp.float32)}
    if to_labelled:
        start = jnp.full((num_classes,), 1 / num_classes, jnp.float32)
        buffers["p_target"] = start
    return buffers


def by_average(
    logits: base.Logits,
    labelled: base.LabLogits | None,
    buffers: base.Buffers,
    decay: float,
    axis: str | None,
) -> tuple[base.Logits, base.Buffers]:
    """Returns (log of the aligned predictions, new buffers), by moving averages that
    are updated before use. The first mean prediction is taken whole.

    labelled: logits whose predictions the target follows; None: equal classes.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    batch = {"p_model": _mean(log_p)}
    if labelled is not None:
        batch["p_target"] = _mean(jax.nn.log_softmax(labelled.astype(jnp.float32)))
    batch = parallel.mean(batch, axis)
    new = {k: decay * buffers[k] + (1 - decay) * now for k, now in batch.items()}
    first = jnp.sum(buffers["p_model"]) == 0
    new["p_model"] = jnp.where(first, batch["p_model"], new["p_model"])
    target = new.get("p_target", jnp.float32(1 / log_p.shape[1]))
    return _aligned(log_p, target, new["p_model"]), new


def queue(num_classes: int, length: int) -> base.Buffers:
    """Returns the buffers of `by_queue`: mean predictions of the last `length` steps,
    zeros at first, and the row to be written next."""
    return {
        "da_queue": jnp.zeros((length, num_classes), jnp.float32),
        "da_pointer": jnp.zeros((), jnp.int32),
    }


def by_queue(
    logits: base.Logits, buffers: base.Buffers, axis: str | None
) -> tuple[base.Logits, base.Buffers]:
    """Returns (log of the predictions aligned to equal classes, new buffers). The
    queue's mean includes rows still zero: the scale cancels."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    mean, pointer = parallel.mean(_mean(log_p), axis), buffers["da_pointer"]
    rows = buffers["da_queue"].at[pointer].set(mean)
    log_p = _aligned(log_p, jnp.float32(1 / mean.shape[0]), jnp.mean(rows, axis=0))
    return log_p, {"da_queue": rows, "da_pointer": (pointer + 1) % rows.shape[0]}


def _mean(log_p: Float[Array, "n classes"]) -> Classes:
    return jnp.mean(jnp.exp(log_p), axis=0)


def _aligned(
    log_p: base.Logits, target: Classes | Float[Array, ""], mean: Classes
) -> base.Logits:
    ratio = (target + EPSILON) / (mean + EPSILON)
    return jax.nn.log_softmax(log_p + jnp.log(ratio)[None, :])
