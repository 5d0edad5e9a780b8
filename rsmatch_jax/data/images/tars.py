"""The members of a tar, read at any place by any thread; a tar.gz from one temporary
file, because images are read in another order than they are packed."""

import contextlib
import functools
import gzip
import os
import tarfile
import tempfile
from collections.abc import Iterator
from typing import IO, cast

from rsmatch_jax.data.images import limits
from rsmatch_jax.errors import RequestError


class _Headers:
    """A tar for tarfile, which reads the text of a header at once, however long."""

    def __init__(self, file: IO[bytes]):
        self._file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= limits.MIB:
            raise tarfile.ReadError(f"a header has {size} bytes")
        return self._file.read(size)


def entries(file: IO[bytes]) -> Iterator[limits.Entry]:
    """Yields the members of a tar; raises TarError where it is damaged."""
    count = end = 0
    headers = cast(IO[bytes], _Headers(file))
    with tarfile.open(fileobj=headers, mode="r:", errors="replace") as archive:
        while (info := archive.next()) is not None:
            # A negative size would send tarfile back to headers that it has read.
            if info.size < 0 or archive.offset <= end:
                raise tarfile.ReadError(f"{info.name!r} has a negative size")
            count, end = count + 1, archive.offset
            # Of no use here, and 1 kB each.
            archive.members = []  # pyrefly: ignore[missing-attribute]
            kind = "no plain file" if info.issparse() or not info.isfile() else None
            is_link = info.issym() or info.islnk()
            yield limits.Entry(
                info.name,
                info.size,
                functools.partial(_read_at, file, info.offset_data, info.size),
                is_folder=info.isdir(),
                disguise="a link" if is_link else None if info.isdir() else kind,
                fault=limits.size_fault(info.size),
            )
    # tarfile takes a damaged header for the end.
    if os.pread(file.fileno(), tarfile.BLOCKSIZE, end) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"it is damaged or cut off after {count} members")


def _read_at(file: IO[bytes], start: int, size: int) -> bytes:
    if reason := limits.size_fault(size):
        raise ValueError(reason)
    data = os.pread(file.fileno(), size, start)  # at any time, by any thread
    if len(data) < size:
        raise ValueError("the archive ends before it")
    return data


def unpacked(source: str, label: str) -> IO[bytes]:
    """Returns a temporary file with what a gzip file holds, within the limits."""
    floor = limits.RATIO_FLOOR_MIB * limits.MIB
    most = max(floor, limits.MAX_RATIO * os.path.getsize(source))
    most = min(most, limits.MAX_UNPACKED_GIB * limits.GIB)
    with contextlib.ExitStack() as stack:
        file, total = stack.enter_context(tempfile.TemporaryFile()), 0
        with gzip.open(source) as packed:
            while chunk := packed.read(limits.MIB):
                total += len(chunk)
                if total > most:
                    ratio = f"{limits.MAX_RATIO} times its size"
                    raise RequestError(
                        f"{label} unpacks to more than {most / limits.MIB:.0f} MiB, "
                        f"which is {ratio} or {limits.MAX_UNPACKED_GIB} GiB; if you "
                        f"trust it, {limits.UNPACK}"
                    )
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
        raise RequestError(f"{label}: {room}; set TMPDIR, or {limits.UNPACK}") from None
