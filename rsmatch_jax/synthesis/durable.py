"""Files that are on disk, whole, when a function returns: also after a power cut."""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from rsmatch_jax.errors import RequestError

_TEMPORARY = ".tmp"


def digest(content: bytes) -> str:
    """32 hex digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def read_json(path: str) -> dict[str, Any] | None:
    """The content of a JSON file, None where there is none. Raises: RequestError."""
    try:
        with open(path, encoding="utf-8") as f:
            return json.load(f)
    except FileNotFoundError:
        return None
    except ValueError as e:
        raise RequestError(
            f"{path} is damaged ({e}); put back a copy of that file, or begin in "
            "another folder"
        ) from None


def write_json(path: str, content: Mapping[str, Any]):
    """Writes a JSON file, and the folder it lies in where that is new."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write(path, text.encode())


def write(path: str, content: bytes, with_folder: bool = True):
    """The file has all of `content`, or stays as it was.

    with_folder: False spares a wait; then `sync` the folder after the last file.
    """
    temporary = path + _TEMPORARY
    try:
        with open(temporary, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise
    if with_folder:
        sync(os.path.dirname(path))


def append(path: str, line: bytes):
    """Adds a line; of a full disk nothing of it stays."""
    new = not os.path.exists(path)
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
    if new:
        sync(os.path.dirname(path))


def sync(path: str):
    """Brings a file's content, or a folder's new and changed names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
