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

PyTree = Any


@dataclasses.dataclass(frozen=True)
class SGD:
    """One network's optimiser settings; weight_decay acts on kernels alone."""

    learning_rate: float
    momentum: float
    nesterov: bool
    weight_decay: float


def cosine_7_16(
    learning_rate: float, num_steps: int, warmup_steps: int = 0
) -> optax.Schedule:
    """lr * max(0, cos(7/16 pi t / T)), t = completed steps; linear warm-up first.

    With a warm-up of w steps t and T count from w. Never reaches zero: the factor at
    t = T is 0.195.
    """

    def schedule(count):
        t = jnp.asarray(count, jnp.float32)
        progress = (t - warmup_steps) / max(1, num_steps - warmup_steps)
        cosine = jnp.maximum(0.0, jnp.cos(math.pi * 7 / 16 * progress))
        ramp = t / max(1, warmup_steps)
        return learning_rate * jnp.where(t < warmup_steps, ramp, cosine)

    return schedule


def decayed(params: PyTree) -> PyTree:
    """True for tensors under weight decay: kernels; not biases, not BN (ndim <= 1)."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def make(
    networks: Mapping[str, SGD], num_steps: int, warmup_steps: int
) -> optax.GradientTransformation:
    """One update for all networks: {network name: its settings}.

    Per tensor: g = grad + wd * p; b = momentum * b + g; step by g + momentum * b
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


def ema_decay(decay: float, warmup: bool, step: jax.Array) -> jax.Array:
    """The decay of this step; with `warmup` min(decay, (1 + t) / (10 + t))."""
    t = step.astype(jnp.float32)
    return jnp.minimum(decay, (1 + t) / (10 + t)) if warmup else jnp.float32(decay)


def ema_update(ema: PyTree, params: PyTree, decay: jax.Array) -> PyTree:
    """Shadow weights: s <- decay * s + (1 - decay) * p. Parameters only, not BN."""
    return jax.tree.map(lambda s, p: decay * s + (1 - decay) * p, ema, params)


def _labels(params: PyTree) -> PyTree:
    """Names each tensor by the network it belongs to: the top-level key."""
    return {
        name: jax.tree.map(lambda _, name=name: name, tree)
        for name, tree in params.items()
    }
