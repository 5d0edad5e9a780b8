"""Reads how picture files are encoded: PNG or JPEG, and JPEG's settings.

If only a generator's files are JPEG, or JPEG of another quality, then their pixels have
traces that a classifier may learn instead of the classes.
"""

import functools
import hashlib
import io
import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from PIL import Image, JpegImagePlugin

from rsmatch_jax.data.stores import dataset_folder

_SHOWN = 3
Tables: TypeAlias = tuple[tuple[int, ...], ...]
_SAMPLINGS = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}


class Encoding(NamedTuple):
    """How a file is encoded: Pillow's name of the format; only for JPEG the others."""

    format: str
    setting: str = ""  # in words
    tables: Tables = ()  # of quantisation, 64 numbers each


def inspect(data: bytes) -> Encoding:
    """Returns how a picture file is encoded, by its header; decodes no pixel."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            # Pillow's class for MPO files is a kind of JpegImageFile too.
            is_jpeg = isinstance(image, JpegImagePlugin.JpegImageFile)
            if not is_jpeg or image.format != "JPEG":
                return Encoding(image.format or "unknown")
            tables, sampling = _tables(image), JpegImagePlugin.get_sampling(image)
            return Encoding("JPEG", _describe(tables, sampling), tables)
    except OSError:  # Pillow's UnidentifiedImageError is one
        return Encoding("unknown")


def summary(counts: Counter[Encoding]) -> dict[str, Any]:
    """Returns the numbers of pictures by format and the commonest JPEG settings."""
    formats = Counter(e.format for e in counts.elements())
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
    if quality := _qualities().get(tables):
        text = f"quality {quality}"
    else:
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
    """Returns the summary of the real training set, the pool and each generator. Each
    is `summary`, or {"unseen": reason}. pool, real: folders, or None."""
    pool_counts, real_counts = _count(pool), _count(real)

    def part(counts: dict[int, Counter] | str, generator: int | None = None):
        if isinstance(counts, str):
            return {"unseen": counts}
        parts = counts.values() if generator is None else [counts[generator]]
        return summary(sum(parts, Counter()))

    generators = [part(pool_counts, g) for g in range(len(generator_names))]
    both = {"real": part(real_counts), "pool": part(pool_counts)}
    return {**both, "generators": generators}


def _count(folder: str | None) -> dict[int, Counter] | str:
    """Returns encodings by generator (-1: none), or why they cannot be read."""
    if folder is None or not dataset_folder.is_dataset(folder):
        return "there are only decoded pictures, no picture files"
    try:
        from rsmatch_jax.data.stores import tf_read  # lazy: needs TensorFlow
    except ImportError as e:
        return f"TensorFlow and tensorflow-datasets are not installed ({e})"
    counts: dict[int, Counter] = defaultdict(Counter)
    for data, generator in tf_read.read_files(folder, "train"):
        counts[generator][inspect(data)] += 1
    return counts
