"""A few bytes that tell two states apart: whether a checkpoint gives back what was
saved, and whether two runs ended alike.

Sums of 32-bit hashes, which come out the same in any order and on any device.
"""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any
_STRIDE = 0x9E3779B9  # 2**32 over the golden ratio: neighbours come out far apart
_MIX = (0x85EBCA6B, 0xC2B2AE35)  # of MurmurHash3's finaliser


def of_leaves(tree: PyTree) -> jax.Array:
    """uint32 [number of leaves], in the order of jax.tree.leaves (jit it).

    For every leaf the sum of its words, each hashed with its position. The hash is
    one-to-one, so that a single changed word always shows; more of them stay unseen
    once in 2**32 times.
    """
    return jnp.stack([_of_leaf(leaf) for leaf in jax.tree.leaves(tree)])


def text(sums: Any) -> str:
    """8 hex digits of what `of_leaves` gives."""
    return f"{zlib.crc32(np.asarray(sums, '<u4').tobytes()):08x}"


def names(tree: PyTree) -> list[str]:
    """Where the leaves are, such as .params['classifier']['stem']['kernel']."""
    return [
        jax.tree_util.keystr(path)
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    ]


def _of_leaf(leaf: jax.Array) -> jax.Array:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if leaf.dtype == jnp.bool_:
        leaf = leaf.astype(jnp.uint8)
    word = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
    words = jax.lax.bitcast_convert_type(leaf, word).astype(jnp.uint32).ravel()
    position = jax.lax.iota(jnp.uint32, words.size)
    h = words ^ (position * jnp.uint32(_STRIDE))
    h = (h ^ (h >> 16)) * jnp.uint32(_MIX[0])
    h = (h ^ (h >> 13)) * jnp.uint32(_MIX[1])
    return jnp.sum(h ^ (h >> 16), dtype=jnp.uint32)
