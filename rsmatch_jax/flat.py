"""The networks' tensors in a train state as vectors, two a network.

A GPU updates a vector, with momentum and shadow weights, in one kernel instead of one a
tensor, and copies no tensor into the layout of its convolutions (compiled for an H100,
FixMatch's step has 466 kernels instead of 688). Everything but the train step works on
trees: `pack` precedes the first step, and `unpack` each evaluation and checkpoint.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from rsmatch_jax.state import PyTree, TrainState

_KERNELS, _OTHERS = "kernels", "others"


class Layout(NamedTuple):
    """What the vectors do not tell of the tree."""

    structure: Any  # jax.tree_util.PyTreeDef
    shapes: tuple[tuple[int, ...], ...]


@flax.struct.dataclass
class Flat:
    """One network's tensors, float32, in the order of jax.tree.leaves.

    vectors: "kernels" [1, n], those of two and more dimensions, and "others" [m]; one
    of them is missing if it would be empty. As in the tree, two dimensions mean weight
    decay (`optim.decayed`). Of four dimensions the last one is stored first, because
    cuDNN reads convolution kernels in that order.
    """

    vectors: Mapping[str, jax.Array]
    layout: Layout = flax.struct.field(pytree_node=False)

    @property
    def tree(self) -> PyTree:
        """The tensors, as slices of the vectors."""
        leaves, done = [], dict.fromkeys(self.vectors, 0)
        for shape in self.layout.shapes:
            part = _part(shape)
            start, done[part] = done[part], done[part] + math.prod(shape)
            leaf = self.vectors[part]
            if jax.tree.leaves(leaf):  # not optax's mark of another network's momentum
                leaf = leaf.reshape(-1)[start : done[part]]
                if len(shape) == 4:
                    leaf = leaf.reshape(shape[3], *shape[:3]).transpose(1, 2, 3, 0)
                leaf = leaf.reshape(shape)
            leaves.append(leaf)
        return jax.tree.unflatten(self.layout.structure, leaves)

    def join(self, tree: PyTree) -> "Flat":
        """Returns the vectors of another tree of this structure."""
        if not jax.tree.leaves(tree):
            return self
        parts: dict[str, list[jax.Array]] = {}
        for leaf in self.layout.structure.flatten_up_to(tree):
            if leaf.ndim == 4:
                leaf = leaf.transpose(3, 0, 1, 2)
            parts.setdefault(_part(leaf.shape), []).append(leaf.reshape(-1))
        vectors = {part: jnp.concatenate(leaves) for part, leaves in parts.items()}
        if _KERNELS in vectors:
            vectors[_KERNELS] = vectors[_KERNELS][None]
        return Flat(vectors, self.layout)


def _part(shape: tuple[int, ...]) -> str:
    return _KERNELS if len(shape) > 1 else _OTHERS


def trees(packed: PyTree) -> PyTree:
    """Returns a copy in which trees replace all vectors."""
    return jax.tree.map(
        lambda x: x.tree if _is_flat(x) else x, packed, is_leaf=_is_flat
    )


def joined(networks: PyTree, like: PyTree) -> PyTree:
    """Returns trees as vectors where `like`, which `pack` made, has vectors."""
    return jax.tree.map(
        lambda x, tree: x.join(tree) if _is_flat(x) else tree,
        like,
        networks,
        is_leaf=_is_flat,
    )


def pack(state: TrainState, tx: optax.GradientTransformation) -> TrainState:
    """Returns the state with vectors; tx made its `opt_state`. A network with a tensor
    that is not float32 keeps its tree."""
    params, ema, stats = (
        {name: _flat(tree) for name, tree in networks.items()}
        for networks in (state.params, state.ema, state.stats)
    )
    opt_state = joined(state.opt_state, like=jax.eval_shape(tx.init, params))
    return dataclasses.replace(
        state, params=params, ema=ema, stats=stats, opt_state=opt_state
    )


def unpack(state: TrainState) -> TrainState:
    """Undoes `pack`."""
    return dataclasses.replace(
        state,
        params=trees(state.params),
        ema=trees(state.ema),
        stats=trees(state.stats),
        opt_state=trees(state.opt_state),
    )


def _flat(tree: PyTree) -> PyTree:
    leaves, structure = jax.tree.flatten(tree)
    if not leaves or any(leaf.dtype != jnp.float32 for leaf in leaves):
        return tree
    shapes = tuple(tuple(leaf.shape) for leaf in leaves)
    return Flat({}, Layout(structure, shapes)).join(tree)


def _is_flat(x: Any) -> bool:
    return isinstance(x, Flat)
