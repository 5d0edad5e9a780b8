"""Zips and tars of unknown origin: what is refused before any image is decoded.

Names out of the archive are refused because they show bad intent, although they never
become paths.
"""

import contextlib
import functools
import re
import stat
import zipfile
from collections.abc import Callable, Generator, Iterable
from typing import IO

from rsmatch_jax.data.images import limits, tars
from rsmatch_jax.errors import RequestError

# Other methods unpack without a bound on memory, and no tool packs pictures with them.
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
KINDS = "zip, tar or tar.gz"
_GZIP, _ZIP = b"\x1f\x8b", b"PK"
_SUFFIXES = (".zip", ".tgz", ".gz")  # of what is meant to be an archive
_OTHER_KINDS = {
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
}
_USTAR, _USTAR_AT = b"ustar", 257  # the mark in the first header of a tar
_ENCRYPTED = 0x1  # of a zip's general purpose flags
_UNIX = 3  # create_system of systems that note the type of a file

Member = tuple[str, Callable[[], bytes]]  # path with forward slashes, read()


@contextlib.contextmanager
def opened(
    source: str, label: str, is_read: Callable[[str], bool]
) -> Generator[tuple[list[Member], list[str]]]:
    """Yields all files of a zip, tar or tar.gz, and the paths of its empty folders.

    label: names the source in messages. is_read: whether a path must lie within the
    limits. Raises RequestError if the archive is damaged, of another kind, or has a
    member that is not to be trusted or beyond the limits.
    """
    with contextlib.ExitStack() as stack:
        try:
            entries = _entries(source, label, stack)
            # A damaged tar fails while its members are listed.
            members, folders = _checked(label, entries, is_read)
        except RequestError:
            raise
        except Exception as e:  # zipfile and tarfile raise nearly anything on damage
            reason = f"is no complete {KINDS} ({e}); download it again"
            raise RequestError(f"{label} {reason}") from None
        paths = [*(path for path, _ in members), *folders]
        filled = {path[:i] for path in paths for i, c in enumerate(path) if c == "/"}
        yield members, [folder for folder in folders if folder not in filled]


def _entries(
    source: str, label: str, stack: contextlib.ExitStack
) -> Iterable[limits.Entry]:
    try:
        file: IO[bytes] = open(source, "rb")  # noqa: SIM115
        stack.callback(file.close)
        head = file.read(512)
    except OSError as e:
        raise RequestError(f"{label} cannot be read ({e.strerror})") from None
    file.seek(0)
    for mark, kind in _OTHER_KINDS.items():
        if head.startswith(mark):
            raise RequestError(
                f"{label} is packed by {kind}, not {KINDS}; {limits.UNPACK}"
            )
    is_tar = head[_USTAR_AT:].startswith(_USTAR) or source.lower().endswith(".tar")
    if head.startswith(_GZIP):
        file = stack.enter_context(tars.unpacked(source, label))
    elif not is_tar:
        is_zip = head.startswith(_ZIP) or zipfile.is_zipfile(file)
        if not is_zip and not source.lower().endswith(_SUFFIXES):
            raise RequestError(f"{label} is no folder, {KINDS}; name one of these")
        archive = stack.enter_context(zipfile.ZipFile(file))
        return (_zip_entry(archive, info) for info in archive.infolist())
    return tars.entries(file)


def _checked(
    label: str, entries: Iterable[limits.Entry], is_read: Callable[[str], bool]
) -> tuple[list[Member], list[str]]:
    """Returns files and folders; RequestError for what is beyond the limits."""
    members, folders, seen, total = [], [], set(), 0
    for number, entry in enumerate(entries):
        if number >= limits.MAX_MEMBERS:
            count = f"more than {limits.MAX_MEMBERS} members"
            raise RequestError(f"{label} has {count}; {limits.UNPACK}")
        path = entry.name.replace("\\", "/").removeprefix("./")
        if reason := _out_of_archive(path) or entry.disguise:
            reason = f"{entry.name!r}, {reason}; such an archive is not to be trusted"
            raise RequestError(f"{label} has the entry {reason}")
        if entry.is_folder:
            if path.rstrip("/") not in ("", "."):  # the root, as `tar -C dir .` has it
                folders.append(path.rstrip("/"))
            continue
        members.append((path, entry.read))
        if not is_read(path):
            continue
        if reason := "is there twice" if path in seen else entry.fault:
            reason = (
                f"{entry.name!r} {reason}; if you trust the archive, {limits.UNPACK}"
            )
            raise RequestError(f"{label}: {reason}")
        seen.add(path)
        total += entry.size
    if total > limits.MAX_UNPACKED_GIB * limits.GIB:
        size = f"{total / limits.GIB:.0f} GiB, more than {limits.MAX_UNPACKED_GIB} GiB"
        raise RequestError(f"{label} would unpack to {size}; {limits.UNPACK}")
    return members, folders


def _out_of_archive(path: str) -> str | None:
    if path.startswith("/") or re.match("[A-Za-z]:", path) or ".." in path.split("/"):
        return "a path out of the archive"
    return None


def _zip_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> limits.Entry:
    kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == _UNIX else 0
    disguise = None if kind in (0, stat.S_IFREG, stat.S_IFDIR) else "no plain file"
    return limits.Entry(
        info.filename,
        info.file_size,
        functools.partial(read_zipped, archive, info),
        is_folder=info.is_dir(),
        disguise="a symbolic link" if kind == stat.S_IFLNK else disguise,
        fault=_zip_fault(info),
    )


def read_zipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Returns the bytes of a member; raises ValueError, or what zipfile and zlib do."""
    if reason := _zip_fault(info):
        raise ValueError(reason)
    with archive.open(info) as file:
        # A size stops zipfile from unpacking more than the entry declares.
        return file.read(info.file_size + 1)


def _zip_fault(info: zipfile.ZipInfo) -> str | None:
    """Returns why a member may not be read, or None."""
    size, packed = info.file_size, max(info.compress_size, 1)
    if info.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if info.compress_type not in METHODS:
        return f"is packed by method {info.compress_type}, not stored or deflate"
    if size > limits.RATIO_FLOOR_MIB * limits.MIB and size > limits.MAX_RATIO * packed:
        return limits.size_fault(size) or (
            f"would unpack to {size // limits.MIB} MiB, {size // packed} times its "
            f"packed size and more than {limits.MAX_RATIO} times"
        )
    return limits.size_fault(size)
