"""SGD with Nesterov momentum and coupled weight decay, cosine 7/16, EMA weights.

As in FixMatch and USB (semilearn core/utils/build.py, nets/utils.py, misc.py).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

PyTree = Any


@dataclasses.dataclass(frozen=True)
class SGD:
    """One network's optimiser options."""

    learning_rate: float
    momentum: float
    nesterov: bool
    weight_decay: float  # of kernels only


def cosine_7_16(
    learning_rate: float, num_steps: int, warmup_steps: int = 0
) -> optax.Schedule:
    """Returns lr * max(0, cos(7/16 pi t / T)), t = completed steps; 0.195 lr at t = T.
    A warm-up of w steps is linear and comes first; t and T then count from w."""

    def schedule(count):
        t = jnp.asarray(count, jnp.float32)
        progress = (t - warmup_steps) / max(1, num_steps - warmup_steps)
        cosine = jnp.maximum(0.0, jnp.cos(math.pi * 7 / 16 * progress))
        ramp = t / max(1, warmup_steps)
        return learning_rate * jnp.where(t < warmup_steps, ramp, cosine)

    return schedule


def decayed(params: PyTree) -> PyTree:
    """Returns True for tensors under weight decay: kernels, not biases or norms."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def make(
    networks: Mapping[str, SGD], num_steps: int, warmup_steps: int
) -> optax.GradientTransformation:
    """Returns one update for all networks: {network name: its options}. Each tensor:
    g = grad + wd * p; b = momentum * b + g; step by g + momentum * b (Nesterov) or b.
    """

    def update(sgd):
        schedule = cosine_7_16(sgd.learning_rate, num_steps, warmup_steps)
        return optax.chain(
            optax.add_decayed_weights(sgd.weight_decay, mask=decayed),
            optax.trace(sgd.momentum, nesterov=sgd.nesterov),
            optax.scale_by_learning_rate(schedule),
        )

    def network_names(params):  # of each tensor: the top-level key
        return jax.tree_util.tree_map_with_path(lambda path, _: path[0].key, params)

    return optax.partition(
        {n: update(sgd) for n, sgd in networks.items()}, network_names
    )


def ema_update(
    ema: PyTree, params: PyTree, step: Int[Array, ""], *, decay: float, warmup: bool
) -> PyTree:
    """Returns d * ema + (1 - d) * params, float32; BN statistics are not averaged.

    d = decay; with `warmup` min(decay, (1+t) / (10+t)), t = step. 1 - d is formed in
    double precision, or as 9 / (10 + t): from a float32 decay of 0.999 it would be off
    by 5e-5 of its value.
    """
    old, new = jnp.float32(decay), jnp.float32(1 - decay)
    if warmup:
        t = step.astype(jnp.float32)
        old, new = jnp.minimum(old, (1 + t) / (10 + t)), jnp.maximum(new, 9 / (10 + t))
    return jax.tree.map(lambda s, p: old * s + new * p, ema, params)
