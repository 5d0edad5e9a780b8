"""The cache of datasets: each is decoded (or searched) once, then opened as arrays.

`arrays.save` writes <cache>/<kind>/<name>/<version>-<fingerprint>/<split>/. An entry
is written beside its place and renamed, so that it is complete or absent. A lock keeps
two processes from decoding the same dataset twice.
"""

import contextlib
import fnmatch
import os
import shutil
from collections.abc import Callable, Sequence

from absl import logging

from rsmatch_jax import files
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.data.stores.arrays import ImageArrays
from rsmatch_jax.data.stores.dataset_folder import Source
from rsmatch_jax.errors import RequestError

Splits = dict[str, ImageArrays]
Build = Callable[[str], tuple[ImageArrays, dict]]
_PARTIAL = ".partial"


def get_or_build(
    cache_dir: str,
    kind: str,
    name: str,
    source: Source,
    splits: Sequence[str],
    build: Build,
    size: int | None = None,
) -> Splits:
    """Returns the splits of `source` from the cache; builds them if they are absent.

    A damaged entry is built again, with one warning.

    Args:
        kind: `datasets`, `folders` or `pools`.
        build: returns a split, and more content for its meta.json.
        size: of the views of encoded images, which have entries of their own; None for
            decoded images.

    Raises:
        RequestError: the cache cannot be written.
    """
    kind = kind if size is None else f"encoded_{kind}"
    parent = os.path.join(cache_dir, kind, _safe_name(name))
    entry = os.path.join(parent, f"{source.version}-{source.fingerprint}")

    def cached() -> Splits | None:
        return _open(entry, splits, source.folder, size)

    with contextlib.suppress(RequestError):
        if data := cached():
            return data
    try:
        os.makedirs(parent, exist_ok=True)
        with open(entry + ".lock", "w") as lock:
            if not files.try_lock(lock):
                logging.info("Waiting for another process that decodes %s", name)
                files.wait_for_lock(lock)
            try:
                if data := cached():  # by another process
                    return data
                logging.info("Reading %s into %s, once", source.folder, entry)
            except RequestError as e:
                logging.warning("Reading %s again: %s", name, e)
            _write(entry, source, splits, build)
    except OSError as e:
        raise RequestError(
            f"the cached copy of {name} cannot be written to {entry} ({e}); set "
            "data.cache_dir to a folder with room"
        ) from e
    return cached()


def find(
    cache_dir: str, kind: str, name: str, version: str | None, splits: Sequence[str]
) -> Splits | None:
    """Returns the only cached copy of a dataset whose source is absent, or None.

    Raises:
        RequestError: there are several copies, or the copy is damaged.
    """
    parent = os.path.join(cache_dir, kind, _safe_name(name))
    entries = [
        os.path.join(parent, e)
        for e in sorted(os.listdir(parent) if os.path.isdir(parent) else ())
        if fnmatch.fnmatchcase(e, f"{version or '*'}-*")
        and not e.endswith(_PARTIAL)
        and all(arrays.is_array_folder(os.path.join(parent, e, s)) for s in splits)
    ]
    if not entries:
        return None
    if len(entries) > 1:
        raise RequestError(
            f"{name} is not in data.data_dir and the cache has several copies of it: "
            f"{', '.join(entries)}. Delete all but one, or pass "
            "--config.data.data_dir=DIR"
        )
    meta = arrays.load_meta(os.path.join(entries[0], splits[0]))
    # A warning, because a mistyped folder of the same name also ends here.
    logging.warning(
        "%s is absent, using its decoded copy %s, made from %s",
        name,
        entries[0],
        meta.get("source", {}).get("folder", "an unknown folder"),
    )
    return _open(entries[0], splits)


def _safe_name(name: str) -> str:
    """A dataset's name as the name of one folder."""
    return name.replace("/", "__")


def _open(
    entry: str, splits: Sequence[str], folder: str = "", size: int | None = None
) -> Splits | None:
    """The splits of an entry; None if it is absent. Raises RequestError if damaged."""
    if not os.path.isdir(entry):
        return None
    try:
        return {s: arrays.load(os.path.join(entry, s), folder, size) for s in splits}
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
