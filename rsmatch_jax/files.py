"""Atomic writes, JSON, locks between processes, and the cache folder."""

import contextlib
import fcntl
import json
import math
import os
import tempfile
import threading
import time
from collections.abc import Generator, Mapping
from typing import IO, Any, TextIO

import numpy as np

from rsmatch_jax.errors import RequestError

TEMPORARY = ".tmp"  # ends the name of a file that is being written
NO_TEXT = "backslashreplace"  # for bytes of a file's name that are no UTF-8
_LOCK_RETRY = 0.1  # seconds; a process that only tests a lock holds it for less


@contextlib.contextmanager
def replacing(path: str, mode: str = "wb") -> Generator[Any]:
    """Opens a file that replaces `path`, on the disk, if the block raises no error.
    Several processes and threads may do so at the same time."""
    temporary = f"{path}.{os.getpid()}-{threading.get_ident()}{TEMPORARY}"
    try:
        encoding, errors = (None, None) if "b" in mode else ("utf-8", NO_TEXT)
        with open(temporary, mode, encoding=encoding, errors=errors) as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.remove(temporary)
    sync(os.path.dirname(path) or ".")


def write_bytes(path: str, content: bytes):
    """Writes a file by `replacing`: it has all of `content`, or stays as it was."""
    with replacing(path) as f:
        f.write(content)


def write_text(path: str, text: str):
    """Writes a UTF-8 file atomically, see `write_bytes`."""
    write_bytes(path, text.encode(errors=NO_TEXT))


def write_json(path: str, content: Mapping[str, Any]):
    """Writes a JSON file atomically. NaN and infinities become null; the name of a file
    is read as it was, also if it is no UTF-8."""
    text = json.dumps(plain(content), indent=1, allow_nan=False, ensure_ascii=False)
    write_text(path, text + "\n")


def read_json(path: str) -> dict[str, Any] | None:
    """Returns the object in a JSON file, None if there is no such file; raises
    RequestError if the file cannot be read or holds no JSON object."""
    try:
        with open(path, encoding="utf-8") as f:
            content = json.load(f)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
        return content
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as e:  # also a binary file, or a folder
        raise RequestError(
            f"{path} cannot be read: {e}. Restore it, or move it away"
        ) from None


@contextlib.contextmanager
def written_to(flag: str, path: str) -> Generator[None]:
    """Turns an OSError of the block into a RequestError about the flag's `path`."""
    try:
        yield
    except OSError as e:
        raise RequestError(
            f"{flag}={path} cannot be written: {e}; choose another"
        ) from e


@contextlib.contextmanager
def writing(path: str) -> Generator[TextIO]:
    """Opens a text file --out=`path` by `replacing`, see `written_to`."""
    with written_to("--out", path), replacing(path, "w") as f:
        yield f


def append(path: str, line: bytes):
    """Appends a line and brings it to disk. If the disk is full, none of it stays."""
    is_new = not os.path.exists(path)
    # Unbuffered: closing the file must not write what an error has left over.
    with open(path, "ab", buffering=0) as f:
        start = f.tell()
        try:
            while line:
                line = line[f.write(line) :]
            os.fsync(f.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                f.truncate(start)
            raise
    if is_new:
        sync(os.path.dirname(path) or ".")


def sync(path: str):
    """Brings the content of a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_output(path: str | None, extension: str = ".json", flag: str = "--out"):
    """Raises RequestError if no file `path` of a flag can be written; None passes."""
    if path is None:
        return
    folder = os.path.dirname(path) or "."
    if not path.endswith(extension) or os.path.isdir(path):
        raise RequestError(f"{flag}={path} is no file name; use {flag}=FILE{extension}")
    if not os.path.isdir(folder):
        raise RequestError(f"{flag}={path}: there is no folder {folder}; make it first")
    try:
        tempfile.TemporaryFile(dir=folder).close()
        if os.path.exists(path):
            open(path, "r+b").close()
    except OSError as e:  # whose path may be that of the temporary file
        raise RequestError(
            f"{flag}={path} cannot be written ({e.strerror}); choose another"
        ) from None


def plain(value: Any) -> Any:
    """Converts to JSON types: numpy scalars to Python's, non-finite numbers to None."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def try_lock(file: IO) -> bool:
    """Tries to lock an open file until it is closed, or the process ends in any way;
    returns True if this process holds the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_lock(file: IO):
    """Locks an open file until it is closed, once no other process holds the lock."""
    fcntl.flock(file, fcntl.LOCK_EX)


@contextlib.contextmanager
def locked(path: str, message: str) -> Generator[None]:
    """Makes the file `path` and holds its lock for the block; raises
    RequestError(message) if another process holds it."""
    with open(path, "w") as file:
        if not try_lock(file):
            time.sleep(_LOCK_RETRY)
            if not try_lock(file):
                raise RequestError(message)
        yield


def default_cache_dir(cache_dir: str | None) -> str:
    """Returns `cache_dir`, or rsmatch_jax below $XDG_CACHE_HOME or ~/.cache."""
    if not cache_dir:
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        cache_dir = os.path.join(home, "rsmatch_jax")
    return absolute(cache_dir)


def contains(folder: str, path: str) -> bool:
    """Whether an absolute path is the folder, or lies in it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def absolute(path: str) -> str:
    """Returns a user's path as an absolute one, with ~ expanded."""
    return os.path.abspath(os.path.expanduser(path))
