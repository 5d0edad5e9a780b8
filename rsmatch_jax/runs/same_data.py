"""Whether a run goes on with the images that it began with."""

import os
import zipfile
from collections.abc import Mapping

import numpy as np

from rsmatch_jax import files
from rsmatch_jax.errors import RequestError
from rsmatch_jax.runs import workdir

CONTENT = "content"  # key of data.json: a digest of images, which older runs lack


def check(folder: str, split: Mapping[str, np.ndarray], content: str | None):
    """Raises RequestError unless the run in `folder` began with these images.

    Args:
        split: index arrays by name, chosen again from the present data.
        content: a digest of the present images; None, or a run without a digest,
            compares the split only.
    """
    way_out = "restore them, or train anew with --overwrite"
    path = os.path.join(folder, workdir.SPLIT_FILE)
    try:
        with np.load(path, allow_pickle=False) as saved:
            earlier = {name: saved[name] for name in split}
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as e:
        raise RequestError(
            f"{path} cannot be read ({e}), so nothing tells which images this run "
            "began with; restore it, or train anew with --overwrite"
        ) from None
    for name, indices in split.items():
        if not np.array_equal(earlier[name], indices):
            raise RequestError(
                f"{path}: this run began with another choice of {name} images, so the "
                f"dataset or the pool has changed since; {way_out}"
            )
    data = files.read_json(os.path.join(folder, workdir.DATA_FILE)) or {}
    before = data.get(CONTENT)
    if None not in (before, content) and before != content:
        raise RequestError(
            f"{folder}: this run began with other images of the same number and "
            f"labels, so the dataset or the pool has changed since; {way_out}"
        )
