"""Hooks that read or change activations inside an encoder, by stage name."""

from collections.abc import Callable

import jax

Tap = Callable[[str, jax.Array], jax.Array]


def untouched(name: str, x: jax.Array) -> jax.Array:
    """Returns x: the tap that changes nothing."""
    del name
    return x
