"""Screening: which of many candidates a step trains on, by a score of each."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

SYNTHETIC_SHARE = 0.25  # of the chosen images, by default


def choose(
    scores: Float[Array, " candidates"],
    rows: int,
    synthetic_share: float | None = None,
) -> Int[Array, " {rows}"]:
    """Returns the positions of `rows` of the candidates: first those of the lowest
    scores, then a share of those of the highest, the likeliest synthetic ones. Of equal
    scores the earlier candidates count as the lower ones."""
    share = SYNTHETIC_SHARE if synthetic_share is None else synthetic_share
    synthetic = round(rows * share)
    order = jnp.argsort(scores, stable=True)
    kinds = order[: rows - synthetic], order[len(order) - synthetic :]
    return jnp.concatenate(kinds)
