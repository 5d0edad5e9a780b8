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

from absl import logging

from rsmatch_jax import files
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.data.stores.arrays import ImageArrays
from rsmatch_jax.data.stores.dataset_folder import Source
from rsmatch_jax.errors import RequestError

Build = Callable[[str], tuple[ImageArrays, dict]]
_PARTIAL = ".partial"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a dataset is, and its entries in the cache."""

    kind: str  # `datasets` for a TFDS name, `folders` or `pools` for a path
    name: str
    version: str | None  # None for any
    folder: str | None  # None if it does not exist


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
    with contextlib.suppress(RequestError):
        return _open(entry, splits, source.folder, size)
    try:
        os.makedirs(parent, exist_ok=True)
        with open(entry + ".lock", "w") as lock:
            if not files.try_lock(lock):
                logging.info("Waiting for another process that decodes %s", name)
                files.wait_for_lock(lock)
            try:  # another process may have built it
                return _open(entry, splits, source.folder, size)
            except RequestError as e:
                if os.path.isdir(entry):
                    logging.warning("Reading %s again: %s", name, e)
                else:
                    logging.info("Reading %s into %s, once", source.folder, entry)
            _write(entry, source, splits, build)
    except OSError as e:
        reason = f"cannot be cached in {entry} ({e}); set another data.cache_dir"
        raise RequestError(f"{name} {reason}") from e
    return _open(entry, splits, source.folder, size)


def find(
    cache_dir: str, place: Place, splits: Sequence[str], optional: Sequence[str] = ()
) -> list[ImageArrays] | None:
    """Returns the only cached copy of a dataset whose source is absent, or None.
    optional: splits that follow the others if the copy has them."""
    name, version = place.name, place.version
    parent = os.path.join(cache_dir, place.kind, name.replace("/", "__"))
    pattern = os.path.join(glob.escape(parent), f"{version or '*'}-*")
    entries = [
        entry
        for entry in sorted(glob.glob(pattern))
        if not entry.endswith(_PARTIAL)
        and all(arrays.is_array_folder(os.path.join(entry, s)) for s in splits)
    ]
    if not entries:
        return None
    if len(entries) > 1:
        raise RequestError(
            f"{name} is not in data.data_dir, but its cache has several copies: delete "
            f"all but one of {', '.join(entries)}, or pass --config.data.data_dir=DIR"
        )
    meta = arrays.load_meta(os.path.join(entries[0], splits[0]))
    # A warning, because a mistyped folder of the same name also ends here.
    origin = meta.get("source", {}).get("folder", "an unknown folder")
    logging.warning("%s is absent, using %s, made from %s", name, entries[0], origin)
    extra = [s for s in optional if os.path.isdir(os.path.join(entries[0], s))]
    return _open(entries[0], [*splits, *extra])


def _open(
    entry: str, splits: Sequence[str], folder: str = "", size: int | None = None
) -> list[ImageArrays]:
    """Returns the splits of an entry; RequestError if it is absent or damaged."""
    try:
        return [arrays.load(os.path.join(entry, s), folder, size) for s in splits]
    except OSError as e:
        raise RequestError(f"{entry} is damaged ({e!r}); delete it") from e


def _write(entry: str, source: Source, splits: Sequence[str], build: Build):
    # This process holds the lock, so a partial entry is left from a killed process.
    temporary = entry + _PARTIAL
    shutil.rmtree(temporary, ignore_errors=True)
    origin = {key: getattr(source, key) for key in ("folder", "version", "fingerprint")}
    try:
        for split in splits:
            data, extra = build(split)
            folder = os.path.join(temporary, split)
            arrays.save(folder, data, {"source": origin, **extra})
        shutil.rmtree(entry, ignore_errors=True)
        os.rename(temporary, entry)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
