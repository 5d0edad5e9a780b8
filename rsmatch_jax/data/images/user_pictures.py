"""Pictures as people have them: labelled ones in class folders or a CSV, and unlabelled
ones of unknown origin in trees of folders, or archives."""

import contextlib
import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from rsmatch_jax import files as paths
from rsmatch_jax.data.images import class_folders, image_source, kinds, label_table
from rsmatch_jax.data.images.folder_tree import some
from rsmatch_jax.data.images.image_source import File
from rsmatch_jax.data.images.import_plan import UNLABELLED
from rsmatch_jax.data.rs_ssl import REAL, UNKNOWN
from rsmatch_jax.data.stores.arrays import REAL_ORIGIN
from rsmatch_jax.data.stores.dataset_folder import natural_key
from rsmatch_jax.errors import RequestError
from rsmatch_jax.terminal import counted


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
    """What is known of unlabelled pictures. origins: int32 [N], rs_ssl.REAL, UNKNOWN or
    a position in generator_names; labels: int32 [N], -1 = unknown. notes: lines about
    what is not used."""

    origins: np.ndarray
    labels: np.ndarray
    generator_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def labelled(
    stack: contextlib.ExitStack, source: str, key: str, classes: Sequence[str] = ()
) -> Collection:
    """Reads labelled pictures: class folders, an archive of them, or a CSV `path,label`
    with paths relative to it. An archive stays open until `stack` closes.

    key: of the config, for messages. classes: the class names; the labels that occur,
    in natural order, by default.
    """
    path = paths.absolute(source)
    notes: list[str] = []
    if path.lower().endswith(".csv"):
        pairs = label_table.labelled(path, key, notes.append)
    else:
        pairs = _class_folders(_opened(stack, path, key, notes), f"{key}={path}", notes)
    labels = sorted({label for _, label in pairs}, key=natural_key)
    names = tuple(classes or labels)
    if unlisted := [label for label in labels if label not in names]:
        raise RequestError(
            f"{key}={source} has the classes {some(unlisted)}, which data.labeled has "
            f"not ({some(names)}); rename or remove them"
        )
    if len(names) < 2:
        raise RequestError(
            f"{key}={source} has one class, {names[0]}; a classifier needs pictures of "
            "two or more, in a folder per class"
        )
    notes += [f"{key}={path}: {line}" for line in class_folders.notes_on_case(names)]
    position = {name: label for label, name in enumerate(names)}
    return Collection(
        files=tuple(file for file, _ in pairs),
        names=tuple(file.path for file, _ in pairs),
        labels=np.array([position[label] for _, label in pairs], np.int32),
        class_names=names,
        notes=tuple(notes),
    )


def unlabelled(stack: contextlib.ExitStack, sources: str) -> Collection:
    """Reads unlabelled pictures: folder trees and archives, joined by commas."""
    key = "data.unlabeled"
    places = [paths.absolute(part) for part in parts(sources)]
    files, names, notes = [], [], []
    for place, prefix in zip(places, _prefixes(places), strict=True):
        images = _opened(stack, place, key, notes)
        files += images
        names += [prefix + file.path for file in images]
    labels = np.full(len(files), -1, np.int32)
    return Collection(tuple(files), tuple(names), labels, notes=tuple(notes))


def parts(sources: str) -> list[str]:
    """Returns the places that are joined by commas; what exists is one place."""
    if os.path.exists(os.path.expanduser(sources)):
        return [sources]
    stripped = [part.strip() for part in sources.split(",")]
    if not any(stripped):
        raise RequestError(f"data.unlabeled={sources} names no folder")
    return [part for part in stripped if part]


