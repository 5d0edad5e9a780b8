"""Whether a run goes on with the images that it began with."""

import hashlib
import os
import zipfile
from collections.abc import Mapping

import numpy as np

from rsmatch_jax import files
from rsmatch_jax.data import rs_ssl
from rsmatch_jax.data.stores.encoded import EncodedImages
from rsmatch_jax.errors import RequestError
from rsmatch_jax.runs import workdir

CONTENT = "content"  # key of data.json: a digest of images, which older runs lack
SAMPLE = 256  # images of each part; all of ImageNet would take minutes to read


def digest(task: rs_ssl.Task) -> str:
    """Returns a SHA-256 of up to SAMPLE evenly spaced images of each part of a task: of
    the pixels of decoded images, of the files of encoded ones."""
    sha = hashlib.sha256()
    for images in (task.lab_images, task.unl_images, task.val_images, task.test_images):
        sha.update(repr(images.shape).encode())
        rows = np.linspace(0, len(images) - 1, min(len(images), SAMPLE)).astype(int)
        for row in rows.tolist():
            if isinstance(images, EncodedImages):
                sha.update(images.read(row))
            else:
                sha.update(np.ascontiguousarray(images[row]).tobytes())
    return sha.hexdigest()


def check(folder: str, split: Mapping[str, np.ndarray], content: str):
    """Raises RequestError unless the run in `folder` began with these images. split:
    index arrays by name. content: their `digest`."""
    anew = "or train anew with --overwrite"
    changed = f"so the dataset or the pool has changed since; restore them, {anew}"
    path = os.path.join(folder, workdir.SPLIT_FILE)
    try:
        with np.load(path, allow_pickle=False) as saved:
            earlier = {name: saved[name] for name in split}
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as e:
        raise RequestError(
            f"{path} cannot be read ({e}), so nothing tells which images this run "
            f"began with; restore it, {anew}"
        ) from None
    for name, indices in split.items():
        if not np.array_equal(earlier[name], indices):
            raise RequestError(
                f"{path}: this run began with another choice of {name} images, "
                f"{changed}"
            )
    data = files.read_json(os.path.join(folder, workdir.DATA_FILE)) or {}
    if data.get(CONTENT) not in (None, content):
        raise RequestError(
            f"{folder}: this run began with other images of the same number and "
            f"labels, {changed}"
        )
