"""Pictures as people have them: labelled ones in class folders or a CSV, and unlabelled
ones of unknown origin in any folders and archives."""

import contextlib
import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from rsmatch_jax.data.images import class_folders, image_source, kinds, label_table
from rsmatch_jax.data.images.folder_tree import some
from rsmatch_jax.data.images.image_source import File
from rsmatch_jax.data.images.import_plan import UNLABELLED
from rsmatch_jax.data.rs_ssl import REAL, UNKNOWN
from rsmatch_jax.data.stores.arrays import REAL_ORIGIN
from rsmatch_jax.data.stores.dataset_folder import natural_key
from rsmatch_jax.errors import RequestError

NOT_KNOWN = "unknown"  # an entry of the column `origin`


@dataclasses.dataclass(frozen=True)
class Collection:
    """Picture files in natural order. names: of the files, below their source; unique.
    labels: int32 [N], -1 = unknown. notes: lines about what was entered or left out."""

    files: tuple[File, ...]
    names: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Origins:
    """What a CSV says of unlabelled pictures. origins: int32 [N], rs_ssl.REAL, UNKNOWN
    or a position in generator_names; labels: int32 [N], -1 = unknown. notes: lines
    about what is not used."""

    origins: np.ndarray
    labels: np.ndarray
    generator_names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def labelled(
    stack: contextlib.ExitStack, source: str, key: str, classes: Sequence[str] = ()
) -> Collection:
    """Reads labelled pictures: class folders, an archive of them, or a CSV `path,label`
    with paths relative to it. An archive stays open until `stack` closes.

    key: of the config, for messages. classes: the class names; the labels that occur,
    in natural order, by default.
    """
    path = os.path.abspath(os.path.expanduser(source))
    notes: list[str] = []
    if path.lower().endswith(".csv"):
        pairs = label_table.labelled(path, key, notes.append)
    else:
        pairs = _class_folders(_opened(stack, path, key, notes), key, path, notes)
    labels = sorted({label for _, label in pairs}, key=natural_key)
    names = tuple(classes or labels)
    unlisted = [label for label in labels if label not in names]
    if unlisted:
        raise RequestError(
            f"{key}={source} has the classes {some(unlisted)}, which data.labeled has "
            f"not ({some(names)}); rename or remove them"
        )
    if len(names) < 2:
        raise RequestError(
            f"{key}={source} has one class, {names[0]}; a classifier needs pictures of "
            "two or more, in a folder per class"
        )
    position = {name: label for label, name in enumerate(names)}
    return Collection(
        files=tuple(file for file, _ in pairs),
        names=tuple(file.path for file, _ in pairs),
        labels=np.array([position[label] for _, label in pairs], np.int32),
        class_names=names,
        notes=tuple(notes),
    )


def unlabelled(stack: contextlib.ExitStack, sources: str, key: str) -> Collection:
    """Reads unlabelled pictures: folder trees and archives, joined by commas."""
    path = os.path.expanduser(sources)
    parts = [sources] if os.path.exists(path) else sources.split(",")
    parts = [part.strip() for part in parts if part.strip()]
    if not parts:
        raise RequestError(f"{key}={sources} names no folder")
    files, names, notes = [], [], []
    for part, prefix in zip(parts, _prefixes(parts), strict=True):
        path = os.path.abspath(os.path.expanduser(part))
        images = _opened(stack, path, key, notes)
        files += images
        names += [prefix + file.path for file in images]
    labels = np.full(len(files), -1, np.int32)
    return Collection(tuple(files), tuple(names), labels, notes=tuple(notes))


