"""Reads how picture files are encoded: PNG or JPEG, and JPEG's settings.

If only a generator's files are JPEG, or of another quality, their pixels have traces
that a classifier may learn instead of the classes.
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
    """format: Pillow's name. setting: a JPEG's, in words. tables: a JPEG's
    quantisation tables, 64 numbers each."""

    format: str
    setting: str = ""
    tables: tuple[tuple[int, ...], ...] = ()


def inspect(data: bytes) -> Encoding:
    """Returns how a picture file is encoded, by its header; decodes no pixel."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format != "JPEG":
                return Encoding(image.format)
            tables = _tables(image)
            sampling = JpegImagePlugin.get_sampling(image)
            return Encoding("JPEG", _describe(tables, sampling), tables)
    except OSError:  # Pillow's UnidentifiedImageError is one
        return Encoding("unknown")


def summary(counts: Counter[Encoding]) -> dict[str, Any]:
    """Returns the numbers of pictures by format and the commonest JPEG settings."""
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


def _describe(tables: tuple[tuple[int, ...], ...], sampling: int) -> str:
    """Returns quality and chroma sampling; other tables than libjpeg's get a name."""
    quality = _qualities().get(tables)
    if quality is None:
        name = hashlib.blake2b(repr(tables).encode(), digest_size=3).hexdigest()
        text = f"tables {name} (first numbers {', '.join(map(str, tables[0][:4]))})"
    else:
        text = f"quality {quality}"
    colours = _SAMPLINGS.get(sampling, "grey" if len(tables) == 1 else "other")
    return f"{text}, {colours}"


@functools.cache
def _qualities() -> dict[tuple[tuple[int, ...], ...], int]:
    """Returns the quality of libjpeg's tables, as Pillow writes them."""
    qualities = {}
    for mode in ("L", "RGB"):
        for quality in range(1, 101):
            buffer = io.BytesIO()
            Image.new(mode, (8, 8)).save(buffer, "JPEG", quality=quality)
            with Image.open(buffer) as image:
                qualities[_tables(image)] = quality
    return qualities


def _tables(image: Image.Image) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(table) for _, table in sorted(image.quantization.items()))


def of_folders(
    pool: str | None, real: str | None, generator_names: Sequence[str]
) -> dict[str, Any]:
    """Returns the summary of the real training set, the pool and each generator.

    Each is `summary`, or {"unseen": reason}. pool, real: folders, or None.
    """
    counts = {"real": _count(real, False), "pool": _count(pool, True)}

    def of(name: str, generator: int | None = None) -> dict[str, Any]:
        by_generator = counts[name]
        if isinstance(by_generator, str):
            return {"unseen": by_generator}
        if generator is None:
            return summary(sum(by_generator.values(), Counter()))
        return summary(by_generator.get(generator, Counter()))

    generators = [of("pool", g) for g in range(len(generator_names))]
    return {"real": of("real"), "pool": of("pool"), "generators": generators}


def _count(
    folder: str | None, with_generators: bool
) -> dict[int, Counter[Encoding]] | str:
    """Returns encodings by generator (-1: none), or why they cannot be read."""
    if folder is None or not dataset_folder.is_dataset(folder):
        return "there are only decoded pictures, no picture files"
    try:
        from rsmatch_jax.data.stores import tf_read  # lazy: needs TensorFlow
    except ImportError as e:
        return f"TensorFlow and tensorflow-datasets are not installed ({e})"
    counts: dict[int, Counter] = {}
    batches = tf_read.read_files(folder, "train", with_generators=with_generators)
    for files, generators in batches:
        for data, generator in zip(files, generators.tolist(), strict=True):
            counts.setdefault(generator, Counter())[inspect(data)] += 1
    return counts
