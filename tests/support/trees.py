"""Trees of parameters and statistics by name, and networks by their shapes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from rsmatch_jax.models import networks


def flat(tree):
    """{"encoder/stem/kernel": leaf, ...}"""
    return flatten_dict(tree, sep="/")


def unflat(named):
    return unflatten_dict(named, sep="/")


def shapes(name, heads, size=32):
    """(params, stats) of a network, as shapes."""
    return _shapes(name, tuple(heads.items()), size)


@functools.cache
def _shapes(name, heads, size):
    net = networks.make(name, dict(heads))
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return jax.eval_shape(net.init, jax.random.key(0), images)


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def check_initial(params, stats):
    """Convolutions are He's normal of the fan-out and not truncated, heads Xavier's;
    norms begin as the identity, and biases are zero, but not the stem's."""
    for name, value in flat(params).items():
        value = np.asarray(value, np.float64)
        if value.ndim > 1:
            fan = sum(value.shape)
            if value.ndim == 4:
                fan = np.prod(value.shape[:2]) * value.shape[3]
            z = value.reshape(-1) / np.sqrt(2 / fan)
            assert abs(z.mean()) < 4 / z.size**0.5, name
            assert abs(z.std() - 1) < 4 / (2 * z.size) ** 0.5, name
            assert z.size <= 5000 or abs(z).max() > 3, f"{name} looks truncated"
        elif name != "encoder/stem/bias":
            assert (value == name.endswith("scale")).all(), name
    for name, value in flat(stats).items():
        assert (value == name.endswith("var")).all(), name


def moved(tree, seed=0, size=0.1):
    """A tree's leaves with noise added, so that no weight is zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda p: p + size * rng.normal(size=p.shape).astype(np.float32), tree
    )
