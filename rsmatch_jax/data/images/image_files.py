"""Image files of any kind and size: found by name, read to one size, many at once."""

import collections
import concurrent.futures
import dataclasses
import glob
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from rsmatch_jax.data.images import image_source
from rsmatch_jax.data.stores import encoded
from rsmatch_jax.data.stores.dataset_folder import natural_key
from rsmatch_jax.errors import RequestError

_AHEAD = 2  # batches that are read while another is used
_MOST_THREADS = 16
_TURN = 16  # files that a thread reads in one go


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


def find(
    names: Sequence[str], note: Callable[[str], None] = lambda line: None
) -> list[str]:
    """Paths of all images meant: files as they are, those below a folder that are
    called as images are, those that match a pattern, in natural order and each once.

    note: is told of other files in folders, which are left out. Raises: RequestError
    where a name means nothing.
    """
    found: dict[str, None] = {}
    for name in names:
        path = os.path.expanduser(name)
        if os.path.isdir(path):
            paths = _in_folder(name, path, note)
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


def _in_folder(name: str, path: str, note: Callable[[str], None]) -> list[str]:
    images, others = image_source.in_folder(path)
    suffixes = ", ".join(image_source.SUFFIXES)
    if not images:
        raise RequestError(f"{name}: there is no image in this folder ({suffixes})")
    if others:
        note(
            f"{name}: {len(others)} of {len(images) + len(others)} files are left out, "
            f"such as {others[0].path}: an image in a folder ends in {suffixes}"
        )
    return [os.path.join(path, file.path) for file in images]


def batches(
    paths: Sequence[str], size: int, count: int, *, central: bool = False
) -> Iterator[list[Loaded]]:
    """The files in their order, `count` at a time, as `load` gives them: by threads
    that are a little ahead."""
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:

        def begin(start):
            rows = paths[start : start + count]
            return [
                pool.submit(_load_all, rows[i : i + _TURN], size, central)
                for i in range(0, len(rows), _TURN)
            ]

        under_way: collections.deque = collections.deque()
        try:
            for start in range(0, len(paths), count):
                under_way.append(begin(start))
                if len(under_way) > _AHEAD:
                    yield _results(under_way.popleft())
            while under_way:
                yield _results(under_way.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _load_all(paths: Sequence[str], size: int, central: bool) -> list[Loaded]:
    return [load(path, size, central=central) for path in paths]


def _results(futures: Sequence[concurrent.futures.Future]) -> list[Loaded]:
    return [loaded for future in futures for loaded in future.result()]


def load(path: str, size: int, *, central: bool = False) -> Loaded:
    """One file at `size` x `size`: its central square by an area mean, as the importer
    makes it (`image_source.fit`), where it has another size.

    central: of encoded sets (data.image_size) the view that their evaluation takes
    (`encoded.central_view`), whatever the file's size.
    """
    try:
        found = image_source.decode(image_source.read_file(path))
    except image_source.Unreadable as e:
        return Loaded(path, None, reason=str(e))
    if not central:
        picture = image_source.square(found, size)
        return Loaded(path, picture.pixels, found.original, picture.changes)
    changes = (
        *found.changes,
        f"cropped to {encoded.CENTRE:g} of its central square",
        image_source.resized_from(found.original),
    )
    pixels = encoded.central_view(found.rgb, size)
    return Loaded(path, pixels, found.original, changes)
