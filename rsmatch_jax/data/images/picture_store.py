"""Pictures of any files, brought to one size or kept encoded, once, in the cache.

An entry <cache>/pictures/<digest of the files' contents>-<form> has `images.bin` (all
pixels, or all JPEG and PNG files, in a row), `digests.npy`, `places.npy` and meta.json.
"""

import dataclasses
import hashlib
import io
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from rsmatch_jax import files
from rsmatch_jax.data.images import compression, image_source, kinds
from rsmatch_jax.data.images.compression import Jpeg
from rsmatch_jax.data.images.image_source import File, Unreadable
from rsmatch_jax.data.stores import array_cache, arrays, encoded
from rsmatch_jax.data.stores.encoded import EncodedImages
from rsmatch_jax.errors import RequestError, RunFailed
from rsmatch_jax.progress import Progress
from rsmatch_jax.runtime.ahead import ahead
from rsmatch_jax.terminal import say

FORMAT = 1  # of an entry; a change of what decoding does makes another
_IMAGES, _COLUMNS = "images.bin", ("digests", "places")
_AHEAD = 64  # pictures being decoded
_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The n readable ones of N files.

    images: uint8 [n, S, S, 3], memory-mapped, or encoded. rows: int64 [n], their
    positions among the files. digests: S32 [n], equal for equal pixels. unreadable:
    {position of a file: reason}. changes: {what was done to pictures: how many}.
    """

    images: np.ndarray | EncodedImages
    rows: np.ndarray
    digests: np.ndarray
    unreadable: dict[int, str]
    changes: dict[str, int]

    def notes(self, what: str, names: Sequence[str]) -> Iterator[str]:
        """Yields lines about the pictures `what`, the files of these names."""
        if self.unreadable:
            some = [f"{names[i]} ({why})" for i, why in self.unreadable.items()]
            yield (
                f"{what}: no complete pictures, left out: {len(some)} of {len(names)} "
                f"files, such as {', '.join(some[:_SHOWN])}"
            )
        if self.changes:
            changes = (f"{change} ({count})" for change, count in self.changes.items())
            yield f"{what}: {', '.join(changes)}"
        if copies := len(self.digests) - len(np.unique(self.digests)):
            yield f"{what}: exact copies of other pictures, all used: {copies}"


@dataclasses.dataclass(frozen=True)
class Examined:
    """Files that were read once. digests: of each content, that of an empty one if the
    file cannot be read. compressed: what each file is compressed by, None if it is no
    JPEG."""

    sources: Sequence[File]
    what: str  # the pictures, for messages
    digests: list[bytes]
    compressed: list[Jpeg | None]


def examine(sources: Sequence[File], what: str) -> Examined:
    number = len(sources)
    digests, compressed, known = [], [], {}  # most files share few forms
    with Progress(f"reading {what}", "files", number, say, last_line=False) as progress:
        for source in sources:
            try:
                data = source.read()
            except Unreadable:
                data = b""
            digests.append(hashlib.blake2b(data).digest())
            jpeg = compression.of_file(data)
            compressed.append(known.setdefault(jpeg, jpeg))
            progress.advance(1)
    return Examined(sources, what, digests, compressed)


def load(
    examined: Examined,
    *,
    cache_dir: str | None,
    size: int,
    encode: bool,
    stored_as: Sequence[Jpeg | None] = (),
) -> Pictures:
    """Returns the pictures of files, from the cache if they are there by content.

    size: pixels a side: of a central square that is averaged down
    (`image_source.square`), or with `encode`, which keeps all pixels, of the views.
    stored_as: how each is compressed once more. Raises RunFailed if a file has
    another content than when it was examined.
    """
    form = "encoded" if encode else f"{size}px"
    contents = hashlib.blake2b(b"".join(examined.digests), digest_size=12).digest()
    digest = hashlib.blake2b(contents, digest_size=12)
    if any(stored_as):
        digest.update(repr(stored_as).encode())
    entry = os.path.join(
        files.default_cache_dir(cache_dir),
        "pictures",
        f"{digest.hexdigest()}-{form}-{FORMAT}",
    )
    return array_cache.build_once(
        entry,
        examined.what,
        lambda folder: _open(folder, size, encode),
        lambda folder: _write(folder, examined, stored_as, None if encode else size),
    )


def _read_again(source: File, digest: bytes) -> bytes:
    """Returns the content of a file that was examined; raises Unreadable if it could
    not be read then either, RunFailed if it has another content."""
    data, reason = b"", None
    try:
        data = source.read()
    except Unreadable as e:
        reason = e
    if hashlib.blake2b(data).digest() != digest:
        raise RunFailed(
            f"{source.path} changed, or could not be read, while it was read; start "
            "again"
        )
    if reason is not None:
        raise reason
    return data


def _decode(
    source: bytes, size: int | None, jpeg: Jpeg | None
) -> tuple[bytes, bytes, tuple[str, ...]]:
    """Returns a picture's bytes in images.bin, its digest and what was changed."""
    whole = image_source.decode(source)
    picture = image_source.square(whole, size)
    # Before compression, or a copy in another file would not be known as one.
    digest = picture.digest().hex().encode()
    if jpeg is not None:
        picture = image_source.square(compression.again(whole, jpeg), size)
    if size is not None:
        stored = picture.pixels.tobytes()
    elif picture.encoded is not None:
        stored = picture.encoded
    else:
        png = io.BytesIO()
        picture.rgb.save(png, "PNG")
        stored = png.getvalue()
    return stored, digest, picture.kinds


