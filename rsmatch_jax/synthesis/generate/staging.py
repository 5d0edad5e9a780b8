"""Drawn pictures on disk before they become a pool: nothing lost, nothing twice.

    POOL/.staging/pool.json                     dataset, classes, size, generators
    POOL/.staging/generators/NAME/header.json   how NAME is run
    POOL/.staging/generators/NAME/journal.jsonl a line per batch that is done
    POOL/.staging/generators/NAME/pictures/     PNG files

Prompts are drawn in fixed batches. A batch is done once its journal line is on disk,
which is written after all of its files are: whatever a killed process leaves behind
beyond that is removed, and the batch drawn again.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from rsmatch_jax import files
from rsmatch_jax.data.images import image_source
from rsmatch_jax.data.stores import dataset_folder
from rsmatch_jax.errors import RequestError
from rsmatch_jax.runs.workdir import differences

STAGING = dataset_folder.STAGING
KERNEL = image_source.KERNEL
_POOL, _GENERATORS, _LOCK = "pool.json", "generators", ".lock"
_HEADER, _JOURNAL, _PICTURES = "header.json", "journal.jsonl", "pictures"


@dataclasses.dataclass(frozen=True)
class Entry:
    """What became of one prompt.

    prompt: its index; label: its class. dropped: why there is no picture, else None.
    file: PNG below `pictures`; bytes: its length; content: digest of the file; pixels:
    digest of the decoded picture.
    """

    prompt: int
    label: int
    dropped: str | None = None
    file: str | None = None
    bytes: int = 0
    content: str = ""
    pixels: str = ""


@dataclasses.dataclass(frozen=True)
class PoolHeader:
    """What all pictures of a pool share. size: pixels a side; generators: names in the
    order in which they came."""

    dataset: str
    class_names: tuple[str, ...]
    size: int
    generators: tuple[str, ...] = ()


def folder_of(out: str) -> str:
    return os.path.join(out, STAGING)


def check_folder(out: str):
    """Raises RequestError unless `out` is a pool of this command, empty or absent.
    Changes nothing."""
    if os.path.lexists(out) and not os.path.isdir(out):
        raise RequestError(f"--out={out} is a file; name a folder")
    parent = out
    while not os.path.exists(parent):
        parent = os.path.dirname(parent)
    if not os.access(parent, os.W_OK | os.X_OK):
        raise RequestError(f"--out={out}: {parent} is not writable; name another")
    names = os.listdir(out) if os.path.isdir(out) else []
    if names and STAGING not in names:
        raise RequestError(
            f"--out={out} has files and no {STAGING}, so it was not made by this "
            "command (an imported pool?) and is left alone; name another folder"
        )
    if STAGING in names and not os.path.isdir(folder_of(out)):
        raise RequestError(f"--out={out}: {STAGING} is no folder; name another --out")


def check_shards(out: str):
    """Raises RequestError unless the pool that was written, if any, is as whole as its
    description says. To be called while it is locked: nobody else writes it then."""
    if dataset_folder.is_dataset(out):
        source = dataset_folder.inspect(out)
        dataset_folder.check_shards(source, source.splits)


@contextlib.contextmanager
def locked(out: str) -> Iterator[None]:
    """Keeps other processes from writing this pool meanwhile; makes the folder.

    Raises RequestError where one is at it already. The system gives the lock back
    however the process ends.
    """
    os.makedirs(folder_of(out), exist_ok=True)
    taken = (
        f"--out={out}: another process is making this pool; wait for it, or name "
        "another folder"
    )
    with files.locked(os.path.join(folder_of(out), _LOCK), taken):
        yield


def read_pool(out: str) -> PoolHeader | None:
    """The pool's header; None where nothing is staged yet."""
    path = os.path.join(folder_of(out), _POOL)
    content = files.read_json(path)
    if content is None:
        staged = os.path.join(folder_of(out), _GENERATORS)
        if os.path.isdir(staged) and any(
            Part(out, name).batches for name in os.listdir(staged)
        ):
            raise RequestError(
                f"{path} is absent and pictures are staged beside it; put back a copy "
                "of that file, or begin in another folder"
            )
        return None
    return PoolHeader(
        content["dataset"],
        tuple(content["class_names"]),
        content["size"],
        tuple(content["generators"]),
    )


