"""Reads how picture files are encoded: PNG or JPEG, and JPEG's settings.

If only a generator's files are JPEG, or of another quality, their pixels have traces
that a classifier may learn instead of the classes.
"""

import dataclasses
import functools
import hashlib
import io
import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeAlias

from PIL import Image, JpegImagePlugin

from rsmatch_jax.data.stores import dataset_folder

_SHOWN = 3
Tables: TypeAlias = tuple[tuple[int, ...], ...]
_SAMPLINGS = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}


@dataclasses.dataclass(frozen=True)
class Encoding:
    """format: Pillow's name. setting: a JPEG's, in words. tables: a JPEG's
    quantisation tables, 64 numbers each."""

    format: str
    setting: str = ""
    tables: Tables = ()


def inspect(data: bytes) -> Encoding:
    """Returns how a picture file is encoded, by its header; decodes no pixel."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            kind = image.format or "unknown"
            if kind != "JPEG" or not isinstance(image, JpegImagePlugin.JpegImageFile):
                return Encoding(kind)
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


def _describe(tables: Tables, sampling: int) -> str:
    """Returns quality and chroma sampling; other tables than libjpeg's get a name."""
    text = f"quality {_qualities().get(tables)}"
    if tables not in _qualities():
        name = hashlib.blake2b(repr(tables).encode(), digest_size=3).hexdigest()
        text = f"tables {name} (first numbers {', '.join(map(str, tables[0][:4]))})"
    colours = _SAMPLINGS.get(sampling, "grey" if len(tables) == 1 else "other")
    return f"{text}, {colours}"


@functools.cache
def _qualities() -> dict[Tables, int]:
    """Returns the quality of libjpeg's tables, as Pillow writes them."""
    qualities = {}
    for mode, quality in itertools.product(("L", "RGB"), range(1, 101)):
        buffer = io.BytesIO()
        Image.new(mode, (8, 8)).save(buffer, "JPEG", quality=quality)
        buffer.seek(0)
        qualities[_tables(JpegImagePlugin.JpegImageFile(buffer))] = quality
    return qualities


def _tables(image: JpegImagePlugin.JpegImageFile) -> Tables:
    return tuple(tuple(table) for _, table in sorted(image.quantization.items()))


def of_folders(
    pool: str | None, real: str | None, generator_names: Sequence[str]
) -> dict[str, Any]:
    """Returns the summary of the real training set, the pool and each generator.

    Each is `summary`, or {"unseen": reason}. pool, real: folders, or None.
    """
    pool_counts, real_counts = _count(pool, True), _count(real, False)
    generators = range(len(generator_names))
    return {
        "real": _of(real_counts, None),
        "pool": _of(pool_counts, None),
        "generators": [_of(pool_counts, g) for g in generators],
    }


def _of(counts: dict[int, Counter] | str, generator: int | None) -> dict[str, Any]:
    """Returns the summary of one generator, or of all if it is None."""
    if isinstance(counts, str):
        return {"unseen": counts}
    if generator is None:
        return summary(sum(counts.values(), Counter()))
    return summary(counts.get(generator, Counter()))


def _count(folder: str | None, with_generators: bool) -> dict[int, Counter] | str:
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
