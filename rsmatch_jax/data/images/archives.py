"""Zips and tars of unknown origin: what is refused before any image is decoded.

A zip or tar is read in place, a tar.gz from one temporary file, because images are read
in another order than they are packed. Names out of the archive are refused because they
show bad intent, although they never become paths.
"""

import contextlib
import dataclasses
import functools
import gzip
import os
import re
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import IO

from rsmatch_jax.errors import RequestError

MAX_MEMBERS = 2_000_000  # ImageNet has 1.4 million
MAX_UNPACKED_GIB = 200  # all images together; ImageNet takes 150
MAX_FILE_MIB = 256  # one image
# Unpacked to packed bytes of one image, or of a tar.gz; pictures stay below 20.
MAX_RATIO = 200
RATIO_FLOOR_MIB = 1  # smaller images may have any ratio
# Other methods unpack without a bound on memory, and no tool packs pictures with them.
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
UNPACK = "unpack it yourself and pass the folder"
KINDS = "zip, tar or tar.gz"
_GZIP = b"\x1f\x8b"
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
_GIB, _MIB = 2**30, 2**20

Member = tuple[str, Callable[[], bytes]]  # path with forward slashes, read()


@dataclasses.dataclass(frozen=True)
class _Entry:
    name: str  # as the archive spells it
    size: int  # unpacked bytes
    read: Callable[[], bytes]
    is_folder: bool = False
    disguise: str | None = None  # what it is, if neither file nor folder
    fault: str | None = None  # why it may not be read


