"""Drawn pictures on disk before they become a pool.

    POOL/.staging/generators/NAME/header.json    what NAME draws, and how
    POOL/.staging/generators/NAME/batches/N.zip  entries.json and PNG files of batch N

Prompts are drawn in fixed batches. A batch is one file that is written atomically, so
it is done if its file exists. No other record of the work is needed.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from rsmatch_jax import files
from rsmatch_jax.data.images import image_source
from rsmatch_jax.data.stores import dataset_folder
from rsmatch_jax.errors import RequestError
from rsmatch_jax.synthesis import checks
from rsmatch_jax.synthesis.prompts.prompt_file import PromptFile

KERNEL = image_source.KERNEL
_GENERATORS = checks.STAGED["generate"]
_HEADER, _BATCHES, _ENTRIES = "header.json", "batches", "entries.json"
_BATCH = re.compile(r"\d{7}\.zip")
_DAMAGE = (zipfile.BadZipFile, EOFError, KeyError, RuntimeError, TypeError, ValueError)


@dataclasses.dataclass(frozen=True)
class Entry:
    """The outcome of one prompt.

    prompt: index in the prompt file; label: its class. dropped: why there is no
    picture, else None. pixels: digest of the decoded picture.
    """

    prompt: int
    label: int
    dropped: str | None = None
    pixels: str = ""

    @property
    def file(self) -> str:
        """Name of the PNG file in the batch."""
        return f"{self.prompt:07d}.png"


def folder_of(out: str) -> str:
    return os.path.join(out, dataset_folder.STAGING)


def parts(out: str) -> list["Part"]:
    """Returns the generators with staged pictures, in the order in which they began."""
    folder = os.path.join(folder_of(out), _GENERATORS)
    names = os.listdir(folder) if os.path.isdir(folder) else ()
    staged = [part for part in (Part(out, name) for name in names) if part.batches]
    return sorted(staged, key=lambda part: part.header["position"])


def check_fit(out: str, prompts: PromptFile, size: int | None):
    """Raises RequestError if new pictures do not fit the staged ones. size: pixels a
    side, or None if it is not known yet."""
    for header in (part.header for part in parts(out)):
        names, new_names = tuple(header["class_names"]), prompts.class_names
        if (header["dataset"], names) != (prompts.dataset, new_names):
            pairs = enumerate(zip(names, new_names, strict=False))
            changed = (
                f"label {i} is {a} there, {b} here" for i, (a, b) in pairs if a != b
            )
            counts = f"{len(names)} classes there, {len(new_names)} here"
            raise RequestError(
                f"--out={out} is a pool for {header['dataset']}, the prompts are for "
                f"{prompts.dataset} ({next(changed, counts)}); name another folder, or "
                "give prompts for this pool's dataset"
            )
        if size not in (None, header["size"]):
            raise RequestError(
                f"--out={out} holds pictures of {header['size']} pixels a side, the "
                f"new ones have {size}; give --size={header['size']}, or name another "
                "folder"
            )


class Part:
    """The staged pictures of one generator. header: {} before the first `begin`.
    batches: entries by number of the batch."""

    def __init__(self, out: str, name: str):
        self.name, self.out = name, out
        self.folder = os.path.join(folder_of(out), _GENERATORS, name)
        self._batches = os.path.join(self.folder, _BATCHES)
        self.header = files.read_json(os.path.join(self.folder, _HEADER)) or {}
        self.batches: dict[int, list[Entry]] = {}
        if self.header and os.path.isdir(self._batches):
            for file in filter(_BATCH.fullmatch, sorted(os.listdir(self._batches))):
                with self._opened(int(file[:7])) as archive:
                    entries = json.loads(archive.read(_ENTRIES))
                    self.batches[int(file[:7])] = [Entry(**entry) for entry in entries]

    def _path(self, batch: int) -> str:
        return os.path.join(self._batches, f"{batch:07d}.zip")

    @contextlib.contextmanager
    def _opened(self, batch: int) -> Generator[zipfile.ZipFile]:
        """Opens a batch for reading; damaged files fail by the checksums of zip."""
        path = self._path(batch)
        try:
            with zipfile.ZipFile(path) as archive:
                yield archive
        except _DAMAGE as e:
            raise RequestError(
                f"{path} is damaged ({e}); delete it and start {self.name} with the "
                "same flags again, then its pictures are drawn again"
            ) from None

    @property
    def entries(self) -> list[Entry]:
        """Everything that is done, in the order of the prompts."""
        return [e for batch in sorted(self.batches) for e in self.batches[batch]]

    def missing(self, count: int, batch_size: int) -> list[int]:
        """Returns the batches of `count` prompts that are absent or of another length.

        A batch that was shorter is drawn again, because a picture may depend, by
        rounding, on the others in its batch.
        """
        starts = range(0, count, batch_size)
        lengths = [min(batch_size, count - start) for start in starts]
        return [b for b, n in enumerate(lengths) if len(self.batches.get(b, ())) != n]

    def check(self, settings: Mapping[str, Any], prompts: PromptFile):
        """Raises RequestError that names what differs from the staged pictures.

        Settings that only one has are not compared; prompts are, up to the length of
        the earlier file. While no batch is done, anything may change.
        """
        if not self.batches:
            return
        earlier = self.header["prompts"]
        old = {**self.header["settings"], "prompts": earlier.get("digest")}
        new = {**settings, "prompts": prompts.digest(earlier["count"])}
        both = [key for key in new if key in old]
        if changed := checks.changes(
            {key: old[key] for key in both}, {key: new[key] for key in both}
        ):
            raise RequestError(
                f"{self.name} has {len(self.entries)} staged pictures that were drawn "
                f"in another way:\n{changed}"
                "give the same settings, another --name or another --out, or "
                f"delete {self.folder} to draw all of them anew"
            )

    def begin(self, header: Mapping[str, Any], environment: Mapping[str, Any]):
        """Writes the header, and removes the files that a killed process left.

        If pictures are staged, only `prompts` of their header changes, and a new
        environment is added. Otherwise the generator gets the last position in the
        pool.
        """
        os.makedirs(self._batches, exist_ok=True)
        done = {os.path.basename(self._path(batch)) for batch in self.batches}
        for name in set(os.listdir(self._batches)) - done:
            os.remove(os.path.join(self._batches, name))
        if self.batches:
            header = {**self.header, "prompts": header["prompts"]}
        else:
            positions = [part.header["position"] for part in parts(self.out)]
            header = {**header, "position": 1 + max(positions, default=-1)}
        environments = header.get("environments", [])
        if environment not in environments:
            environments = [*environments, environment]
        header = {**header, "environments": environments}
        if header != self.header:
            files.write_json(os.path.join(self.folder, _HEADER), header)
            self.header = header

    def stage(
        self,
        batch: int,
        prompts: Sequence[tuple[int, int]],
        pictures: Sequence[np.ndarray | str],
    ):
        """Writes a batch to disk; it is done when this returns. prompts: (index, label)
        of each. pictures: uint8 [H, W, 3] each, or the reason why it was dropped."""
        entries, content = [], io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            for (index, label), picture in zip(prompts, pictures, strict=True):
                if isinstance(picture, str):
                    entries.append(Entry(index, label, dropped=picture))
                    continue
                png, pixels = encode(picture, self.header["size"])
                entries.append(Entry(index, label, pixels=pixels))
                # ZipInfo without the time: equal pictures make equal files.
                archive.writestr(zipfile.ZipInfo(entries[-1].file), png)
            text = json.dumps([dataclasses.asdict(entry) for entry in entries])
            archive.writestr(zipfile.ZipInfo(_ENTRIES), text)
        files.write_bytes(self._path(batch), content.getvalue())
        self.batches[batch] = entries

    def pictures(self) -> Iterator[tuple[Entry, bytes]]:
        """Yields every picture that was not dropped as a PNG file."""
        for batch in sorted(self.batches):
            with self._opened(batch) as archive:
                for entry in self.batches[batch]:
                    if entry.dropped is None:
                        yield entry, archive.read(entry.file)


def encode(picture: np.ndarray, size: int) -> tuple[bytes, str]:
    """Returns uint8 [H, W, 3] as PNG of `size` a side, and the digest of its pixels."""
    rgb = Image.fromarray(picture)
    decoded = image_source.Picture(None, rgb, rgb.size, ())
    fitted = image_source.square(decoded, size)
    buffer = io.BytesIO()
    fitted.rgb.save(buffer, format="PNG")
    return buffer.getvalue(), fitted.digest().hex()


def state(out: str) -> str:
    """Returns a digest of everything staged; it determines the written pool."""
    total = hashlib.blake2b(digest_size=16)
    for part in parts(out):
        entries = [dataclasses.astuple(entry) for entry in part.entries]
        total.update(json.dumps([part.name, part.header, entries]).encode())
    return total.hexdigest()