def check_pool(out: str, header: PoolHeader | None, new: PoolHeader):
    """Raises RequestError where pictures as `new` says do not belong to the pool."""
    if header is None:
        return
    here, there = _short(new.class_names), _short(header.class_names)
    pairs = zip(header.class_names, new.class_names, strict=False)
    first = next((f"{a} there, {b} here" for a, b in pairs if a != b), "their number")
    if header.class_names == new.class_names:
        first = "the name of the dataset"
    if (header.dataset, header.class_names) != (new.dataset, new.class_names):
        raise RequestError(
            f"--out={out} is a pool for {header.dataset} ({there}), the prompts are "
            f"for {new.dataset} ({here})"
            + (f": {first} differs" if here == there else "")
            + "; name another folder, or give prompts for this pool's dataset"
        )
    if header.size != new.size:
        raise RequestError(
            f"--out={out} holds pictures of {header.size} pixels a side, asked for are "
            f"{new.size}; all of a pool have one size: give --size={header.size}, or "
            "name another folder"
        )


def register(out: str, pool: PoolHeader, generator: str) -> PoolHeader:
    """Enters a generator in the pool's header, which is written if it is new.

    Names are only ever added behind the others: what is written of a pool stays right.
    """
    known = read_pool(out) or pool
    if generator in known.generators:
        return known
    known = dataclasses.replace(known, generators=(*known.generators, generator))
    os.makedirs(folder_of(out), exist_ok=True)
    files.write_json(os.path.join(folder_of(out), _POOL), dataclasses.asdict(known))
    return known