def origins(
    source: str | None,
    names: Sequence[str],
    class_names: Sequence[str],
    left_out: Sequence[str] = (),
) -> Origins:
    """Reads a CSV `path,origin[,label]`, if any, about the unlabelled pictures of these
    names. origin: real, synthetic, a generator's name, or unknown. label: or empty.
    left_out: names of files that could not be read, whose rows are skipped."""
    of_pictures = np.full(len(names), UNKNOWN, np.int32)
    labels = np.full(len(names), -1, np.int32)
    if source is None:
        return Origins(of_pictures, labels)
    # Exact names come first; a CSV's cells have no outer spaces.
    listed = [*names, *left_out]
    position = {name.strip(): row for row, name in enumerate(listed)}
    position |= {name: row for row, name in enumerate(listed)}
    generators: dict[str, int] = {}
    lines: dict[int, int] = {}  # of each picture
    notes, skipped = [], []
    columns = ("path", "origin"), ("label",)
    path, key = paths.absolute(source), "data.origins"
    for line, row in label_table.read(path, key, *columns, notes.append):
        where = f"{key}={source}, line {line}"
        name, origin, label = row["path"], row["origin"], row.get("label", "")
        if name not in position:
            name = name.replace("\\", "/").removeprefix("./")
        if name not in position:
            raise RequestError(
                f"{where}: {row['path']} is none of the unlabelled pictures, such as "
                f"{names[0]}; correct the path, which is relative to data.unlabeled"
            )
        if label and label not in class_names:
            raise RequestError(
                f"{where}: {label} is none of the classes {some(class_names)}; "
                "correct it, or leave it empty"
            )
        picture = position[name]
        if (other := lines.setdefault(picture, line)) != line:
            raise RequestError(
                f"{where}: {name} is in line {other} too; drop one of them"
            )
        if picture >= len(names):
            skipped.append(name)
            continue
        if origin.lower() == REAL_ORIGIN:
            of_pictures[picture] = REAL
        elif origin.lower() != "unknown":
            of_pictures[picture] = generators.setdefault(origin, len(generators))
        if label:
            labels[picture] = class_names.index(label)
    if skipped:
        notes.append(
            f"{key}={source}: rows about unlabelled files that are no complete "
            f"pictures, not used: {some(skipped)}"
        )
    return Origins(of_pictures, labels, tuple(generators), tuple(notes))


def _class_folders(
    images: Sequence[File], what: str, notes: list[str]
) -> list[tuple[File, str]]:
    """Returns the files with their class, the first folder of the path.

    Unlike an import, whose exact layouts tell splits and generators from classes, it
    takes folders inside a class for parts of it.
    """
    placed, wrapper = class_folders.placed(images)
    if wrapper:
        notes.append(f"{what}: entered its only folder, {wrapper}")
    flat = [file.path for file, folders in placed if not folders]
    if flat:
        raise RequestError(
            f"{what}: {flat[0]} lies in no class folder; put the pictures of each "
            "class into a folder of its name, or name a CSV with the columns path,label"
        )
    tops = sorted({folders[0] for _, folders in placed}, key=natural_key)
    split_of = {top: class_folders.split_of(top) for top in tops}
    nameless = [top for top in tops if split_of[top] == UNLABELLED]
    if nameless:
        raise RequestError(
            f"{what} has the folder {nameless[0]}, which is no class; move it out of "
            "there and name it in data.unlabeled"
        )
    splits = [top for top in tops if split_of[top]]
    if splits == tops:
        first = min(tops, key=lambda top: split_of[top] != "train")
        place = os.path.join(what.partition("=")[2], wrapper, first)
        way_out = f"name one of them, such as data.labeled={place}, and another in"
        if not os.path.isdir(place):
            way_out = "unpack the archive, and name one of them here and another in"
        raise RequestError(
            f"{what} has the folders {some(tops)} in place of classes; {way_out} "
            "data.test"
        )
    notes += [f"{what}: {line}" for line in class_folders.as_classes(splits)]
    deep = sorted({"/".join(folders) for _, folders in placed if len(folders) > 1})
    if deep:
        notes.append(f"{what}: folders inside classes, read with them: {some(deep)}")
    return [(file, folders[0]) for file, folders in placed]


def _prefixes(places: Sequence[str]) -> list[str]:
    """Returns the shortest ends of several paths that differ, with a slash; else ""."""
    if len(places) == 1:
        return [""]
    parts = [place.split(os.sep) for place in places]
    for depth in range(1, max(map(len, parts)) + 1):
        ends = ["/".join(p[-depth:]).strip("/") + "/" for p in parts]
        if len(set(ends)) == len(ends):
            return ends
    raise RequestError(f"data.unlabeled={','.join(places)} names a folder twice")


def _opened(
    stack: contextlib.ExitStack, path: str, key: str, notes: list[str]
) -> list[File]:
    """Returns the pictures of a folder or archive; RequestError if there are none."""
    source = image_source.open_source(path, key, notes.append)
    images, others = stack.enter_context(source)
    if not images:
        if unread := kinds.unread(file.path for file in others):
            raise RequestError(f"{key}={path}: {unread[0]}")
        raise RequestError(
            f"{key}={path} has no pictures (files that end in "
            f"{', '.join(kinds.suffixes())}); add some, or name another place"
        )
    if others:
        number = counted(len(others), "file")
        notes.append(f"{key}={path}: no pictures: {number}, such as {others[0].path}")
    return images
