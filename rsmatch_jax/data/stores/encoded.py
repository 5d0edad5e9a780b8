"""Images that stay JPEG or PNG files until they are read, in TFDS's TFRecord files.

For datasets that fit no memory once decoded, and for views that need the original.
"""

import dataclasses
import io
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from rsmatch_jax.data.stores import tfrecord
from rsmatch_jax.errors import RunFailed

CENTRE = 0.875  # side of an evaluation view, as a share of the image's shorter side


@dataclasses.dataclass(frozen=True)
class EncodedImages:
    """Behaves like uint8 [N, S, S, 3]; an index decodes evaluation views."""

    files: tuple[str, ...]  # paths
    places: np.ndarray  # int64 [N, 3]: position in `files`, offset, length in bytes
    size: int  # S

    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self.places), self.size, self.size, 3)

    @property
    def nbytes(self) -> int:
        """Bytes of all decoded views."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
        if isinstance(index, int | np.integer):
            return self._view(range(len(self))[index])
        rows = np.arange(len(self))[index]
        if rows.ndim != 1:
            raise IndexError("encoded images have only one axis to index")
        views = np.empty((len(rows), *self.shape[1:]), np.uint8)
        # Pillow releases the interpreter's lock while it decodes.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for row, view in enumerate(pool.map(self._view, rows)):
                views[row] = view
        return views

    def read(self, index: int) -> bytes:
        """Returns an image's file, JPEG or PNG. Several threads may call it."""
        file, offset, length = self.places[index].tolist()
        try:
            return tfrecord.read(self.files[file], tfrecord.Place(offset, length))
        except OSError as e:
            reason = f"cannot be read any more ({e}); restore it"
            raise RunFailed(f"{self.files[file]} {reason}") from None

    def take(self, indices: np.ndarray | slice) -> "EncodedImages":
        """Returns the images at `indices`, without reading them."""
        return dataclasses.replace(self, places=self.places[indices])

    def followed_by(self, other: "EncodedImages") -> "EncodedImages":
        """Appends other images of the same size, without reading them."""
        moved = other.places + np.array([[len(self.files), 0, 0]])
        places = np.concatenate([self.places, moved])
        return EncodedImages(self.files + other.files, places, self.size)

    def check(self, indices: np.ndarray):
        """Raises RunFailed that names the first damaged image of `indices`."""
        for index in np.asarray(indices).tolist():
            self._view(index)

    def _view(self, index: int) -> np.ndarray:
        try:
            return evaluation_view(self.read(index), self.size)
        except (OSError, ValueError, SyntaxError) as e:  # from Pillow's decoders
            file, offset, _ = self.places[index].tolist()
            place = f"the image at byte {offset} of {self.files[file]}"
            reason = f"cannot be decoded ({e}); copy or prepare the dataset again"
            raise RunFailed(f"{place} {reason}") from None


def locate(
    folder: str, shards: Sequence[str], places: np.ndarray, size: int
) -> EncodedImages:
    """Returns the images at `places` in a folder's files; ValueError if they misfit."""
    if places.dtype != np.int64 or places.shape != (len(places), 3):
        raise ValueError(f"places are {places.dtype} {places.shape}")
    # A path in place of a file name could lead out of the dataset's folder.
    if any(os.path.basename(shard) != shard for shard in shards):
        raise ValueError("shards are no file names")
    if len(places) and (places.min() < 0 or places[:, 0].max() >= len(shards)):
        raise ValueError("places lie in no shard")
    paths = tuple(os.path.join(folder, shard) for shard in shards)
    return EncodedImages(paths, places, size)


def evaluation_view(data: bytes, size: int) -> np.ndarray:
    """Returns the `central_view` of a JPEG or PNG file."""
    from PIL import Image  # lazy: decoded datasets need no Pillow

    with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
        return central_view(image.convert("RGB"), size)


def central_view(rgb: Any, size: int) -> np.ndarray:
    """Returns the central square of a PIL.Image of mode RGB, uint8 [size, size, 3].
    Pillow's antialiased bilinear kernel resizes it, as in torchvision's crops."""
    from PIL import Image  # lazy, as above

    side = CENTRE * min(rgb.size)
    left, top = (rgb.width - side) / 2, (rgb.height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(rgb.resize((size, size), Image.Resampling.BILINEAR, box=box))
