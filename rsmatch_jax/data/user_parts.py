"""The pictures in the places that a user names: labelled, test and unlabelled ones."""

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rsmatch_jax import files
from rsmatch_jax.data import sources
from rsmatch_jax.data.images import compression, picture_store, user_pictures
from rsmatch_jax.data.images.compression import Jpeg
from rsmatch_jax.data.images.picture_store import Examined, Pictures
from rsmatch_jax.data.images.user_pictures import Collection
from rsmatch_jax.data.rs_ssl import PictureFiles
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.data.stores.arrays import ImageArrays
from rsmatch_jax.errors import RequestError

LABELED, TEST, UNLABELED = "data.labeled", "data.test", "data.unlabeled"
UNLIKE = 0.1  # share of pictures above which a difference in compression is said


@dataclasses.dataclass(frozen=True)
class Places:
    """Where the pictures are: the keys of the config's `data` group of these names."""

    labeled: str | None
    unlabeled: str | None
    test: str | None
    origins: str | None
    cache_dir: str | None


@dataclasses.dataclass(frozen=True)
class Part:
    """Pictures that could be read, with the names and labels of their files.
    compressed: how each is stored. left_out: names of the files that could not."""

    pictures: Pictures
    compressed: Sequence[Jpeg | None]
    names: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]

    def at(self, rows: np.ndarray) -> ImageArrays:
        """Returns the images at some positions as a real dataset."""
        images = arrays.take(self.pictures.images, rows)
        return ImageArrays(sources.OWN, images, self.labels[rows], self.class_names)

    @property
    def files(self) -> PictureFiles:
        return PictureFiles(self.names, self.pictures.digests)


def read(
    places: Places, size: int, encode: bool, alike: bool
) -> tuple[Part, Part | None, Part]:
    """Returns the labelled pictures, those of `places.test`, and the unlabelled ones.

    size, encode: see `picture_store.load`. alike: makes real and unlabelled pictures
    alike in compression; otherwise a note says where they are not. Raises RequestError
    if a place is not set, absent or without readable pictures.
    """
    if not places.labeled or not places.unlabeled:
        key = "unlabeled" if places.labeled else "labeled"
        raise RequestError(
            f"data.{key} is not set: name the pictures by --config.data.{key}=PLACE "
            "(labeled: class folders, an archive of them or a CSV; unlabeled: a "
            "tree of folders, or an archive, or several of these joined by commas)"
        )
    _check_apart(places.labeled, places.test, places.unlabeled)
    with contextlib.ExitStack() as stack:
        labelled = user_pictures.labelled(stack, places.labeled, LABELED)
        parts = {LABELED: labelled}
        if places.test:
            parts[TEST] = user_pictures.labelled(
                stack, places.test, TEST, labelled.class_names
            )
        parts[UNLABELED] = user_pictures.unlabelled(stack, places.unlabeled)
        examined = {
            key: picture_store.examine(pictures.files, key)
            for key, pictures in parts.items()
        }
        stored_as = _alike(examined)
        stored = {
            key: _stored(
                pictures,
                examined[key],
                cache_dir=places.cache_dir,
                size=size,
                encode=encode,
                stored_as=stored_as[key] if alike else [None] * len(pictures.files),
            )
            for key, pictures in parts.items()
        }
    unlabelled = stored[UNLABELED]
    if not alike and (note := _unlike_note(stored_as)):
        unlabelled = dataclasses.replace(unlabelled, notes=(*unlabelled.notes, note))
    return stored[LABELED], stored.get(TEST), unlabelled


