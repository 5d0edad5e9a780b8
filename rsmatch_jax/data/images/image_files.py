"""Image files of any type and size, found by name and loaded in batches."""

import dataclasses
import fnmatch
import glob
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from rsmatch_jax.data.images import (
    alpha,
    compression,
    folder_tree,
    image_source,
    kinds,
)
from rsmatch_jax.data.images.compression import Jpeg
from rsmatch_jax.data.stores import encoded
from rsmatch_jax.data.stores.dataset_folder import natural_key
from rsmatch_jax.errors import RequestError, RunFailed
from rsmatch_jax.runtime.ahead import ahead

_AHEAD = 2  # batches that are read while another is used
_MOST_THREADS = 16
_TURN = 16  # files that a thread reads in one go


@dataclasses.dataclass(frozen=True)
class Loaded:
    """One file: pixels uint8 [S, S, 3], or None and the reason; else see `Picture`."""

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
    order), or a pattern. note: takes a line for each folder with other files.
    """
    paths: dict[str, None] = {}
    suffixes = ", ".join(kinds.suffixes())
    for name in names:
        path = os.path.expanduser(name)
        if os.path.isdir(path):
            images, others, lines = image_source.in_folder(path)
            lines += kinds.unread(file.path for file in others)
            if not images:
                reason = f"there is no image in this folder ({suffixes})"
                raise RequestError("; ".join([f"{name}: {reason}", *lines]))
            for line in lines:
                note(f"{name}: {line}")
            if others:
                count = f"{len(others)} of {len(images) + len(others)} files"
                example = f"{count} are left out, such as {others[0].path}"
                note(f"{name}: {example}: an image in a folder ends in {suffixes}")
            matches = [os.path.join(path, file.path) for file in images]
        elif os.path.exists(path):
            matches = [path]
        else:
            matches = sorted(_matches(path), key=natural_key)
            if not matches and path == glob.escape(path):
                raise RequestError(f"{name}: there is no such file or folder")
            if not matches:
                raise RequestError(f"{name}: no file matches this pattern")
        paths.update(dict.fromkeys(matches))
    return list(paths)


def _matches(pattern: str) -> Iterator[str]:
    """Yields the files of a pattern; ** goes into each folder once, unlike glob's."""
    start, *middle = re.split(r"(?:^|(?<=/))\*\*(?=/|$)", pattern, maxsplit=1)
    if not middle:
        yield from filter(os.path.isfile, glob.glob(pattern))
        return
    parts = pattern.removeprefix(start).split("/")
    for folder in filter(os.path.isdir, glob.glob(start) if start else [os.curdir]):
        for below in folder_tree.Tree(folder).files.values():
            if _fits(below.split("/"), parts):
                yield os.path.join(folder, below) if start else below


def _fits(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether a path's names match a pattern's parts, in glob's sense."""
    if not names or not parts:
        return not names and all(part == "**" for part in parts)
    hidden = names[0].startswith(".") and not parts[0].startswith(".")
    if parts[0] == "**":
        return _fits(names, parts[1:]) or (not hidden and _fits(names[1:], parts))
    fits = not hidden and fnmatch.fnmatch(names[0], parts[0])
    return fits and _fits(names[1:], parts[1:])


def batches(
    paths: Sequence[str],
    size: int,
    count: int,
    *,
    central: bool = False,
    background: str = alpha.BACKGROUND,
    stored_as: Sequence[Jpeg | None] = (),
) -> Iterator[list[Loaded]]:
    """Yields what `load` returns, `count` files at a time; threads work ahead.
    stored_as: of each file."""

    def load_all(part: range) -> list[Loaded]:
        return [
            load(
                paths[i],
                size,
                central=central,
                background=background,
                stored_as=stored_as[i] if stored_as else None,
            )
            for i in part
        ]

    def start(first: int) -> list[Future[list[Loaded]]]:
        batch = range(len(paths))[first : first + count]
        turns = (batch[i : i + _TURN] for i in range(0, len(batch), _TURN))
        return [pool.submit(load_all, turn) for turn in turns]

    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        try:
            for futures in ahead(map(start, range(0, len(paths), count)), _AHEAD):
                yield [loaded for future in futures for loaded in future.result()]
        finally:
            pool.shutdown(cancel_futures=True)


def load(
    path: str,
    size: int,
    *,
    central: bool = False,
    background: str = alpha.BACKGROUND,
    stored_as: Jpeg | None = None,
) -> Loaded:
    """Loads one file. central: as encoded datasets (data.image_size) are evaluated.
    background: the colour that transparent pictures are put on. stored_as: how it is
    compressed once more."""
    try:
        picture = image_source.decode(image_source.read_file(path), background)
        if stored_as is not None:
            picture = compression.again(picture, stored_as)
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


def require_readable(unreadable: Mapping[str, str], count: int, done: str):
    """Raises RunFailed with the list of unreadable files, {path: reason}, if any."""
    if unreadable:
        others = f", the others are {done}" if len(unreadable) < count else ""
        raise RunFailed(
            f"{len(unreadable)} of {count} files could not be read{others}:\n"
            + "\n".join(f"  {path}: {why}" for path, why in unreadable.items())
        )
