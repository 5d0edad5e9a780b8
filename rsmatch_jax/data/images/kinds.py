"""Which files are images that are read here, by their names and by their content."""

import functools
import importlib.util
import itertools
import os
from collections import Counter
from collections.abc import Iterable

from PIL import features

from rsmatch_jax.data.images.folder_tree import some

# Pillow opens more formats, and starts other programs for some, whatever the suffix.
_FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jfif"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm"),
}
_AVIF, _HEIF = (".avif",), (".heic", ".heif")
# Pictures that are not read, as far as they are not among `formats`.
_PICTURES = (".avif", ".heic", ".heif", ".jxl", ".jp2", ".svg", ".psd", ".tga", ".ico")
_PICTURES += (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw")
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")


@functools.cache
def formats() -> dict[str, tuple[str, ...]]:
    """Returns {format: suffixes} of the images that are read here."""
    readable = dict(_FORMATS)
    if features.check("avif"):
        readable["AVIF"] = _AVIF
    if importlib.util.find_spec("pillow_heif"):
        importlib.import_module("pillow_heif").register_heif_opener()
        readable["HEIF"] = _HEIF
    return readable


@functools.cache
def suffixes() -> tuple[str, ...]:
    """Returns the suffixes, in lower case, of the images that are read here."""
    return tuple(itertools.chain.from_iterable(formats().values()))


def is_image(path: str) -> bool:
    """Whether a path with forward slashes is an image's, by its suffix."""
    return not is_hidden(path) and path.lower().endswith(suffixes())


def unread(others: Iterable[str]) -> list[str]:
    """Returns lines about the paths of pictures that are not of `formats`, and of
    archives, which are not opened inside a folder or another archive."""
    names = [path for path in others if not is_hidden(path)]
    endings = Counter(os.path.splitext(name.lower())[1] for name in names)
    numbers = ", ".join(f"{endings[e]} {e}" for e in _PICTURES if endings[e])
    archives = sorted(name for name in names if name.lower().endswith(_ARCHIVES))
    lines = {
        "pictures that cannot be read here, convert them": numbers,
        "archives inside, which are not opened, unpack them": some(archives),
    }
    return [f"{what}: {which}" for what, which in lines.items() if which]


def is_hidden(path: str) -> bool:
    """Whether a part of the path is a hidden name, or a resource fork of macOS."""
    return any(p.startswith(".") or p == "__MACOSX" for p in path.split("/"))
