"""Image files of any kind and size: found by name, read to one size, many at once."""

import concurrent.futures
import dataclasses
import glob
import os
from collections.abc import Iterator, Sequence

import numpy as np

from rsmatch_jax.data import image_source
from rsmatch_jax.data.dataset_folder import natural_key
from rsmatch_jax.errors import RequestError

_AHEAD = 2  # batches that are read while another is used
_THREADS = min(16, os.cpu_count() or 1)


@dataclasses.dataclass(frozen=True)
class Loaded:
    """One file: pixels uint8 [S, S, 3], or None and the reason.

    size: width and height in the file. changes: what was done to them, in words.
    """

    path: str
    pixels: np.ndarray | None
    size: tuple[int, int] = (0, 0)
    changes: tuple[str, ...] = ()
    reason: str = ""


def find(names: Sequence[str]) -> list[str]:
    """Paths of all images meant: files as they are, those below a folder, those that
    match a pattern, in natural order and each once.

    Raises RequestError where a name means nothing.
    """
    found: dict[str, None] = {}
    for name in names:
        path = os.path.expanduser(name)
        if os.path.isdir(path):
            images, _ = image_source.in_folder(path)
            paths = [os.path.join(path, file.path) for file in images]
            if not paths:
                raise RequestError(
                    f"{name}: there is no image in this folder "
                    f"({', '.join(image_source.SUFFIXES)})"
                )
        elif os.path.exists(path):
            paths = [path]
        else:
            matching = glob.glob(path, recursive=True)
            paths = sorted(filter(os.path.isfile, matching), key=natural_key)
            if not paths:
                raise RequestError(
                    f"{name}: there is no such file or folder"
                    if path == glob.escape(path)
                    else f"{name}: no file matches this pattern"
                )
        found.update(dict.fromkeys(paths))
    return list(found)


def batches(paths: Sequence[str], size: int, count: int) -> Iterator[list[Loaded]]:
    """The files in their order, `count` at a time, read and decoded by threads that
    are a little ahead."""
    starts = range(0, len(paths), count)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:

        def begin(start):
            return [
                pool.submit(load, path, size) for path in paths[start : start + count]
            ]

        under_way = [begin(start) for start in starts[:_AHEAD]]
        for start in starts[_AHEAD:]:
            yield [future.result() for future in under_way.pop(0)]
            under_way.append(begin(start))
        for futures in under_way:
            yield [future.result() for future in futures]


def load(path: str, size: int) -> Loaded:
    """One file, brought to `size` x `size` as `image_source.fit` does."""
    try:
        picture = image_source.fit(image_source.read_file(path), size)
    except image_source.Unreadable as e:
        return Loaded(path, None, reason=str(e))
    return Loaded(path, picture.pixels, picture.original, picture.changes)