def overlaps(
    labelled: PictureFiles,
    unlabelled: PictureFiles,
    held_out: Mapping[str, PictureFiles],
) -> list[str]:
    """Returns lines about pictures that are in two parts by content. unlabelled:
    without the labelled ones. held_out: parts that train nothing, by name."""
    lines = []
    if count := int(np.isin(unlabelled.digests, labelled.digests).sum()):
        lines.append(f"unlabelled pictures that are labelled ones too, kept: {count}")
    trained = {"labelled": labelled, "unlabelled": unlabelled}
    for (part, these), (name, others) in itertools.product(
        held_out.items(), trained.items()
    ):
        if count := int(np.isin(these.digests, others.digests).sum()):
            lines.append(
                f"warning: {part} pictures that are {name} ones too, kept, so that "
                f"{part} figures are too good: {count} of {len(these.digests)}"
            )
    return lines


def _check_apart(labeled: str, test: str | None, unlabeled: str):
    """Raises RequestError if the pictures of one place are in another one, too, which
    may be another part of `unlabeled`. A CSV is no place: it may list some of the
    collected pictures."""
    named = [(LABELED, labeled), (TEST, test)]
    named += [(UNLABELED, part) for part in user_pictures.parts(unlabeled)]
    places = [
        (key, place, os.path.realpath(files.absolute(place)))
        for key, place in named
        if place and not place.lower().endswith(".csv")
    ]
    for outer, inner in itertools.permutations(places, 2):
        (key, place, path), (other_key, other, other_path) = outer, inner
        if not files.contains(path, other_path):
            continue
        if path != other_path and os.path.isfile(other_path):
            continue  # an archive, which is not opened in a folder
        holds = "is the same place as" if path == other_path else "holds"
        raise RequestError(
            f"{key}={place} {holds} {other_key}={other}, whose pictures would count "
            "twice; name places that lie apart"
        )


def _alike(examined: dict[str, Examined]) -> dict[str, list[Jpeg | None]]:
    """Returns how to compress once more what makes real and unlabelled pictures alike,
    None = not at all."""
    unlabelled = examined[UNLABELED].compressed
    parts = {k: x.compressed for k, x in examined.items() if k != UNLABELED}
    real = [*itertools.chain(*parts.values())]
    plan = iter(compression.alike(real, unlabelled))
    plans = {k: [*itertools.islice(plan, len(part))] for k, part in parts.items()}
    return plans | {UNLABELED: compression.alike(unlabelled, real)}


def _unlike_note(stored_as: dict[str, list[Jpeg | None]]) -> str | None:
    shares = {key: np.mean([*map(bool, plan)]) for key, plan in stored_as.items()}
    most = max(shares, key=shares.__getitem__)
    if shares[most] < UNLIKE:
        return None
    others = LABELED if most == UNLABELED else UNLABELED
    return (
        f"warning: {shares[most]:.0%} of the pictures of {most} are compressed less "
        f"than those of {others}, which tells labelled pictures from others whatever "
        "made them; data.same_compression=True stores them once more, alike"
    )


def _stored(
    pictures: Collection,
    examined: Examined,
    stored_as: Sequence[Jpeg | None],
    **options: Any,
) -> Part:
    """Decodes pictures into the cache (`picture_store.load`); RequestError if a class
    has no readable one."""
    key = examined.what
    stored = picture_store.load(examined, stored_as=stored_as, **options)
    labels = pictures.labels[stored.rows]
    for label in np.setdiff1d(pictures.labels, labels).tolist():
        of_class = f" of class {pictures.class_names[label]}" if label >= 0 else ""
        first = int(np.flatnonzero(pictures.labels == label)[0])
        raise RequestError(
            f"{key}: there are no readable pictures{of_class}; for instance "
            f"{pictures.names[first]} is no complete picture "
            f"({stored.unreadable[first]}); replace these files or add others"
        )
    return Part(
        stored,
        [stored_as[i] or examined.compressed[i] for i in stored.rows],
        np.array(pictures.names, np.str_)[stored.rows],
        labels,
        pictures.class_names,
        tuple(pictures.names[i] for i in stored.unreadable),
        (*pictures.notes, *stored.notes(key, pictures.names)),
    )
