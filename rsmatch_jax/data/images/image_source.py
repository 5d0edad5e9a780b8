"""Reads image files from a folder or archive and brings them to one size."""

import contextlib
import dataclasses
import functools
import hashlib
import io
import os
import warnings
from collections.abc import Callable, Generator, Iterable

import numpy as np
from PIL import (
    Image,
    ImageOps,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
)

from rsmatch_jax.data.images import alpha, archives, folder_tree, kinds, limits
from rsmatch_jax.data.images.folder_tree import some
from rsmatch_jax.data.stores.dataset_folder import natural_key
from rsmatch_jax.errors import RequestError
from rsmatch_jax.terminal import say

RESIZED, CROPPED = "resized", "cropped to its central square"  # of `Picture.kinds`
KERNEL = "Pillow BOX (area mean)"  # of `square`
_ORIENTATION = 0x0112  # EXIF
_PNG_DEPTH = 24  # offset of the bits per channel in a PNG file
_TIFF_DEPTH = 258  # tag of the bits of each channel


def kind_of_change(change: str) -> str:
    """Returns an entry of `changes` without its numbers: resized."""
    return change.partition(" from ")[0]


class Unreadable(Exception):
    """A file is no complete image."""


@dataclasses.dataclass(frozen=True)
class File:
    """path: below the source, with forward slashes. read() returns its bytes. place:
    its path on disk, None in an archive."""

    path: str
    read: Callable[[], bytes]
    place: str | None = None


@dataclasses.dataclass(frozen=True)
class Picture:
    """A decoded image, upright and of mode RGB."""

    encoded: bytes | None  # the file if it is a JPEG or PNG that shows these pixels
    rgb: Image.Image
    original: tuple[int, int]  # width and height in the file
    changes: tuple[str, ...]  # what was done to the image, in words

    @property
    def kinds(self) -> tuple[str, ...]:
        """The changes without the sizes that differ by picture, to be counted."""
        return tuple(map(kind_of_change, self.changes))

    @functools.cached_property
    def pixels(self) -> np.ndarray:
        """uint8 [H, W, 3]."""
        return np.asarray(self.rgb)

    def digest(self) -> bytes:
        """Returns 16 bytes that are equal for equal pixels."""
        return hashlib.blake2b(self.pixels.tobytes(), digest_size=16).digest()


@contextlib.contextmanager
def open_source(
    source: str, flag: str = "--source", note: Callable[[str], None] = say
) -> Generator[tuple[list[File], list[File]]]:
    """Opens a folder, zip, tar or tar.gz: its images in natural order, and other files.

    flag: names the source in messages. note: takes a line for each kind of thing that
    is not read. Raises RequestError if there is no such source, or the archive is not
    to be trusted.
    """
    label = f"{flag}={source}"
    with contextlib.ExitStack() as stack:
        if os.path.isdir(source):
            images, others, lines = in_folder(source)
        elif os.path.isfile(source) and kinds.is_image(os.path.basename(source)):
            folder = os.path.dirname(source) or "."
            raise RequestError(f"{label} is a picture; name its folder, {folder}")
        elif os.path.isfile(source):
            archive = archives.opened(source, label, kinds.is_image)
            members, empty = stack.enter_context(archive)
            files = [File(p, functools.partial(_read_entry, r)) for p, r in members]
            images, others = _sorted_images(files)
            lines = [f"empty folders: {some(empty)}"] if empty else []
        else:
            raise RequestError(f"{label}: there is no such folder, {archives.KINDS}")
        for line in [*lines, *kinds.unread(f.path for f in others)]:
            note(f"{label}: {line}")
        yield [_printable(f) for f in images], [_printable(f) for f in others]


def in_folder(folder: str) -> tuple[list[File], list[File], list[str]]:
    """Returns the images below a folder in natural order, the other files, and a line
    for each kind of thing that is not followed or not read."""
    try:
        tree = folder_tree.Tree(folder)
    except OSError as e:
        raise RequestError(f"{folder} cannot be read: {e.strerror}") from None
    files = [
        File(path, functools.partial(read_file, real), real)
        for real, path in tree.files.items()
    ]
    return *_sorted_images(files), tree.lines


def read_file(path: str) -> bytes:
    """Returns a file's bytes; raises Unreadable if it is too large or unreadable."""
    most = limits.MAX_FILE_MIB * 2**20
    try:
        with open(path, "rb") as f:
            size = os.fstat(f.fileno()).st_size
            if 0 < size <= most:
                return f.read()
            # A pipe or device has no size, and maybe no end.
            data = b"" if size else f.read(most + 1)
    except OSError as e:
        raise Unreadable(str(e)) from None
    if max(size, len(data)) > most:
        raise Unreadable(f"larger than {limits.MAX_FILE_MIB} MiB")
    return data


