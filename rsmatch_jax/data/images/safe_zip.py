"""Zips of unknown origin: what is refused before anything of them is decoded.

A zip is read in place, nothing is unpacked to disk: its members' names never become
paths. They are checked all the same, for whoever writes such names means harm.
"""

import re
import stat
import zipfile
from collections.abc import Callable, Sequence

from rsmatch_jax.errors import RequestError

MAX_MEMBERS = 2_000_000  # ImageNet has 1.4 million
MAX_UNPACKED_GIB = 200  # all images together; ImageNet takes 150
MAX_FILE_MIB = 256  # one image
MAX_RATIO = 200  # one image's bytes to those it is packed in; pictures stay below 20
RATIO_FLOOR_MIB = 1  # below it the ratio is not looked at
# Others unpack without a bound on memory, and no tool packs pictures with them.
METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflate"}
UNPACK = "unpack it yourself and pass the folder"
_ENCRYPTED = 0x1  # of the general purpose flags
_UNIX = 3  # made on a system that notes a file's kind
_GIB, _MIB = 2**30, 2**20


def members(
    source: str, archive: zipfile.ZipFile, wanted: Callable[[str], bool]
) -> list[tuple[str, zipfile.ZipInfo]]:
    """(path with forward slashes, entry) of all files of an archive.

    wanted: which paths are going to be read; only these have limits in size. Raises:
    RequestError naming the member and the limit.
    """
    entries = archive.infolist()
    if len(entries) > MAX_MEMBERS:
        raise RequestError(
            f"--source={source} has {len(entries)} members, more than {MAX_MEMBERS}; "
            f"{UNPACK}"
        )
    found = [
        (entry.filename.replace("\\", "/").removeprefix("./"), entry)
        for entry in entries
    ]
    for path, entry in found:
        _check_name(source, path, entry)
    files = [(path, entry) for path, entry in found if not entry.is_dir()]
    read = [(path, entry) for path, entry in files if wanted(path)]
    _check_sizes(source, read)
    return files


def read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """The bytes of a member, whichever it is. Raises: ValueError for one beyond the
    limits, and whatever zipfile and zlib do on a damaged one."""
    if why := _fault(entry):
        raise ValueError(why)
    with archive.open(entry) as file:
        # Asked for all there is, zipfile unpacks beyond the size that is declared.
        return file.read(entry.file_size + 1)


def _check_name(source: str, path: str, entry: zipfile.ZipInfo):
    kind = stat.S_IFMT(entry.external_attr >> 16) if entry.create_system == _UNIX else 0
    why = None
    if path.startswith("/") or re.match("[A-Za-z]:", path) or ".." in path.split("/"):
        why = "a path out of the archive"
    elif kind == stat.S_IFLNK:
        why = "a symbolic link"
    elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        why = "no plain file"
    if why:
        raise RequestError(
            f"--source={source} has the entry {entry.filename!r}, {why}; such a zip is "
            "not to be trusted"
        )


def _check_sizes(source: str, entries: Sequence[tuple[str, zipfile.ZipInfo]]):
    seen, total = set(), 0
    for path, entry in entries:
        why = "is there twice" if path in seen else _fault(entry)
        if why:
            raise RequestError(
                f"--source={source}: {entry.filename!r} {why}; where the zip is to be "
                f"trusted, {UNPACK}"
            )
        seen.add(path)
        total += entry.file_size
    if total > MAX_UNPACKED_GIB * _GIB:
        raise RequestError(
            f"--source={source}: its images would unpack to {total / _GIB:.0f} GiB, "
            f"more than {MAX_UNPACKED_GIB} GiB; {UNPACK}"
        )


def _fault(entry: zipfile.ZipInfo) -> str | None:
    """Why a member is not read, None where it is."""
    size, packed = entry.file_size, max(entry.compress_size, 1)
    if entry.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if entry.compress_type not in METHODS:
        known = " and ".join(METHODS.values())
        return f"is packed by method {entry.compress_type}, none of {known}"
    if size > MAX_FILE_MIB * _MIB:
        return f"would unpack to {size // _MIB} MiB, more than {MAX_FILE_MIB} MiB"
    if size > RATIO_FLOOR_MIB * _MIB and size > MAX_RATIO * packed:
        return (
            f"would unpack to {size // _MIB} MiB, {size // packed} times what it is "
            f"packed in and more than {MAX_RATIO} times"
        )
    return None
