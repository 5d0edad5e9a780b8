"""Zips of unknown origin: what is refused before any image is decoded.

A zip is read in place and nothing is unpacked to disk, so its members' names never
become paths. They are checked all the same, because such names show bad intent.
"""

import re
import stat
import zipfile
from collections.abc import Callable, Sequence

from rsmatch_jax.errors import RequestError

MAX_MEMBERS = 2_000_000  # ImageNet has 1.4 million
MAX_UNPACKED_GIB = 200  # all images together; ImageNet takes 150
MAX_FILE_MIB = 256  # one image
MAX_RATIO = 200  # unpacked to packed bytes of one image; pictures stay below 20
RATIO_FLOOR_MIB = 1  # smaller images may have any ratio
# Other methods unpack without a bound on memory, and no tool packs pictures with them.
METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflate"}
UNPACK = "unpack it yourself and pass the folder"
_ENCRYPTED = 0x1  # of the general purpose flags
_UNIX = 3  # create_system of systems that note the type of a file
_GIB, _MIB = 2**30, 2**20

Member = tuple[str, zipfile.ZipInfo]  # path with forward slashes, entry


def members(
    source: str, archive: zipfile.ZipFile, is_read: Callable[[str], bool]
) -> list[Member]:
    """Returns all files of an archive; RequestError names a member that breaks a rule.

    is_read: which paths will be read; only these have limits in size.
    """
    entries = archive.infolist()
    if len(entries) > MAX_MEMBERS:
        raise RequestError(
            f"--source={source} has {len(entries)} members, more than {MAX_MEMBERS}; "
            f"{UNPACK}"
        )
    files = []
    for entry in entries:
        path = entry.filename.replace("\\", "/").removeprefix("./")
        _check_name(source, path, entry)
        if not entry.is_dir():
            files.append((path, entry))
    _check_sizes(source, [member for member in files if is_read(member[0])])
    return files


def read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Returns the bytes of a member; raises ValueError if it breaks a limit.

    zipfile and zlib raise other exceptions for a damaged member.
    """
    if reason := _fault(entry):
        raise ValueError(reason)
    with archive.open(entry) as file:
        # A size stops zipfile from unpacking more than the entry declares.
        return file.read(entry.file_size + 1)


def _check_name(source: str, path: str, entry: zipfile.ZipInfo):
    kind = stat.S_IFMT(entry.external_attr >> 16) if entry.create_system == _UNIX else 0
    if path.startswith("/") or re.match("[A-Za-z]:", path) or ".." in path.split("/"):
        reason = "a path out of the archive"
    elif kind == stat.S_IFLNK:
        reason = "a symbolic link"
    elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        reason = "no plain file"
    else:
        return
    raise RequestError(
        f"--source={source} has the entry {entry.filename!r}, {reason}; such a zip is "
        "not to be trusted"
    )


def _check_sizes(source: str, files: Sequence[Member]):
    seen, total = set(), 0
    for path, entry in files:
        reason = "is there twice" if path in seen else _fault(entry)
        if reason:
            raise RequestError(
                f"--source={source}: {entry.filename!r} {reason}; if you trust the "
                f"zip, {UNPACK}"
            )
        seen.add(path)
        total += entry.file_size
    if total > MAX_UNPACKED_GIB * _GIB:
        raise RequestError(
            f"--source={source}: its images would unpack to {total / _GIB:.0f} GiB, "
            f"more than {MAX_UNPACKED_GIB} GiB; {UNPACK}"
        )


def _fault(entry: zipfile.ZipInfo) -> str | None:
    """Why a member is not read; None if it may be."""
    size, packed = entry.file_size, max(entry.compress_size, 1)
    if entry.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if entry.compress_type not in METHODS:
        methods = " or ".join(METHODS.values())
        return f"is packed by method {entry.compress_type}, not {methods}"
    if size > MAX_FILE_MIB * _MIB:
        return f"would unpack to {size // _MIB} MiB, more than {MAX_FILE_MIB} MiB"
    if size > RATIO_FLOOR_MIB * _MIB and size > MAX_RATIO * packed:
        return (
            f"would unpack to {size // _MIB} MiB, {size // packed} times its packed "
            f"size and more than {MAX_RATIO} times"
        )
    return None
