"""Zips of unknown origin: what is refused before any image is decoded.

Zips are read in place. Names out of the archive are refused because they show bad
intent, although they never become paths.
"""

import re
import stat
import zipfile
from collections.abc import Callable

from rsmatch_jax.errors import RequestError

MAX_MEMBERS = 2_000_000  # ImageNet has 1.4 million
MAX_UNPACKED_GIB = 200  # all images together; ImageNet takes 150
MAX_FILE_MIB = 256  # one image
MAX_RATIO = 200  # unpacked to packed bytes of one image; pictures stay below 20
RATIO_FLOOR_MIB = 1  # smaller images may have any ratio
# Other methods unpack without a bound on memory, and no tool packs pictures with them.
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
UNPACK = "unpack it yourself and pass the folder"
_ENCRYPTED = 0x1  # of the general purpose flags
_UNIX = 3  # create_system of systems that note the type of a file
_GIB, _MIB = 2**30, 2**20

Member = tuple[str, zipfile.ZipInfo]  # path with forward slashes, entry


def members(
    source: str, archive: zipfile.ZipFile, is_read: Callable[[str], bool]
) -> list[Member]:
    """Returns all files, those that `is_read` names within limits; or RequestError."""
    entries = archive.infolist()
    if len(entries) > MAX_MEMBERS:
        count = f"{len(entries)} members, more than {MAX_MEMBERS}"
        raise RequestError(f"--source={source} has {count}; {UNPACK}")
    files, seen, total = [], set(), 0
    for entry in entries:
        path = entry.filename.replace("\\", "/").removeprefix("./")
        if reason := _disguise(path, entry):
            reason = f"{entry.filename!r}, {reason}; such a zip is not to be trusted"
            raise RequestError(f"--source={source} has the entry {reason}")
        if entry.is_dir():
            continue
        files.append((path, entry))
        if not is_read(path):
            continue
        if reason := "is there twice" if path in seen else _fault(entry):
            reason = f"{entry.filename!r} {reason}; if you trust the zip, {UNPACK}"
            raise RequestError(f"--source={source}: {reason}")
        seen.add(path)
        total += entry.file_size
    if total > MAX_UNPACKED_GIB * _GIB:
        size = f"{total / _GIB:.0f} GiB, more than {MAX_UNPACKED_GIB} GiB"
        raise RequestError(f"--source={source} would unpack to {size}; {UNPACK}")
    return files


def read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Returns the bytes of a member; raises ValueError, or what zipfile and zlib do."""
    if reason := _fault(entry):
        raise ValueError(reason)
    with archive.open(entry) as file:
        # A size stops zipfile from unpacking more than the entry declares.
        return file.read(entry.file_size + 1)


def _disguise(path: str, entry: zipfile.ZipInfo) -> str | None:
    """Returns what a member is if it is neither a plain file nor a folder."""
    kind = stat.S_IFMT(entry.external_attr >> 16) if entry.create_system == _UNIX else 0
    if path.startswith("/") or re.match("[A-Za-z]:", path) or ".." in path.split("/"):
        return "a path out of the archive"
    if kind == stat.S_IFLNK:
        return "a symbolic link"
    return None if kind in (0, stat.S_IFREG, stat.S_IFDIR) else "no plain file"


def _fault(entry: zipfile.ZipInfo) -> str | None:
    """Returns why a member may not be read, or None."""
    size, packed = entry.file_size, max(entry.compress_size, 1)
    if entry.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if entry.compress_type not in METHODS:
        return f"is packed by method {entry.compress_type}, not stored or deflate"
    if size > MAX_FILE_MIB * _MIB:
        return f"would unpack to {size // _MIB} MiB, more than {MAX_FILE_MIB} MiB"
    if size > RATIO_FLOOR_MIB * _MIB and size > MAX_RATIO * packed:
        return (
            f"would unpack to {size // _MIB} MiB, {size // packed} times its packed "
            f"size and more than {MAX_RATIO} times"
        )
    return None