def _write(
    folder: str,
    examined: Examined,
    stored_as: Sequence[Jpeg | None],
    size: int | None,
):
    os.makedirs(folder)
    number, what = len(examined.sources), examined.what.removeprefix("data.")
    places, digests, unreadable = [], [], {}
    changes: Counter[str] = Counter()
    with (
        open(os.path.join(folder, _IMAGES), "wb") as images,
        Progress(f"decoding {what}", "pictures", number, say) as progress,
        ThreadPoolExecutor(os.cpu_count()) as pool,
        image_source.bombs_refused_by_name(),
    ):

        def start(source: File, digest: bytes, jpeg: Jpeg | None) -> Future:
            return pool.submit(lambda: _decode(_read_again(source, digest), size, jpeg))

        plans = stored_as or [None] * number
        rows = zip(examined.sources, examined.digests, plans, strict=True)
        futures = itertools.starmap(start, rows)
        for position, future in enumerate(ahead(futures, _AHEAD)):
            progress.advance(1)
            try:
                stored, digest, changed = future.result()
            except Unreadable as e:
                unreadable[str(position)] = str(e)
                continue
            places.append((0, images.tell(), len(stored)))
            images.write(stored)
            digests.append(digest)
            changes.update(changed)
    columns = {
        "digests": np.array(digests, "S32"),
        "places": np.array(places, np.int64).reshape(-1, 3),
    }
    for name, column in columns.items():
        np.save(os.path.join(folder, f"{name}.npy"), column, allow_pickle=False)
    names = (_IMAGES, *(f"{name}.npy" for name in _COLUMNS))
    checksums = {name: arrays.sha256(os.path.join(folder, name)) for name in names}
    meta = {
        "unreadable": unreadable,
        "formats": sorted(kinds.formats()),
        "changes": changes,
        "checksums": checksums,
    }
    files.write_json(os.path.join(folder, arrays.META), meta)


def _open(folder: str, size: int, encode: bool) -> Pictures:
    """Opens an entry; RequestError if it is absent, damaged or without pictures."""
    meta = arrays.load_meta(folder)
    path = os.path.join(folder, _IMAGES)
    try:
        checksums = meta["checksums"]
        digests, places = (
            arrays.open_column(folder, f"{name}.npy", checksums[f"{name}.npy"])
            for name in _COLUMNS
        )
        if arrays.sha256(path) != checksums[_IMAGES]:
            raise ValueError(f"{_IMAGES} has another checksum than in {arrays.META}")
        unreadable = {int(i): str(why) for i, why in meta["unreadable"].items()}
        if unreadable and meta.get("formats") != sorted(kinds.formats()):
            raise ValueError("a reader of pictures has come or gone since")
        changes = dict(meta["changes"])
        if encode:
            images = encoded.locate(folder, [_IMAGES], places, size)
        elif len(places):
            images = np.memmap(path, np.uint8, "r", shape=(len(places), size, size, 3))
        else:
            images = np.zeros((0, size, size, 3), np.uint8)
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as e:
        raise RequestError(f"{folder} is damaged ({e}); delete it") from None
    count = len(digests) + len(unreadable)
    rows = np.setdiff1d(np.arange(count), np.array([*unreadable], np.int64))
    return Pictures(images, rows, digests, unreadable, changes)
