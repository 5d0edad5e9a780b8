"""Image files in a folder or a zip, and their way to one size. No TensorFlow."""

import contextlib
import dataclasses
import hashlib
import io
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from rsmatch_jax.data.images import safe_zip
from rsmatch_jax.data.stores.dataset_folder import natural_key
from rsmatch_jax.errors import RequestError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
KERNEL = "Pillow BOX (area mean)"  # of `fit`
# Pillow knows more, and for some of them starts other programs, whatever a file's name.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
_ORIENTATION = 0x0112  # EXIF
_PNG_DEPTH = 24  # place of the bits a channel in a PNG file


class Unreadable(Exception):
    """A file that is no whole image."""


@dataclasses.dataclass(frozen=True)
class File:
    """path: below the source, with forward slashes. read() gives its bytes."""

    path: str
    read: Callable[[], bytes]


@dataclasses.dataclass(frozen=True)
class Picture:
    """One image at its final size.

    encoded: its file's own bytes where nothing had to change, else None.
    pixels: uint8 [H, W, 3]. resized, cropped: what was done to it. original: width and
    height in the file. changes: all that was done, in words.
    """

    encoded: bytes | None
    pixels: np.ndarray
    resized: bool
    cropped: bool
    original: tuple[int, int]
    changes: tuple[str, ...]

    def digest(self) -> bytes:
        """Equal for equal pixels."""
        return hashlib.blake2b(self.pixels.tobytes(), digest_size=16).digest()


@contextlib.contextmanager
def open_source(source: str) -> Iterator[tuple[list[File], list[File]]]:
    """The image files of a folder or zip in natural order, and the other files.

    Raises: RequestError where it is neither, or a zip that is damaged or that
    `safe_zip` refuses.
    """
    source = os.path.abspath(os.path.expanduser(source))
    if os.path.isdir(source):
        yield in_folder(source)
    elif os.path.isfile(source):
        try:
            archive = zipfile.ZipFile(source)
        except (zipfile.BadZipFile, OSError) as e:
            raise RequestError(
                f"--source={source} is no whole zip ({e}); download it again"
            ) from None
        with archive:
            yield _sorted_images(_zip_files(source, archive))
    else:
        raise RequestError(f"--source={source}: there is no such folder or zip")


def in_folder(folder: str) -> tuple[list[File], list[File]]:
    """The image files below a folder in natural order, and the other files."""
    return _sorted_images(_folder_files(folder))


def _sorted_images(files: list[File]) -> tuple[list[File], list[File]]:
    images = [f for f in files if _is_image(f.path)]
    images.sort(key=lambda f: natural_key(f.path))
    return images, [f for f in files if not _is_image(f.path)]


def _is_image(path: str) -> bool:
    parts = path.split("/")
    hidden = any(p.startswith(".") or p == "__MACOSX" for p in parts)
    return not hidden and path.lower().endswith(SUFFIXES)


def _folder_files(source: str) -> list[File]:
    files = []
    for folder, _, names in os.walk(source):
        for name in names:
            path = os.path.join(folder, name)
            below = os.path.relpath(path, source).replace(os.sep, "/")
            files.append(File(below, lambda path=path: read_file(path)))
    return files


def read_file(path: str) -> bytes:
    try:
        if os.path.getsize(path) > safe_zip.MAX_FILE_MIB * 2**20:
            raise Unreadable(f"larger than {safe_zip.MAX_FILE_MIB} MiB")
        with open(path, "rb") as f:
            return f.read()
    except OSError as e:
        raise Unreadable(str(e)) from None


def _zip_files(source: str, archive: zipfile.ZipFile) -> list[File]:
    return [
        File(path, lambda e=entry: _read_entry(archive, e))
        for path, entry in safe_zip.members(source, archive, _is_image)
    ]


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    try:
        return safe_zip.read(archive, entry)
    except Exception as e:
        # Damaged streams raise zlib.error, BadZipFile, EOFError, RuntimeError, ...
        raise Unreadable(str(e) or type(e).__name__) from None


