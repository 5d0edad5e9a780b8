"""How pictures are encoded: PNG or JPEG, and with which of JPEG's settings.

A generator whose files alone were JPEG, or of another quality, leaves traces in the
pixels that a classifier learns instead of the classes.
"""

import dataclasses
import functools
import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

from PIL import Image, JpegImagePlugin

from rsmatch_jax.data.stores import dataset_folder

_SHOWN = 3
_SAMPLINGS = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}


@dataclasses.dataclass(frozen=True)
class Encoding:
    """format: Pillow's name. setting, tables: of a JPEG, see `describe`; else empty."""

    format: str
    setting: str = ""
    tables: tuple[tuple[int, ...], ...] = ()


def inspect(data: bytes) -> Encoding:
    """How a picture file is encoded, by its header; no pixel is decoded."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format != "JPEG":
                return Encoding(image.format)
            tables = _tables(image)
            sampling = JpegImagePlugin.get_sampling(image)
            return Encoding("JPEG", describe(tables, sampling), tables)
    except OSError:  # Pillow's UnidentifiedImageError is one
        return Encoding("unknown")


def summary(counts: Counter[Encoding]) -> dict[str, Any]:
    """Pictures by format, number of JPEG settings, the commonest of them with their
    quantisation tables (64 numbers each, in natural order)."""
    formats = Counter()
    for encoding, count in counts.items():
        formats[encoding.format] += count
    jpegs = Counter({e: n for e, n in counts.items() if e.tables})
    return {
        "formats": dict(formats.most_common()),
        "jpeg_settings": len(jpegs),
        "commonest": [
            {"setting": e.setting, "pictures": n, "tables": e.tables}
            for e, n in jpegs.most_common(_SHOWN)
        ],
    }


def describe(tables: tuple[tuple[int, ...], ...], sampling: int) -> str:
    """A JPEG setting in words: quality (or a name for unusual tables) and sampling.

    sampling: as Pillow's get_sampling gives it. The quality is that of libjpeg's
    standard tables where the tables are these.
    """
    quality = _standard().get(tables)
    if quality is None:
        name = hashlib.blake2b(repr(tables).encode(), digest_size=3).hexdigest()
        text = f"tables {name} (first numbers {', '.join(map(str, tables[0][:4]))})"
    else:
        text = f"quality {quality}"
    colours = _SAMPLINGS.get(sampling, "grey" if len(tables) == 1 else "other")
    return f"{text}, {colours}"


@functools.cache
def _standard() -> dict[tuple[tuple[int, ...], ...], int]:
    """libjpeg's tables for every quality, as Pillow writes them."""
    found = {}
    for mode in ("L", "RGB"):
        for quality in range(1, 101):
            buffer = io.BytesIO()
            Image.new(mode, (8, 8)).save(buffer, "JPEG", quality=quality)
            with Image.open(buffer) as image:
                found[_tables(image)] = quality
    return found


def _tables(image: Image.Image) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(table) for _, table in sorted(image.quantization.items()))


def of_folders(
    pool: str | None, real: str | None, generator_names: Sequence[str]
) -> dict[str, Any]:
    """How the stored picture files of the real training set, the pool and each
    generator are encoded: summary, or {"unseen": why}.

    pool, real: folders; None where there is none.
    """
    found = {
        "real": _encoding_counts(real, False),
        "pool": _encoding_counts(pool, True),
    }
    summaries: dict[str, Any] = {}
    for name, counts in found.items():
        if isinstance(counts, str):
            summaries[name] = {"unseen": counts}
        else:
            total = sum(counts.values(), Counter())
            summaries[name] = summary(total)
    counts = found["pool"]
    summaries["generators"] = [
        {"unseen": counts}
        if isinstance(counts, str)
        else summary(counts.get(g, Counter()))
        for g in range(len(generator_names))
    ]
    return summaries


def _encoding_counts(
    folder: str | None, with_generators: bool
) -> dict[int, Counter[Encoding]] | str:
    """Encodings by generator (-1: none); or why they cannot be seen."""
    if folder is None or not dataset_folder.is_dataset(folder):
        return "decoded pictures alone are here, no picture files"
    try:
        from rsmatch_jax.data.stores import (
            tf_encoded,  # lazy: decoded copies need no TF
        )
    except ImportError as e:
        return f"TensorFlow and tensorflow-datasets are not installed ({e})"
    counts: dict[int, Counter] = {}
    batches = tf_encoded.read(folder, "train", with_generators=with_generators)
    for files, generators in batches:
        for data, generator in zip(files, generators.tolist(), strict=True):
            encoding = inspect(data)
            counts.setdefault(generator, Counter())[encoding] += 1
    return counts
