"""Reads image files from a folder or zip and brings them to one size."""

import contextlib
import dataclasses
import functools
import hashlib
import io
import os
import warnings
import zipfile
from collections.abc import Callable, Generator

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from rsmatch_jax.data.images import safe_zip
from rsmatch_jax.data.stores.dataset_folder import natural_key
from rsmatch_jax.errors import RequestError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
RESIZED = "resized from {}x{}"  # an entry of `changes`
KERNEL = "Pillow BOX (area mean)"  # of `square`
# Pillow opens more formats, and starts other programs for some, whatever the suffix.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
_ORIENTATION = 0x0112  # EXIF
_PNG_DEPTH = 24  # offset of the bits per channel in a PNG file


class Unreadable(Exception):
    """A file is no complete image."""


@dataclasses.dataclass(frozen=True)
class File:
    """path: below the source, with forward slashes. read() returns its bytes."""

    path: str
    read: Callable[[], bytes]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A decoded image, upright and of mode RGB."""

    encoded: bytes | None  # the file if it is a JPEG or PNG that shows these pixels
    rgb: Image.Image
    original: tuple[int, int]  # width and height in the file
    changes: tuple[str, ...]  # what was done to the image, in words
    resized: bool = False
    cropped: bool = False

    @functools.cached_property
    def pixels(self) -> np.ndarray:
        """uint8 [H, W, 3]."""
        return np.asarray(self.rgb)

    def digest(self) -> bytes:
        """Returns 16 bytes that are equal for equal pixels."""
        return hashlib.blake2b(self.pixels.tobytes(), digest_size=16).digest()


@contextlib.contextmanager
def open_source(source: str) -> Generator[tuple[list[File], list[File]]]:
    """Opens a folder or zip: its images in natural order, and the other files."""
    if os.path.isdir(source):
        yield in_folder(source)
    elif os.path.isfile(source):
        try:
            archive = zipfile.ZipFile(source)
        except (zipfile.BadZipFile, OSError) as e:
            reason = f"is no complete zip ({e}); download it again"
            raise RequestError(f"--source={source} {reason}") from None
        with archive:
            read = functools.partial(_read_entry, archive)
            entries = safe_zip.members(source, archive, _is_image)
            yield _sorted_images(
                [File(p, functools.partial(read, e)) for p, e in entries]
            )
    else:
        raise RequestError(f"--source={source}: there is no such folder or zip")


def in_folder(folder: str) -> tuple[list[File], list[File]]:
    """Returns the image files below a folder in natural order, and the other files."""
    files = []
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            below = os.path.relpath(path, folder).replace(os.sep, "/")
            files.append(File(below, lambda path=path: read_file(path)))
    return _sorted_images(files)


def read_file(path: str) -> bytes:
    """Returns a file's bytes; raises Unreadable if it is too large or unreadable."""
    try:
        if os.path.getsize(path) > safe_zip.MAX_FILE_MIB * 2**20:
            raise Unreadable(f"larger than {safe_zip.MAX_FILE_MIB} MiB")
        with open(path, "rb") as f:
            return f.read()
    except OSError as e:
        raise Unreadable(str(e)) from None


@contextlib.contextmanager
def bombs_refused_by_name() -> Generator[None]:
    """Silences Pillow's warning, in the main thread: `decode` refuses such files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def decode(data: bytes) -> Picture:
    """Decodes an image file's first picture. Several threads may call it.

    Raises Unreadable if it is no complete image of FORMATS, grey with more than 8 bits,
    or has more pixels than Pillow's limit against decompression bombs.
    """
    if not data:
        raise Unreadable("an empty file")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            # Up to twice its limit Pillow only warns.
            most = Image.MAX_IMAGE_PIXELS  # None if the caller has lifted the limit
            width, height = image.size
            if most is not None and width * height > most:
                raise Unreadable(f"{width}x{height} pixels, more than {most}")
            image.load()
            mode, original = image.mode, image.size
            if mode.startswith(("I", "F")):
                raise Unreadable(f"mode {mode}, more than 8 bits a channel")
            # Some cameras write 0, which means nothing.
            upright = image.getexif().get(_ORIENTATION) not in range(2, 9)
            rgb = image if upright else ImageOps.exif_transpose(image)
            rgb = rgb if rgb.mode == "RGB" else rgb.convert("RGB")
            plain = mode in ("RGB", "L") and image.format in ("JPEG", "PNG") and upright
            is_deep = image.format == "PNG" and data[_PNG_DEPTH] > 8
            changes = {
                "first frame of several": getattr(image, "is_animated", False),
                "turned upright": not upright,
                "grey made three channels": mode in ("1", "L", "LA"),
                "CMYK made RGB": mode == "CMYK",
                "16 bits a channel made 8": is_deep,
                "alpha channel dropped": image.has_transparency_data,
            }
    except Unreadable:
        raise
    except UnidentifiedImageError:
        raise Unreadable(f"cannot identify it as {', '.join(FORMATS)}") from None
    except Exception as e:  # Pillow's decoders raise nearly anything on damaged files
        raise Unreadable(str(e) or type(e).__name__) from None
    applied = tuple(words for words, is_applied in changes.items() if is_applied)
    return Picture(data if plain else None, rgb, original, applied)


def fit(data: bytes, size: int | None) -> Picture:
    """Decodes an image file and brings it to `size` x `size`, see `square`."""
    with bombs_refused_by_name():
        return square(decode(data), size)


def square(picture: Picture, size: int | None) -> Picture:
    """Crops a picture to its central square of `size` px; None keeps its size.

    A JPEG or PNG of that size keeps its bytes. Pillow's BOX, the area mean, resizes any
    other image, so that the kernel does not tell one generator from another.
    """
    rgb = picture.rgb
    if size is None or rgb.size == (size, size):
        return picture
    side = min(rgb.size)
    left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
    box = (left, top, left + side, top + side)
    cropped = rgb.width != rgb.height
    changes = ("cropped to its central square",) if cropped else ()
    return dataclasses.replace(
        picture,
        encoded=None,
        rgb=rgb.resize((size, size), Image.Resampling.BOX, box=box),
        changes=(*picture.changes, *changes, RESIZED.format(*picture.original)),
        resized=True,
        cropped=cropped,
    )


def _sorted_images(files: list[File]) -> tuple[list[File], list[File]]:
    images = [f for f in files if _is_image(f.path)]
    images.sort(key=lambda f: natural_key(f.path))
    return images, [f for f in files if not _is_image(f.path)]


def _is_image(path: str) -> bool:
    hidden = any(p.startswith(".") or p == "__MACOSX" for p in path.split("/"))
    return not hidden and path.lower().endswith(SUFFIXES)


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    try:
        return safe_zip.read(archive, entry)
    except Exception as e:  # of a damaged stream: zlib.error, BadZipFile, EOFError, ...
        raise Unreadable(str(e) or type(e).__name__) from None