@dataclasses.dataclass(frozen=True)
class Decoded:
    """An image file's pixels, before they are brought to a size.

    rgb: upright, mode RGB. original: width and height in the file. plain: whether its
    own bytes, a JPEG or PNG, show these pixels to any reader. changes: as of Picture.
    """

    rgb: Image.Image
    original: tuple[int, int]
    plain: bool
    changes: tuple[str, ...]


@contextlib.contextmanager
def bombs_refused_by_name() -> Iterator[None]:
    """Leaves out Pillow's warning of too many pixels, which names no file: `decode`
    refuses such a file. For the main thread, around threads that decode."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def decode(data: bytes) -> Decoded:
    """An image file's first picture. Callable from several threads.

    Raises: Unreadable for what is no whole image of FORMATS, for grey of more than 8
    bits, and for more pixels than Pillow's limit against decompression bombs.
    """
    if not data:
        raise Unreadable("an empty file")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            # Pillow only warns up to twice its limit.
            most = Image.MAX_IMAGE_PIXELS  # None where a caller has lifted it
            if most is not None and image.width * image.height > most:
                raise Unreadable(
                    f"{image.width}x{image.height} pixels, more than {most}"
                )
            several = getattr(image, "is_animated", False)
            image.load()
            mode, original = image.mode, image.size
            if mode.startswith(("I", "F")):
                raise Unreadable(f"mode {mode}, more than 8 bits a channel")
            deep = image.format == "PNG" and data[_PNG_DEPTH] > 8
            transparent = image.has_transparency_data
            # Some cameras write 0, which means nothing.
            upright = image.getexif().get(_ORIENTATION) not in range(2, 9)
            rgb = image if upright else ImageOps.exif_transpose(image)
            rgb = rgb if rgb.mode == "RGB" else rgb.convert("RGB")
            plain = mode in ("RGB", "L") and image.format in ("JPEG", "PNG")
    except Unreadable:
        raise
    except UnidentifiedImageError:
        raise Unreadable(f"cannot identify it as {', '.join(FORMATS)}") from None
    except Exception as e:
        # Pillow's decoders raise nearly anything on damaged files.
        raise Unreadable(str(e) or type(e).__name__) from None
    changes = {
        "first frame of several": several,
        "turned upright": not upright,
        "grey made three channels": mode in ("1", "L", "LA"),
        "CMYK made RGB": mode == "CMYK",
        "16 bits a channel made 8": deep,
        "alpha channel dropped": transparent,
    }
    said = tuple(words for words, done in changes.items() if done)
    return Decoded(rgb, original, plain and upright, said)


def fit(data: bytes, size: int | None) -> Picture:
    """Decodes an image file and brings it to `size` x `size` RGB, None = as it is.

    A JPEG or PNG that has that size already keeps its bytes. Any other is cropped to
    its central square and resized by Pillow's BOX, which is the area mean when it
    shrinks: one antialiased kernel for all, so that the kernel tells no generator from
    another. Raises: Unreadable.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        found = decode(data)
    return square(found, size, data)


def square(found: Decoded, size: int | None, data: bytes | None = None) -> Picture:
    """The second half of `fit`; data: the file's bytes, to be kept where they may."""
    rgb, changes = found.rgb, found.changes
    resized = size is not None and rgb.size != (size, size)
    cropped = resized and rgb.width != rgb.height
    if resized:
        side = min(rgb.size)
        left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
        rgb = rgb.resize(
            (size, size),
            Image.Resampling.BOX,
            box=(left, top, left + side, top + side),
        )
        if cropped:
            changes += ("cropped to its central square",)
        changes += (resized_from(found.original),)
    return Picture(
        encoded=data if found.plain and not resized else None,
        pixels=np.asarray(rgb),
        resized=resized,
        cropped=cropped,
        original=found.original,
        changes=changes,
    )


def resized_from(original: tuple[int, int]) -> str:
    """The words of `changes` for an image of this width and height."""
    return f"resized from {original[0]}x{original[1]}"
