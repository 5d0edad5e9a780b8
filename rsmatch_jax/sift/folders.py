"""Sorts pictures into folders by verdict and class, as links or copies."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from rsmatch_jax import files
from rsmatch_jax.data.images import image_source
from rsmatch_jax.errors import RequestError
from rsmatch_jax.metrics import verdicts
from rsmatch_jax.sift.rows import Row

_PARTIAL = ".rsmatch-partial"  # in a folder that is being filled


class Source(NamedTuple):
    """Where a row's picture comes from. file: its path on disk, None in an archive;
    read() returns the bytes of its file."""

    file: str | None
    read: Callable[[], bytes]


def check(flag: str, folder: str):
    """Raises RequestError if --link or --copy=`folder` cannot be filled."""
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise RequestError(f"--{flag}={folder} is no folder; choose another name")
    if os.path.isdir(folder) and set(os.listdir(folder)) - {_PARTIAL}:
        raise RequestError(
            f"--{flag}={folder} is not empty; empty it or choose another folder"
        )


def check_outside(flag: str, folder: str, inputs: Sequence[tuple[str, str]]):
    """Raises RequestError if --flag=`folder` lies in a folder of pictures that are
    read, (key, place), because the next command would read what this one makes."""
    for key, place in inputs:
        around = os.path.realpath(files.absolute(place))
        if files.contains(around, os.path.realpath(files.absolute(folder))):
            raise RequestError(
                f"--{flag}={folder} lies in {key}={place}, so that the next command "
                "would take what this one makes for pictures; choose a folder outside"
            )


def fill(flag: str, folder: str, rows: Sequence[Row], sources: Sequence[Source]):
    """Makes folder/VERDICT/CLASS/NAME of each row, without CLASS if it has none.

    They appear at the end, so that the same command can start over before. A name that
    is taken gets a number. flag: "link" makes links to the real files,
    "copy" copies them, also out of archives.

    Raises:
        RequestError: there are no verdicts, a file to link lies in an archive, or the
            folder has content or cannot be written.
    """
    check(flag, folder)
    if any(row.verdict is None for row in rows):
        raise RequestError(
            f"--{flag}={folder}: there are no verdicts to sort by, because too few "
            "real pictures were held out to set a threshold; leave the flag out"
        )
    packed = [r.path for r, s in zip(rows, sources, strict=True) if s.file is None]
    if flag == "link" and packed:
        raise RequestError(
            f"--link={folder}: {packed[0]} lies in an archive, as {len(packed)} "
            f"pictures do, and cannot be linked; use --copy={folder}"
        )
    partial = os.path.join(folder, _PARTIAL)
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a command that was killed
        for verdict in verdicts.VERDICTS:
            os.makedirs(os.path.join(partial, verdict))
        for place, source in zip(_places(partial, rows), sources, strict=True):
            if flag == "link" and source.file is not None:
                os.symlink(os.path.realpath(source.file), place)
            else:
                with open(place, "xb") as f:
                    f.write(source.read())
        for verdict in verdicts.VERDICTS:
            os.rename(os.path.join(partial, verdict), os.path.join(folder, verdict))
    except (OSError, image_source.Unreadable) as e:
        raise RequestError(
            f"--{flag}={folder} cannot be filled: {e}; choose another folder"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _places(folder: str, rows: Sequence[Row]) -> Iterator[str]:
    """Yields the new paths, all different, and makes their folders."""
    taken: set[str] = set()
    numbers: Counter[str] = Counter()
    for row in rows:
        name = row.class_name.replace(os.sep, "_")
        # A folder that begins with a dot would be hidden, or be another one.
        name = f"_{name}" if name.startswith(".") else name
        parent = os.path.join(folder, row.verdict or "", name)
        os.makedirs(parent, exist_ok=True)
        wish = place = os.path.join(parent, os.path.basename(row.path))
        stem, suffix = os.path.splitext(wish)
        while place.casefold() in taken:  # some file systems know no case
            numbers[wish.casefold()] += 1
            place = f"{stem}-{numbers[wish.casefold()] + 1}{suffix}"
        taken.add(place.casefold())
        yield place
