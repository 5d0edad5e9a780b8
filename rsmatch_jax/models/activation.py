"""The (leaky) ReLU after a norm."""

import jax
import jax.numpy as jnp


def activate(z: jax.Array, slope: float) -> jax.Array:
    """Returns z where it is positive, elsewhere slope * z."""
    return jnp.where(passes(z, slope), z, slope * z)


def passes(z: jax.Array, slope: float) -> jax.Array:
    """Where the activation's derivative is 1; at zero as in jax.nn.relu and leaky_relu,
    which differ."""
    return z > 0 if slope == 0 else z >= 0
