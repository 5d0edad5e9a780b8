"""Datasets on disk: each is decoded (or searched) once, then opened as mapped arrays.

Layout: <cache>/<kind>/<name>/<version>-<fingerprint>/<split>/ in the form of
`arrays.save`. An entry is written beside its place and renamed, so it is there wholly
or not at all; a lock keeps two processes from decoding the same set twice.
"""

import contextlib
import fnmatch
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from absl import logging

from rsmatch_jax import files
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.data.stores.dataset_folder import Source
from rsmatch_jax.errors import RequestError

Splits = dict[str, Any]
_PARTIAL = ".partial"


class Form(Protocol):
    """How one split is kept in a folder: the module `arrays`, or `encoded_index`."""

    def save(self, folder: str, data: Any, extra: dict[str, Any]): ...

    def load(self, folder: str) -> Any: ...


def get_or_build(
    cache_dir: str,
    kind: str,
    name: str,
    source: Source,
    splits: Sequence[str],
    build: Callable[[str], tuple[Any, dict]],
    form: Form = arrays,
) -> Splits:
    """The splits of `source` in `form`, from the cache or made now.

    kind: `datasets`, `folders`, `pools`, or these with `encoded_` before. build(split)
    decodes one split, or finds its images, and gives what else is to be kept in its
    meta.json. A damaged entry is made again with one warning.
    """
    parent = os.path.join(cache_dir, kind, safe_name(name))
    entry = os.path.join(parent, f"{source.version}-{source.fingerprint}")
    with contextlib.suppress(_Absent, RequestError):
        return _open(entry, splits, form)
    try:
        os.makedirs(parent, exist_ok=True)
        with _lock(entry + ".lock", name):
            try:
                return _open(entry, splits, form)  # another process may have made it
            except _Absent:
                logging.info("Reading %s into %s, once", source.folder, entry)
            except RequestError as e:
                logging.warning("Reading %s again: %s", name, e)
            _write(entry, source, splits, build, form)
    except OSError as e:
        raise RequestError(
            f"the cached copy of {name} cannot be written to {entry} ({e}); set "
            "data.cache_dir to a folder with room"
        ) from e
    return _open(entry, splits, form)


def find(
    cache_dir: str, kind: str, name: str, version: str | None, splits: Sequence[str]
) -> Splits | None:
    """The one cached copy of a dataset whose source is not here; None if there is none.

    Raises: RequestError where several match, or the one is damaged.
    """
    parent = os.path.join(cache_dir, kind, safe_name(name))
    pattern = f"{version or '*'}-*"
    entries = [
        os.path.join(parent, e)
        for e in sorted(os.listdir(parent) if os.path.isdir(parent) else ())
        if fnmatch.fnmatchcase(e, pattern)
        and not e.endswith(_PARTIAL)
        and all(arrays.is_array_folder(os.path.join(parent, e, s)) for s in splits)
    ]
    if len(entries) > 1:
        raise RequestError(
            f"{name} is not in data.data_dir and the cache has several copies of it: "
            f"{', '.join(entries)}. Delete all but one, or pass "
            "--config.data.data_dir=DIR"
        )
    if not entries:
        return None
    meta = arrays.load_meta(os.path.join(entries[0], splits[0]))
    origin = meta.get("source", {}).get("folder", "another place")
    # Told loudly: a mistyped folder of the same name would end here as well.
    logging.warning(
        "%s is not here, its decoded copy is: using %s, made from %s",
        name,
        entries[0],
        origin,
    )
    try:
        return _open(entries[0], splits, arrays)
    except _Absent as e:
        raise RequestError(f"{e} vanished while it was read; start again") from None


def safe_name(name: str) -> str:
    """A dataset's name as one folder name."""
    return name.replace("/", "__")


class _Absent(Exception):
    """There is no such entry."""


def _open(entry: str, splits: Sequence[str], form: Form) -> Splits:
    """Opens an entry. Raises: _Absent, or RequestError where it is damaged."""
    if not os.path.isdir(entry):
        raise _Absent(entry)
    try:
        return {s: form.load(os.path.join(entry, s)) for s in splits}
    except RequestError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        # A meta.json or .npy header that parses into something else altogether.
        raise RequestError(f"{entry} is damaged ({e!r}); delete it") from e


def _write(
    entry: str,
    source: Source,
    splits: Sequence[str],
    build: Callable[[str], tuple[Any, dict]],
    form: Form,
):
    # The lock is held: whatever lies beside the entry was left by a killed process.
    temporary = entry + _PARTIAL
    shutil.rmtree(temporary, ignore_errors=True)
    origin = {
        "folder": source.folder,
        "version": source.version,
        "fingerprint": source.fingerprint,
    }
    try:
        for split in splits:
            data, extra = build(split)
            folder = os.path.join(temporary, split)
            form.save(folder, data, {"source": origin, **extra})
        shutil.rmtree(entry, ignore_errors=True)
        os.rename(temporary, entry)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _lock(path: str, name: str) -> Iterator[None]:
    """Holds an advisory lock; it ends with the process, however that ends."""
    with open(path, "w") as f:
        if not files.try_lock(f):
            logging.info("Waiting for another process that decodes %s", name)
            files.wait_for_lock(f)
        yield