@contextlib.contextmanager
def opened(
    source: str, label: str, is_read: Callable[[str], bool]
) -> Generator[tuple[list[Member], list[str]]]:
    """Yields all files of a zip, tar or tar.gz, and the paths of its empty folders.

    Args:
        label: names the source in messages.
        is_read: whether a path must lie within the limits.

    Raises:
        RequestError: the archive is damaged, of another kind, or has a member that is
            not to be trusted or beyond the limits.
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


def _entries(source: str, label: str, stack: contextlib.ExitStack) -> Iterable[_Entry]:
    file: IO[bytes] = open(source, "rb")  # noqa: SIM115
    stack.callback(file.close)
    head = file.read(512)
    file.seek(0)
    for mark, kind in _OTHER_KINDS.items():
        if head.startswith(mark):
            raise RequestError(f"{label} is packed by {kind}, not {KINDS}; {UNPACK}")
    is_tar = head[_USTAR_AT:].startswith(_USTAR) or source.lower().endswith(".tar")
    if head.startswith(_GZIP):
        file = stack.enter_context(_unpacked(source, label))
    elif not is_tar:
        archive = stack.enter_context(zipfile.ZipFile(file))
        return (_zip_entry(archive, info) for info in archive.infolist())
    return _tar_entries(file)


def _checked(
    label: str, entries: Iterable[_Entry], is_read: Callable[[str], bool]
) -> tuple[list[Member], list[str]]:
    """Returns files and folders; RequestError for what is beyond the limits."""
    members, folders, seen, total = [], [], set(), 0
    for number, entry in enumerate(entries):
        if number >= MAX_MEMBERS:
            raise RequestError(f"{label} has more than {MAX_MEMBERS} members; {UNPACK}")
        path = entry.name.replace("\\", "/").removeprefix("./")
        if reason := _out_of_archive(path) or entry.disguise:
            reason = f"{entry.name!r}, {reason}; such an archive is not to be trusted"
            raise RequestError(f"{label} has the entry {reason}")
        if entry.is_folder:
            folders.append(path.rstrip("/"))
            continue
        members.append((path, entry.read))
        if not is_read(path):
            continue
        if reason := "is there twice" if path in seen else entry.fault:
            reason = f"{entry.name!r} {reason}; if you trust the archive, {UNPACK}"
            raise RequestError(f"{label}: {reason}")
        seen.add(path)
        total += entry.size
    if total > MAX_UNPACKED_GIB * _GIB:
        size = f"{total / _GIB:.0f} GiB, more than {MAX_UNPACKED_GIB} GiB"
        raise RequestError(f"{label} would unpack to {size}; {UNPACK}")
    return members, folders


def _out_of_archive(path: str) -> str | None:
    if path.startswith("/") or re.match("[A-Za-z]:", path) or ".." in path.split("/"):
        return "a path out of the archive"
    return None


def _zip_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Entry:
    kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == _UNIX else 0
    disguise = None if kind in (0, stat.S_IFREG, stat.S_IFDIR) else "no plain file"
    return _Entry(
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
    if size > RATIO_FLOOR_MIB * _MIB and size > MAX_RATIO * packed:
        return _size_fault(size) or (
            f"would unpack to {size // _MIB} MiB, {size // packed} times its packed "
            f"size and more than {MAX_RATIO} times"
        )
    return _size_fault(size)


def _size_fault(size: int) -> str | None:
    if size > MAX_FILE_MIB * _MIB:
        return f"would unpack to {size // _MIB} MiB, more than {MAX_FILE_MIB} MiB"
    return None


def _tar_entries(file: IO[bytes]) -> Iterator[_Entry]:
    """Yields the members of a tar; raises TarError where it is damaged."""
    count = end = 0
    with tarfile.open(fileobj=file, mode="r:", errors="replace") as archive:
        while (info := archive.next()) is not None:
            # A negative size would send tarfile back to headers that it has read.
            if info.size < 0 or archive.offset <= end:
                raise tarfile.ReadError(f"{info.name!r} has a negative size")
            count, end = count + 1, archive.offset
            # Of no use here, and 1 kB each.
            archive.members = []  # pyrefly: ignore[missing-attribute]
            kind = "no plain file" if info.issparse() or not info.isfile() else None
            is_link = info.issym() or info.islnk()
            yield _Entry(
                info.name,
                info.size,
                functools.partial(_read_at, file, info.offset_data, info.size),
                is_folder=info.isdir(),
                disguise="a link" if is_link else None if info.isdir() else kind,
                fault=_size_fault(info.size),
            )
    # tarfile takes a damaged header for the end.
    if os.pread(file.fileno(), tarfile.BLOCKSIZE, end) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"it is damaged or cut off after {count} members")


def _read_at(file: IO[bytes], start: int, size: int) -> bytes:
    if reason := _size_fault(size):
        raise ValueError(reason)
    data = os.pread(file.fileno(), size, start)  # at any time, by any thread
    if len(data) < size:
        raise ValueError("the archive ends before it")
    return data


def _unpacked(source: str, label: str) -> IO[bytes]:
    """Returns a temporary file with what a gzip file holds, within the limits."""
    most = max(RATIO_FLOOR_MIB * _MIB, MAX_RATIO * os.path.getsize(source))
    most = min(most, MAX_UNPACKED_GIB * _GIB)
    with contextlib.ExitStack() as stack:
        file, total = stack.enter_context(tempfile.TemporaryFile()), 0
        with gzip.open(source) as packed:
            while chunk := packed.read(_MIB):
                total += len(chunk)
                if total > most:
                    reason = f"unpacks to more than {most / _MIB:.0f} MiB"
                    limits = f"{MAX_RATIO} times its size or {MAX_UNPACKED_GIB} GiB"
                    trust = f"if you trust it, {UNPACK}"
                    raise RequestError(f"{label} {reason}, {limits}; {trust}")
                _write(file, chunk, label)
        file.seek(0)
        stack.pop_all()  # the caller closes the file
    return file


def _write(file: IO[bytes], chunk: bytes, label: str):
    try:
        file.write(chunk)
        file.flush()
    except OSError as e:
        room = f"{tempfile.gettempdir()} cannot hold it unpacked ({e.strerror})"
        raise RequestError(f"{label}: {room}; set TMPDIR, or {UNPACK}") from None
