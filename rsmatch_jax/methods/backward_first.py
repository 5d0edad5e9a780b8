"""Runs one network's forward and backward pass before the next network's, so that the
activations of the first are freed before those of the second exist."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from rsmatch_jax.state import PyTree


def differentiated_first(
    loss: Callable[[PyTree], tuple[jax.Array, PyTree]], params: PyTree, images: PyTree
) -> tuple[jax.Array, PyTree, PyTree]:
    """Returns (loss(params), aux, images), the value with its gradient already taken.

    loss(params) returns (scalar, aux); aux is a constant for the outer gradient. images
    (integers) come back unchanged, but depend on the gradient: a network that reads
    them runs afterwards. By default XLA runs all forward passes first, then all
    backward passes (jax 0.10 on a CPU, wrn_10_1 at 64/448: 1053 MiB of temporary memory
    instead of 559). It drops `optimization_barrier` before it orders the operations, so
    the order is written as a dependency of numbers.
    """
    params_now = jax.lax.stop_gradient(params)
    (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params_now)
    # A sum of absolute values is never below 0, but the compiler cannot tell. A number
    # of each gradient is enough, and takes one kernel on a GPU.
    numbers = [jnp.abs(g.ravel()[0]) for g in jax.tree.leaves(grads)]
    below = jnp.sum(jnp.stack(numbers)) < 0
    images = jax.tree.map(lambda x: x + below.astype(x.dtype), images)
    return _with_gradient(params, value, grads), aux, images


@jax.custom_vjp
def _with_gradient(params, value, grads):
    """Returns `value`; its gradient by params is `grads`."""
    del params, grads
    return value


_with_gradient.defvjp(
    lambda params, value, grads: (value, grads),
    lambda grads, factor: (jax.tree.map(lambda g: g * factor, grads), None, None),
)
