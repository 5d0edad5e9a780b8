"""The cache of datasets: each is decoded (or searched) once, then opened as arrays.

An entry <cache>/<kind>/<name>/<version>-<fingerprint> has a folder of `arrays` per
split. It is renamed to its place, so that it is complete or absent.
"""

import contextlib
import dataclasses
import glob
import os
import shutil
from collections.abc import Callable, Sequence
from typing import TypeVar

from absl import logging

from rsmatch_jax import files
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.data.stores.arrays import ImageArrays
from rsmatch_jax.data.stores.dataset_folder import Source
from rsmatch_jax.errors import RequestError

T = TypeVar("T")
Build = Callable[[str], tuple[ImageArrays, dict]]
_PARTIAL = ".partial"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a dataset is, and its entries in the cache."""

    kind: str  # `datasets` for a TFDS name, `folders` or `pools` for a path
    name: str
    version: str | None  # None for any
    folder: str | None  # None if it does not exist
    path: str | None = None  # of the only copies that count; None for any


def get_or_build(
    cache_dir: str,
    place: Place,
    source: Source,
    splits: Sequence[str],
    build: Build,
    size: int | None = None,
) -> list[ImageArrays]:
    """Returns the splits of `source`; builds those that are absent or damaged.

    build: returns a split, and more content for its meta.json. size: of the views of
    encoded images; None for decoded images.
    """
    name, encoded = place.name, "" if size is None else "encoded_"
    parent = os.path.join(cache_dir, encoded + place.kind, name.replace("/", "__"))
    entry = os.path.join(parent, f"{source.version}-{source.fingerprint}")
    origin = {key: getattr(source, key) for key in ("folder", "version", "fingerprint")}

    def write(temporary: str):
        for split in splits:
            data, extra = build(split)
            folder = os.path.join(temporary, split)
            arrays.save(folder, data, {"source": origin, **extra})

    def read(entry: str) -> list[ImageArrays]:
        return _open(entry, splits, source.folder, size)

    return build_once(entry, name, read, write)


def build_once(
    entry: str, name: str, read: Callable[[str], T], write: Callable[[str], None]
) -> T:
    """Returns what `read` returns of an entry; if it raises RequestError because the
    entry is absent or damaged, `write` makes it first, in one process at a time.

    name: of the data, for messages. write: takes a folder that is then renamed.
    """
    with contextlib.suppress(RequestError):
        return read(entry)
    try:
        os.makedirs(os.path.dirname(entry), exist_ok=True)
        with open(entry + ".lock", "w") as lock:
            if not files.try_lock(lock):
                logging.info("Waiting for another process that decodes %s", name)
                files.wait_for_lock(lock)
            try:  # another process may have built it
                return read(entry)
            except RequestError as e:
                if os.path.isdir(entry):
                    logging.warning("Reading %s again: %s", name, e)
                else:
                    logging.info("Reading %s into %s, once", name, entry)
            # This process holds the lock: a killed process left a partial entry.
            temporary = entry + _PARTIAL
            shutil.rmtree(temporary, ignore_errors=True)
            try:
                write(temporary)
                shutil.rmtree(entry, ignore_errors=True)
                os.rename(temporary, entry)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except OSError as e:
        reason = f"cannot be cached in {entry} ({e}); set another data.cache_dir"
        raise RequestError(f"{name} {reason}") from e
    return read(entry)


def find(
    cache_dir: str, place: Place, splits: Sequence[str], optional: Sequence[str] = ()
) -> list[ImageArrays] | None:
    """Returns the only cached copy of a dataset whose source is absent, or None. Of a
    place with a path only copies that were made from it count, or a mistyped folder
    would end at another one of its name.

    optional: splits that follow the others if the copy has them.
    """
    name, version = place.name, place.version
    parent = os.path.join(cache_dir, place.kind, name.replace("/", "__"))
    pattern = os.path.join(glob.escape(parent), f"{version or '*'}-*")
    entries = {
        entry: _origin(entry, splits[0])
        for entry in sorted(glob.glob(pattern))
        if not entry.endswith(_PARTIAL)
        and all(arrays.is_array_folder(os.path.join(entry, s)) for s in splits)
    }
    if place.path is not None:
        entries = {x: origin for x, origin in entries.items() if origin == place.path}
    if not entries:
        return None
    if len(entries) > 1:
        raise RequestError(
            f"{name} is not in data.data_dir, but its cache has several copies: delete "
            f"all but one of {', '.join(entries)}, or pass --config.data.data_dir=DIR"
        )
    ((entry, origin),) = entries.items()
    # A warning, because a mistyped pool of the same name also ends here.
    logging.warning("%s is absent, using %s, made from %s", name, entry, origin)
    extra = [s for s in optional if os.path.isdir(os.path.join(entry, s))]
    return _open(entry, [*splits, *extra])


def _origin(entry: str, split: str) -> str:
    """Returns the folder that an entry was made from."""
    meta = arrays.load_meta(os.path.join(entry, split))
    return meta.get("source", {}).get("folder", "an unknown folder")


def _open(
    entry: str, splits: Sequence[str], folder: str = "", size: int | None = None
) -> list[ImageArrays]:
    """Returns the splits of an entry; RequestError if it is absent or damaged."""
    try:
        return [arrays.load(os.path.join(entry, s), folder, size) for s in splits]
    except OSError as e:
        raise RequestError(f"{entry} is damaged ({e!r}); delete it") from e
