"""CSV files that name images and what is known of them, such as their classes."""

import csv
import functools
import os
from collections.abc import Callable, Collection, Sequence

from rsmatch_jax.data.images import image_source, kinds
from rsmatch_jax.data.images.folder_tree import some
from rsmatch_jax.data.images.image_source import File
from rsmatch_jax.data.stores.dataset_folder import natural_key
from rsmatch_jax.errors import RequestError
from rsmatch_jax.terminal import say

Row = tuple[int, dict[str, str]]  # number of the line, {column: text}


def labelled(
    path: str, flag: str = "--source", note: Callable[[str], None] = say
) -> list[tuple[File, str]]:
    """Returns the images and classes of a CSV `path,label`, in natural order.

    Paths are relative to the CSV's folder. flag: names the CSV in messages. note: takes
    a line about unused columns, and about images without a row beside those with one.
    Raises RequestError if the CSV cannot be read, or a row has no file or no class, or
    two rows name one file.
    """
    rows = read(path, flag, ("path", "label"), note=note)
    folder, first, absent, pairs = os.path.dirname(path), {}, [], []
    for line, values in rows:
        name = values["path"]
        place = os.path.join(folder, name)
        if not os.path.isfile(place):
            absent.append(f"{name} (line {line})")
            continue
        other = first.setdefault(os.path.realpath(place), line)
        if other != line:
            twice = f"lines {other} and {line} name the same file, {name}"
            raise RequestError(f"{flag}={path}: {twice}; drop one of them")
        file = File(name, functools.partial(image_source.read_file, place))
        pairs.append((file, values["label"]))
    if absent:
        reason = f"rows without a file below the CSV's folder: {some(absent)}"
        raise RequestError(
            f"{flag}={path} has {len(absent)} {reason}; correct the paths, or drop them"
        )
    if beside := _images_beside(first):
        note(f"{flag}={path}: {len(beside)} images have no row: {some(beside)}")
    return sorted(pairs, key=lambda pair: natural_key(pair[0].path))


def read(
    path: str,
    flag: str,
    needed: Sequence[str],
    optional: Sequence[str] = (),
    note: Callable[[str], None] = say,
) -> list[Row]:
    """Returns the rows of a CSV with a header, without outer spaces and empty lines.

    note: takes a line about other columns. Raises RequestError if a needed column or
    value is absent.
    """
    label = f"{flag}={path}"
    try:
        with open(path, encoding="utf-8-sig", newline="") as f:
            reader = csv.reader(f, strict=True)
            lines = [(reader.line_num, row) for row in reader if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise RequestError(f"{label} cannot be read as a CSV: {e}") from None
    _, header = lines[0] if lines else (0, [])
    names = [name.strip().lower() for name in header]
    columns = (*needed, *optional)
    if any(names.count(name) != 1 for name in needed):
        reason = f"begins with {','.join(header)!r}, not with {','.join(columns)!r}"
        raise RequestError(f"{label} {reason}, the names of its columns")
    if unused := [name for name in names if name not in columns]:
        note(f"{label}: columns that are not used: {some(unused)}")
    rows = []
    for line, cells in lines[1:]:
        if len(cells) != len(names):
            reason = f"line {line} has {len(cells)} values, the header {len(names)}"
            raise RequestError(f"{label}: {reason}; quote values that hold commas")
        values = dict(zip(names, (cell.strip() for cell in cells), strict=True))
        for name in needed:
            if not values[name]:
                raise RequestError(f"{label}: line {line} has no {name}")
        rows.append((line, {name: values[name] for name in columns if name in values}))
    if not rows:
        raise RequestError(f"{label} has no rows below its header")
    return rows


def _images_beside(listed: Collection[str]) -> list[str]:
    """Returns the images in the folders of these real paths that are not listed."""
    return [
        path
        for folder in sorted(set(map(os.path.dirname, listed)))
        for name in sorted(os.listdir(folder), key=natural_key)
        if kinds.is_image(name)
        and os.path.realpath(path := os.path.join(folder, name)) not in listed
    ]
