"""Batch normalisation of real and of synthetic rows apart, in one batch.

Which row is which is known at run time alone, so both means are weighted by 0 or 1. The
derivative is autodiff's, with more passes over x than the one in norm.py.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rsmatch_jax.models.activation import activate
from rsmatch_jax.runtime import parallel


def batch_norm(
    x: Float[Array, "n *pixels c"],
    synthetic: Bool[Array, " n"],
    scale: Float[Array, "2 c"],
    bias: Float[Array, "2 c"],
    epsilon: float,
    slope: float,
    dtype: Any,
    axis: str | None,
) -> tuple[Array, Float[Array, " c"], Float[Array, " c"], Float[Array, ""]]:
    """Returns y of `dtype`; mean, var and count of the real rows' values on all
    devices, without gradient. scale, bias: of real and of synthetic rows. A kind
    without rows has mean and variance 0, by which no row is normalised."""
    wide = x.astype(scale.dtype)
    pixels = tuple(range(1, x.ndim - 1))
    of_rows = jnp.stack([wide.sum(pixels), (wide * wide).sum(pixels)])  # [2, n, c]
    members = jnp.stack([~synthetic, synthetic]).astype(scale.dtype)  # [2, n]
    # No matmul, which a GPU would round.
    sums = (members[:, None, :, None] * of_rows[None]).sum(axis=2)  # [2 kinds, 2, c]
    counts = members.sum(axis=1) * (x.size // x.shape[0] // x.shape[-1])
    sums, counts = parallel.mean((sums, counts), axis)
    moments = sums / jnp.where(counts > 0, counts, 1)[:, None, None]
    mean, square = moments[:, 0], moments[:, 1]
    var = jnp.maximum(0, square - mean * mean)  # rounding may make it negative

    def wide_rows(vectors):  # [2, c] -> [n, 1, .., c], each row's
        rows = jnp.where(synthetic[:, None], vectors[1], vectors[0])
        return rows.reshape(len(x), *[1] * len(pixels), -1)

    gain = wide_rows(jax.lax.rsqrt(var + epsilon) * scale)
    y = activate((wide - wide_rows(mean)) * gain + wide_rows(bias), slope)
    count = counts[0] * parallel.num_devices(axis)
    real = jax.lax.stop_gradient((mean[0], var[0], count))
    return y.astype(dtype), *real
