"""Whether a run goes on with the images that it began with."""

import hashlib
import os
import zipfile
from collections.abc import Sequence

import numpy as np

from rsmatch_jax import files
from rsmatch_jax.data.rs_ssl import Task
from rsmatch_jax.data.stores.encoded import EncodedImages
from rsmatch_jax.errors import RequestError
from rsmatch_jax.runs import workdir

# Keys of data.json: digests of images and labels, and of fewer images in older runs,
# the oldest of which have none.
DIGEST, _OLDER = "digest", "content"
SAMPLE = 256  # encoded images of a part; all of ImageNet would take minutes to read
_GROUPS = {
    "labelled": ("labelled", "validation", "test"),
    "unlabelled": ("unlabelled",),
}
_ANEW = "or train anew with --overwrite"


def digest(task: Task, *, older: bool = False) -> str:
    """Returns a SHA-256 of the images of a task and of all labels but the unlabelled
    images', which are for figures alone: of the pixels of decoded images; of the files
    of up to SAMPLE evenly spaced encoded ones of each part.

    older: as versions did that took SAMPLE decoded images too, and no labels.
    """
    sha = hashlib.sha256()
    for labels in () if older else (task.lab_labels, task.val_labels, task.test_labels):
        sha.update(np.ascontiguousarray(labels, np.int64).data)
    for images in (task.lab_images, task.unl_images, task.val_images, task.test_images):
        sha.update(repr(images.shape).encode())
        if not older and isinstance(images, np.ndarray):
            sha.update(np.ascontiguousarray(images).data)
            continue
        rows = np.linspace(0, len(images) - 1, min(len(images), SAMPLE)).astype(int)
        for row in rows.tolist():
            if isinstance(images, EncodedImages):
                sha.update(images.read(row))
            else:
                sha.update(np.ascontiguousarray(images[row]).data)
    return sha.hexdigest()


def columns(task: Task) -> dict[str, np.ndarray]:
    """Returns the content of pictures.npz: names, digests and labels of a user's
    pictures by part; labels not of unlabelled ones, whose figures alone need them."""
    labels = {
        "labelled": task.lab_labels,
        "validation": task.val_labels,
        "test": task.test_labels,
    }
    parts = {
        f"{part}_{name}": column
        for part, pictures in task.files.items()
        for name, column in vars(pictures).items()
    }
    return parts | {f"{p}_labels": labels[p] for p in task.files.keys() & labels.keys()}


def check(folder: str, task: Task, content: str):
    """Raises RequestError unless the run in `folder` began with the images of `task`,
    labels and all; names what differs. content: the task's `digest`."""
    _check_pictures(folder, task)
    changed = f"so the dataset or the pool has changed since; restore them, {_ANEW}"
    path = os.path.join(folder, workdir.SPLIT_FILE)
    split = vars(task.split)
    earlier = _read(path, list(split))
    for name, indices in split.items():
        if not np.array_equal(earlier[name], indices):
            raise RequestError(
                f"{path}: this run began with another choice of {name} images, "
                f"{changed}"
            )
    data = files.read_json(os.path.join(folder, workdir.DATA_FILE)) or {}
    older = DIGEST not in data
    saved = data.get(_OLDER if older else DIGEST)
    now = digest(task, older=True) if older and saved else content
    if saved not in (None, now):
        raise RequestError(
            f"{folder}: this run began with other images or labels of the same number, "
            f"{changed}"
        )


def _check_pictures(folder: str, task: Task):
    """Compares a user's pictures one by one with those that the run began with."""
    now = columns(task)
    if not now:
        return
    earlier = _read(os.path.join(folder, workdir.PICTURES_FILE), list(now))
    way_out = f"restore them, {_ANEW}"
    # The choice of test pictures follows from all labelled ones, so these come first.
    for what, parts in _GROUPS.items():
        before, after = (_by_content(pictures, parts) for pictures in (earlier, now))
        changed = {**after, **before}.keys() - (after.keys() & before.keys())
        if changed:
            names = sorted({**before, **after}[content] for content in changed)
            raise RequestError(
                f"{folder}: this run began with other {what} pictures, or with others "
                f"of their classes: {len(after.keys() - before.keys())} are new, "
                f"{len(before.keys() - after.keys())} are gone, such as {names[0]}; "
                f"{way_out}"
            )
        for part in parts:
            name = f"{part}_digests"
            if not np.array_equal(earlier[name], now[name]):
                raise RequestError(
                    f"{folder}: this run began with the same {what} pictures in "
                    "another order or number: files were renamed or copied, or a "
                    f"test set is named now and was not then; {way_out}"
                )


def _by_content(
    pictures: dict[str, np.ndarray], parts: Sequence[str]
) -> dict[tuple[bytes, int], str]:
    """Returns {(digest, label or -1): name} of all pictures of some parts."""
    names = {}
    for part in parts:
        digests = pictures[f"{part}_digests"].tolist()
        labels = pictures.get(f"{part}_labels", np.full(len(digests), -1)).tolist()
        keys = zip(digests, labels, strict=True)
        names |= dict(zip(keys, pictures[f"{part}_names"].tolist(), strict=True))
    return names


def _read(path: str, names: list[str]) -> dict[str, np.ndarray]:
    """Returns arrays of a .npz file; RequestError if it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as saved:
            return {name: saved[name] for name in names}
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as e:
        raise RequestError(
            f"{path} cannot be read ({e}), so nothing tells which images this run "
            f"began with; restore it, {_ANEW}"
        ) from None
