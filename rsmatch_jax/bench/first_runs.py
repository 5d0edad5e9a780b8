"""The runs of a sweep in the folder of `bench first`, which must stay small."""

import glob
import os
import shutil
from typing import Any

from rsmatch_jax.metrics import names
from rsmatch_jax.runs import workdir
from rsmatch_jax.runs.checkpoint_folder import CheckpointFolder

SWEEP = "sweep"  # the folder's name in that of the command


def trim(folder: str, limit: float) -> int:
    """Removes all checkpoints of finished runs, all but the newest of others, and these
    too, the largest first, while the folder is above `limit`; returns its bytes."""
    newest = {}
    for run in _runs(folder):
        saved, result = CheckpointFolder(run), workdir.read_result(run) or {}
        paths = [os.path.join(saved.path, str(step)) for step in saved.steps()]
        if paths and result.get("status") != "finished":
            last = paths.pop()
            newest[last] = size(last)
        for path in paths:
            shutil.rmtree(path)
    total = size(folder)
    for path in sorted(newest, key=newest.__getitem__, reverse=True):
        if total > limit:
            shutil.rmtree(path)
            total -= newest[path]
    return total


def size(folder: str) -> int:
    """Bytes of the files in a folder."""
    tree = ((at, name) for at, _, files in os.walk(folder) for name in files)
    return sum(os.path.getsize(os.path.join(*path)) for path in tree)


def results(folder: str) -> list[dict[str, Any]]:
    """How far each run that was begun is, JSON."""
    rows = []
    for run in _runs(folder):
        result = workdir.read_result(run) or {}
        row = {"run": os.path.relpath(run, os.path.join(folder, SWEEP))}
        rows.append(row | {k: result.get(k) for k in ("status", "steps", names.BEST)})
    return rows


def _runs(folder: str) -> list[str]:
    pattern = os.path.join(glob.escape(folder), SWEEP, "*", "seed*", "")
    return sorted(os.path.dirname(path) for path in glob.glob(pattern))
