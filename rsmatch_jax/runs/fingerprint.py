"""A fingerprint of a state: 8 hex digits that are equal if all bits are equal.

Made of sums of 32-bit hashes, which are the same in any order and on any device.
"""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rsmatch_jax.state import PyTree

_STRIDE = 0x9E3779B9  # 2**32 / golden ratio: neighbouring positions differ in many bits
_MIX = (0x85EBCA6B, 0xC2B2AE35)  # of MurmurHash3's finaliser


def of_leaves(tree: PyTree) -> jax.Array:
    """Returns uint32 [number of leaves], in the order of jax.tree.leaves (jit it).

    The sum of a leaf's words, each hashed one-to-one with its position: a single
    changed word always changes it, several leave it with a probability of 2**-32.
    """
    return jnp.stack([_of_leaf(leaf) for leaf in jax.tree.leaves(tree)])


def text(sums: Any) -> str:
    """Returns 8 hex digits of the sums of `of_leaves`."""
    return f"{zlib.crc32(np.asarray(sums, '<u4').tobytes()):08x}"


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