class Part:
    """What one generator has staged."""

    def __init__(self, out: str, name: str):
        self.name = name
        self.folder = os.path.join(folder_of(out), _GENERATORS, name)
        self.header: dict[str, Any] | None = files.read_json(self._path(_HEADER))
        self.batches: dict[int, tuple[Entry, ...]] = {}
        self._broken = True
        if self.header is not None:
            self._read_journal()

    def _path(self, *names: str) -> str:
        return os.path.join(self.folder, *names)

    def _read_journal(self):
        path = self._path(_JOURNAL)
        try:
            with open(path, "rb") as f:
                content = f.read()
        except FileNotFoundError:
            return
        *lines, half = content.split(b"\n")
        self._broken = bool(half)
        for number, line in enumerate(lines, start=1):
            try:
                content = json.loads(line)
                entries = tuple(Entry(**entry) for entry in content["pictures"])
                batch = content["batch"]
            except (ValueError, KeyError, TypeError):
                raise RequestError(
                    f"{path}, line {number} is damaged; delete that line and start "
                    "again, then its pictures are drawn again"
                ) from None
            if all(self._is_there(entry) for entry in entries):
                self.batches[batch] = entries
            else:
                self._broken = True

    def _is_there(self, entry: Entry) -> bool:
        if entry.file is None:
            return True
        try:
            return os.path.getsize(self._path(_PICTURES, entry.file)) == entry.bytes
        except OSError:
            return False

    @property
    def entries(self) -> list[Entry]:
        """All that is done, in the order of the prompts."""
        return [e for batch in sorted(self.batches) for e in self.batches[batch]]

    @property
    def prompts(self) -> int | None:
        """How many prompts the staged pictures are part of; None while none is done."""
        return self.header["prompts"]["count"] if self.batches else None

    def missing(self, count: int, batch_size: int) -> list[int]:
        """The batches of `count` prompts that are not done, or were when they were
        shorter: a picture may depend, by rounding, on what is drawn with it."""
        whole, rest = divmod(count, batch_size)
        lengths = [batch_size] * whole + [rest] * (rest > 0)
        return [b for b, n in enumerate(lengths) if len(self.batches.get(b, ())) != n]

    def check(self, settings: Mapping[str, Any]):
        """Raises RequestError naming every setting that differs from the staged ones.

        `prompts` among them is the digest of as many as are staged. Settings that are
        not in both are not compared. While no batch is done, any may change.
        """
        if not self.batches:
            return
        digest = self.header["prompts"].get("digest")
        old = {**self.header["settings"], "prompts": digest}
        both = [key for key in settings if key in old]
        changed = differences({k: old[k] for k in both}, {k: settings[k] for k in both})
        if changed:
            raise RequestError(
                f"{self.name} has {len(self.entries)} pictures staged that were drawn "
                "in another way:\n"
                + "\n".join(f"  {key}: {a} there, {b} here" for key, a, b in changed)
                + "\ngive the same settings, another --name or another --out, or "
                f"delete {self.folder} to draw all of them anew"
            )

    def begin(
        self,
        header: Mapping[str, Any],
        environment: Mapping[str, Any],
        missing: Sequence[int] = (),
    ):
        """Readies the folder: header written, remains of a killed process removed, and
        what is staged of the `missing` batches, which are to be drawn.

        Of the header of pictures that are there, only the prompts change.
        environment: versions and device, noted wherever they are new.
        """
        os.makedirs(self._path(_PICTURES), exist_ok=True)
        for batch in missing:
            self._broken |= self.batches.pop(batch, None) is not None
        if self._broken:
            lines = [_journal_line(b, e) for b, e in self.batches.items()]
            files.write_bytes(self._path(_JOURNAL), b"".join(lines))
            self._broken = False
        known = {e.file for e in self.entries}
        for name in os.listdir(self._path(_PICTURES)):
            if name not in known:
                os.remove(self._path(_PICTURES, name))
        if self.header and self.batches:
            header = {**self.header, "prompts": header["prompts"]}
            environments = header["environments"]
            if environment not in environments:
                environments = [*environments, environment]
        else:
            environments = [environment]
        header = {**header, "environments": environments}
        if header != self.header:
            os.makedirs(self.folder, exist_ok=True)
            files.write_json(self._path(_HEADER), header)
            self.header = header

    def stage(
        self,
        batch: int,
        size: int,
        prompts: Sequence[tuple[int, int]],
        pictures: Sequence[np.ndarray | str],
    ):
        """Brings a batch to disk; it is done when this returns.

        prompts: (index, label) each; pictures: uint8 [H, W, 3] each, or why it was
        dropped. Raises: OSError, as on a full disk; then nothing of the batch counts.
        """
        entries = []
        for (index, label), picture in zip(prompts, pictures, strict=True):
            if isinstance(picture, str):
                entries.append(Entry(index, label, dropped=picture))
                continue
            content, pixels = encode(picture, size)
            file = f"{index:07d}.png"
            files.write_bytes(self._path(_PICTURES, file), content, sync_folder=False)
            entries.append(
                Entry(
                    index,
                    label,
                    file=file,
                    bytes=len(content),
                    content=_digest(content),
                    pixels=pixels,
                )
            )
        files.sync(self._path(_PICTURES))
        files.append(self._path(_JOURNAL), _journal_line(batch, entries))
        self.batches[batch] = tuple(entries)

    def picture(self, entry: Entry) -> bytes:
        """The PNG of an entry. Raises RequestError where it is damaged."""
        path = self._path(_PICTURES, entry.file)
        with open(path, "rb") as f:
            content = f.read()
        if _digest(content) != entry.content:
            raise RequestError(
                f"{path} is damaged; delete it and start with the flags of "
                f"{self.name} again, then it is drawn again"
            )
        return content


def encode(picture: np.ndarray, size: int) -> tuple[bytes, str]:
    """A uint8 [H, W, 3] picture as PNG of `size` a side, and its pixels' digest."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="BMP")  # quick to write and to read
    fitted = image_source.fit(buffer.getvalue(), size)
    buffer = io.BytesIO()
    Image.fromarray(fitted.pixels).save(buffer, format="PNG")
    return buffer.getvalue(), fitted.digest().hex()


def state(out: str) -> str:
    """A digest of all that is staged: the written pool is a function of it."""
    total = hashlib.blake2b(digest_size=16)
    pool = read_pool(out)
    for name in pool.generators if pool else ():
        part = Part(out, name)
        entries = [dataclasses.astuple(entry) for entry in part.entries]
        total.update(json.dumps([name, part.header, entries]).encode())
    total.update(json.dumps(dataclasses.asdict(pool) if pool else None).encode())
    return total.hexdigest()


def _journal_line(batch: int, entries: Sequence[Entry]) -> bytes:
    content = {"batch": batch, "pictures": [dataclasses.asdict(e) for e in entries]}
    return json.dumps(content).encode() + b"\n"


def _short(names: Sequence[str]) -> str:
    some = ", ".join(names[:4])
    return f"{some}, ... ({len(names)})" if len(names) > 4 else some


def _digest(content: bytes) -> str:
    """32 hex digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()
