"""What Orbax needs to be told, and what it says about a checkpoint."""

import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from rsmatch_jax.errors import RequestError, one_line
from rsmatch_jax.runs import fingerprint
from rsmatch_jax.state import PyTree


class NewestAndBest:
    """Orbax's PreservationPolicy: which checkpoints stay when one is added."""

    def __init__(self, newest: int):
        self.newest = newest
        self.best: int | None = None

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any
    ) -> Sequence[bool]:
        del context
        first = len(checkpoints) - self.newest
        return [i >= first or c.step == self.best for i, c in enumerate(checkpoints)]


def shapes(folder: str, step: int) -> dict[str, tuple[int, ...]]:
    """Returns {path: shape} of the leaves of a saved state; empty if it is damaged."""
    path = pathlib.Path(folder, str(step), "state")
    try:
        # pyrefly: ignore[bad-argument-type]: asks for etils' Path, takes any
        tree = ocp.StandardCheckpointHandler().metadata(path).tree
        return {path: tuple(x.shape) for path, x in leaves(tree)}
    except Exception:  # Orbax raises exceptions of many kinds for bad files
        return {}


def weights(folder: str, step: int) -> dict[str, np.ndarray]:
    """Returns {path: array} of a saved state's EMA weights, below "params", and running
    statistics, below "stats"; raises RequestError if the checkpoint is damaged.

    Reads nothing else, on this process alone, whatever method and model it is of.
    """
    path = pathlib.Path(folder, str(step))
    try:
        handler = ocp.StandardCheckpointHandler()
        # pyrefly: ignore[bad-argument-type]: asks for etils' Path, takes any
        tree = handler.metadata(path / "state").tree
        read = {name: tree[name] for name in ("ema", "stats")}
        as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
        options = ocp.args.PyTreeRestore(
            item=jax.tree.map(lambda _: 0, read),
            restore_args=jax.tree.map(lambda _: as_numpy, read),
            partial_restore=True,
        )
        # pyrefly: ignore[bad-argument-type]: as above
        state = ocp.PyTreeCheckpointHandler().restore(path / "state", args=options)
        # pyrefly: ignore[bad-argument-type]: as above
        meta = ocp.JsonCheckpointHandler().restore(path / "meta")
        # Their order is that of a state that only its own method knows.
        sums = jax.jit(fingerprint.of_leaves)(state).tolist()
        if not {*sums} <= {*meta["fingerprint"]}:
            raise ValueError("its weights are not what was saved")
    except Exception as e:  # Orbax raises exceptions of many kinds for bad files
        raise RequestError(
            f"{path} is damaged, or another version has made it: {one_line(e)}"
        ) from e
    return dict(leaves({"params": state["ema"], "stats": state["stats"]}))


def misfit(saved_shapes: Mapping[str, tuple[int, ...]], like: PyTree) -> str | None:
    """Returns which leaf of a saved state, by its `shapes`, differs from `like`; None
    if all fit, or if it is damaged."""
    if not saved_shapes:
        return None
    saved = dict(saved_shapes)
    for path, leaf in leaves(like):
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        shape = saved.pop(path, None)
        if shape is None:
            return f"{path} is not there"
        if not is_key and shape != tuple(leaf.shape):
            return f"{path} has shape {shape}"
    return next((f"{path} is there" for path in saved), None)


def log_no_tracebacks():
    """Keeps Orbax from logging the exceptions that it raises as well."""
    logging.getLogger("absl").addFilter(_not_of_orbax)


def _not_of_orbax(record: logging.LogRecord) -> bool:
    return not (record.exc_info and f"{os.sep}orbax{os.sep}" in record.pathname)


def leaves(tree: PyTree) -> list[tuple[str, Any]]:
    """Returns (path, leaf), with equal paths for a state and Orbax's metadata of it."""
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
