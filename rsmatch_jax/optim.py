"""SGD with Nesterov momentum and coupled weight decay, cosine 7/16, EMA weights.

As in FixMatch and USB (semilearn core/utils/build.py, nets/utils.py, misc.py).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

PyTree = Any


@dataclasses.dataclass(frozen=True)
class SGD:
    """One network's optimiser options; weight_decay acts on kernels only."""

    learning_rate: float
    momentum: float
    nesterov: bool
    weight_decay: float


def cosine_7_16(
    learning_rate: float, num_steps: int, warmup_steps: int = 0
) -> optax.Schedule:
    """Returns the schedule lr * max(0, cos(7/16 pi t / T)), t = completed steps.

    A warm-up of w steps is linear and comes first; t and T then count from w. The
    factor at t = T is 0.195: it never reaches zero.
    """

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
    """Returns one update for all networks: {network name: its options}.

    Each tensor: g = grad + wd * p; b = momentum * b + g; step by g + momentum * b
    (Nesterov) or b.
    """
    transforms = {
        name: optax.chain(
            optax.add_decayed_weights(sgd.weight_decay, mask=decayed),
            optax.trace(sgd.momentum, nesterov=sgd.nesterov),
            optax.scale_by_learning_rate(
                cosine_7_16(sgd.learning_rate, num_steps, warmup_steps)
            ),
        )
        for name, sgd in networks.items()
    }
    return optax.partition(transforms, _labels)


class Shares(NamedTuple):
    """Shares of the old shadow weights and of the parameters in the new ones."""

    old: jax.Array
    new: jax.Array


def ema_decay(decay: float, warmup: bool, step: jax.Array) -> Shares:
    """Returns (d, 1 - d), float32, d = decay; with `warmup` min(decay, (1+t) / (10+t)).

    1 - d is formed in double precision, or as 9 / (10 + t): from a float32 decay of
    0.999 it would be off by 5e-5 of its value.
    """
    old, new = jnp.float32(decay), jnp.float32(1 - decay)
    if not warmup:
        return Shares(old, new)
    t = step.astype(jnp.float32)
    return Shares(jnp.minimum(old, (1 + t) / (10 + t)), jnp.maximum(new, 9 / (10 + t)))


def ema_update(ema: PyTree, params: PyTree, decay: Shares) -> PyTree:
    """Returns d * ema + (1 - d) * params; BN statistics are not averaged."""
    return jax.tree.map(lambda s, p: decay.old * s + decay.new * p, ema, params)


def _labels(params: PyTree) -> PyTree:
    """Labels each tensor with its network's name, the top-level key."""
    return {
        name: jax.tree.map(lambda _, name=name: name, tree)
        for name, tree in params.items()
    }