def origins(
    source: str, names: Sequence[str], class_names: Sequence[str], key: str
) -> Origins:
    """Reads a CSV `path,origin[,label]` about the unlabelled pictures of these names.

    origin: real, synthetic, a generator's name, or unknown. label: a class, or empty.
    """
    # Exact names come first; a CSV's cells have no outer spaces.
    position = {name.strip(): row for row, name in enumerate(names)}
    position |= {name: row for row, name in enumerate(names)}
    classes = {name: label for label, name in enumerate(class_names)}
    generators: dict[str, int] = {}
    known = np.full(len(names), UNKNOWN, np.int32)
    labels = np.full(len(names), -1, np.int32)
    path = os.path.abspath(os.path.expanduser(source))
    notes: list[str] = []
    columns = ("path", "origin"), ("label",)
    for line, row in label_table.read(path, key, *columns, notes.append):
        where = f"{key}={source}, line {line}"
        name = row["path"]
        if name not in position:
            name = name.replace("\\", "/").removeprefix("./")
        if name not in position:
            raise RequestError(
                f"{where}: {row['path']} is none of the unlabelled pictures, such as "
                f"{names[0]}; correct the path, which is relative to data.unlabeled"
            )
        origin, label = row["origin"], row.get("label", "")
        if label and label not in classes:
            raise RequestError(
                f"{where}: {label} is none of the classes {some(class_names)}; "
                "correct it, or leave it empty"
            )
        if origin.lower() == REAL_ORIGIN:
            known[position[name]] = REAL
        elif origin.lower() != NOT_KNOWN:
            known[position[name]] = generators.setdefault(origin, len(generators))
        if label:
            labels[position[name]] = classes[label]
    return Origins(known, labels, tuple(generators), tuple(notes))


def _class_folders(
    images: Sequence[File], key: str, source: str, notes: list[str]
) -> list[tuple[File, str]]:
    """Returns the files with their class, the first folder of the path."""
    what = f"{key}={source}"
    paths = [file.path.split("/")[:-1] for file in images]
    wrapping = paths[0][:1]
    if wrapping and all(len(path) > 1 and path[:1] == wrapping for path in paths):
        notes.append(f"{what}: entered its only folder, {wrapping[0]}")
        paths = [path[1:] for path in paths]
    flat = [file.path for file, path in zip(images, paths, strict=True) if not path]
    if flat:
        raise RequestError(
            f"{what}: {flat[0]} lies in no class folder; put the pictures of each "
            "class into a folder of its name, or name a CSV with the columns path,label"
        )
    tops = {path[0] for path in paths}
    nameless = [top for top in tops if class_folders.split_of(top) == UNLABELLED]
    if nameless:
        raise RequestError(
            f"{what} has the folder {nameless[0]}, which is no class; move it out of "
            "there and name it in data.unlabeled"
        )
    if all(class_folders.split_of(top) for top in tops):
        raise RequestError(
            f"{what} has the folders {some(sorted(tops))} in place of classes; name "
            f"one of them, such as data.labeled={source}/{min(tops)}, and another in "
            "data.test"
        )
    return [(file, path[0]) for file, path in zip(images, paths, strict=True)]


def _prefixes(sources: Sequence[str]) -> list[str]:
    """Returns the shortest ends of several paths that differ, with a slash; else ""."""
    if len(sources) == 1:
        return [""]
    parts = [os.path.abspath(os.path.expanduser(s)).split(os.sep) for s in sources]
    for depth in range(1, max(map(len, parts)) + 1):
        ends = ["/".join(p[-depth:]).strip("/") + "/" for p in parts]
        if len(set(ends)) == len(ends):
            return ends
    raise RequestError(f"data.unlabeled={','.join(sources)} names a folder twice")


def _opened(
    stack: contextlib.ExitStack, path: str, key: str, notes: list[str]
) -> list[File]:
    """Returns the pictures of a folder or archive; RequestError if there are none."""
    source = image_source.open_source(path, key, notes.append)
    images, others = stack.enter_context(source)
    if not images:
        raise RequestError(
            f"{key}={path} has no pictures (files that end in "
            f"{', '.join(kinds.suffixes())})"
        )
    if others:
        example = f"{len(others)} files are no pictures, such as {others[0].path}"
        notes.append(f"{key}={path}: {example}")
    return images