@contextlib.contextmanager
def bombs_refused_by_name() -> Generator[None]:
    """Silences Pillow's warning, in the main thread: `decode` refuses such files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def decode(data: bytes, background: str = alpha.BACKGROUND) -> Picture:
    """Decodes an image file's first picture. Several threads may call it.

    background: the colour that transparent pictures are put on. Raises Unreadable if
    it is no complete image of `kinds.formats`, grey with more than 8 bits, or has more
    pixels than Pillow's limit against decompression bombs.
    """
    if not data:
        raise Unreadable("an empty file")
    try:
        with Image.open(io.BytesIO(data), formats=tuple(kinds.formats())) as image:
            # Up to twice its limit Pillow only warns.
            most = Image.MAX_IMAGE_PIXELS  # None if the caller has lifted the limit
            original = width, height = image.size
            if most is not None and width * height > most:
                raise Unreadable(f"{width}x{height} pixels, more than {most}")
            is_deep = _is_deep(image, data)
            # Some cameras write 0, which means nothing. Pillow turns a TIFF by itself.
            upright = image.getexif().get(_ORIENTATION) not in range(2, 9)
            image.load()
            mode = image.mode
            if mode.startswith(("I", "F")):
                raise Unreadable(f"mode {mode}, more than 8 bits a channel")
            turned = image if upright else ImageOps.exif_transpose(image)
            rgb, transparency = alpha.removed(turned, background)
            plain = mode in ("RGB", "L") and image.format in ("JPEG", "PNG") and upright
            changes = {
                "first frame of several": getattr(image, "is_animated", False),
                "turned upright": not upright,
                "grey made three channels": mode in ("1", "L", "LA"),
                "CMYK made RGB": mode == "CMYK",
                "16 bits a channel made 8": is_deep,
            }
    except Unreadable:
        raise
    except UnidentifiedImageError:
        raise Unreadable(
            f"cannot identify it as {', '.join(kinds.formats())}"
        ) from None
    except Exception as e:  # Pillow's decoders raise nearly anything on damaged files
        raise Unreadable(str(e) or type(e).__name__) from None
    applied = [words for words, is_applied in changes.items() if is_applied]
    encoded = data if plain and not transparency else None
    return Picture(encoded, rgb, original, (*applied, *transparency))


def _is_deep(image: Image.Image, data: bytes) -> bool:
    """Whether an opened image has more than 8 bits a channel."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return max(image.tag_v2.get(_TIFF_DEPTH, (8,))) > 8
    if isinstance(image, PpmImagePlugin.PpmImageFile):
        arguments = image.tile[0].args  # (mode, largest value) if that is not 255
        return isinstance(arguments, tuple) and arguments[-1] > 255
    return image.format == "PNG" and data[_PNG_DEPTH] > 8


def fit(data: bytes, size: int | None, background: str = alpha.BACKGROUND) -> Picture:
    """Decodes an image file and brings it to `size` x `size`, see `square`."""
    with bombs_refused_by_name():
        return square(decode(data, background), size)


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
    cropped = (CROPPED,) if rgb.width != rgb.height else ()
    return dataclasses.replace(
        picture,
        encoded=None,
        rgb=rgb.resize((size, size), Image.Resampling.BOX, box=box),
        changes=(*picture.changes, *cropped, resized_from(picture.original)),
    )


def resized_from(size: tuple[int, int]) -> str:
    """Returns the entry of `changes` for a picture of this width and height."""
    return f"{RESIZED} from {size[0]}x{size[1]}"


def _sorted_images(files: Iterable[File]) -> tuple[list[File], list[File]]:
    parts: tuple[list[File], list[File]] = ([], [])
    for file in files:
        parts[not kinds.is_image(file.path)].append(file)
    parts[0].sort(key=lambda f: natural_key(f.path))
    return parts


def _printable(file: File) -> File:
    """Escapes what is no text in the name of a file; names stay different."""
    path = os.fsencode(file.path).decode("utf-8", "backslashreplace")
    return file if path == file.path else dataclasses.replace(file, path=path)


def _read_entry(read: Callable[[], bytes]) -> bytes:
    try:
        return read()
    except Exception as e:  # of a damaged stream: zlib.error, BadZipFile, EOFError, ...
        raise Unreadable(str(e) or type(e).__name__) from None
