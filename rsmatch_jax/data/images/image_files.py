"""Image files of any type and size: finds them by name and loads them in batches."""

import dataclasses
import glob
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from rsmatch_jax.data.images import image_source
from rsmatch_jax.data.stores import encoded
from rsmatch_jax.data.stores.dataset_folder import natural_key
from rsmatch_jax.errors import RequestError
from rsmatch_jax.runtime.ahead import ahead

_AHEAD = 2  # batches that are read while another is used
_MOST_THREADS = 16
_TURN = 16  # files that a thread reads in one go


@dataclasses.dataclass(frozen=True)
class Loaded:
    """One file: pixels uint8 [S, S, 3], or None and the reason.

    size: width and height in the file. changes: what was done to the image, in words.
    """

    path: str
    pixels: np.ndarray | None
    size: tuple[int, int] = (0, 0)
    changes: tuple[str, ...] = ()
    reason: str = ""


def find(
    names: Sequence[str], note: Callable[[str], None] = lambda line: None
) -> list[str]:
    """Returns the paths of all images that `names` mean, each once.

    A name is a file, a folder (all files below it with an image's suffix, in natural
    order), or a pattern; RequestError if it means no image.
    note: gets a line for each folder with other files, which are left out.
    """
    paths: dict[str, None] = {}
    suffixes = ", ".join(image_source.SUFFIXES)
    for name in names:
        path = os.path.expanduser(name)
        if os.path.isdir(path):
            images, others = image_source.in_folder(path)
            if not images:
                raise RequestError(
                    f"{name}: there is no image in this folder ({suffixes})"
                )
            if others:
                note(
                    f"{name}: {len(others)} of {len(images) + len(others)} files are "
                    f"left out, such as {others[0].path}: an image in a folder ends in "
                    f"{suffixes}"
                )
            matches = [os.path.join(path, file.path) for file in images]
        elif os.path.exists(path):
            matches = [path]
        else:
            matches = filter(os.path.isfile, glob.glob(path, recursive=True))
            matches = sorted(matches, key=natural_key)
            if not matches:
                raise RequestError(
                    f"{name}: there is no such file or folder"
                    if path == glob.escape(path)
                    else f"{name}: no file matches this pattern"
                )
        paths.update(dict.fromkeys(matches))
    return list(paths)


def batches(
    paths: Sequence[str], size: int, count: int, *, central: bool = False
) -> Iterator[list[Loaded]]:
    """Yields what `load` returns, `count` files at a time; threads work ahead."""

    def load_all(part: Sequence[str]) -> list[Loaded]:
        return [load(path, size, central=central) for path in part]

    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        started = (
            [
                pool.submit(load_all, paths[i : min(i + _TURN, start + count)])
                for i in range(start, min(start + count, len(paths)), _TURN)
            ]
            for start in range(0, len(paths), count)
        )
        try:
            for futures in ahead(started, _AHEAD):
                yield [loaded for future in futures for loaded in future.result()]
        finally:
            pool.shutdown(cancel_futures=True)


def load(path: str, size: int, *, central: bool = False) -> Loaded:
    """Loads one file at `size` x `size`, as the importer does (`image_source.fit`).

    central: gives the view that encoded datasets (data.image_size) are evaluated on
    (`encoded.central_view`), whatever size the image has.
    """
    try:
        picture = image_source.decode(image_source.read_file(path))
    except image_source.Unreadable as e:
        return Loaded(path, None, reason=str(e))
    if not central:
        picture = image_source.square(picture, size)
        return Loaded(path, picture.pixels, picture.original, picture.changes)
    changes = (
        *picture.changes,
        f"cropped to {encoded.CENTRE:g} of its central square",
        image_source.resized_from(picture.original),
    )
    pixels = encoded.central_view(picture.rgb, size)
    return Loaded(path, pixels, picture.original, changes)
