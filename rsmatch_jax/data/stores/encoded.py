"""Images that stay files until they are read: of sets that fit no memory once decoded,
and for views that need the original. They lie in the TFRecord files of a TFDS dataset
folder, where `encoded_index` has found them. No TensorFlow.
"""

import dataclasses
import io
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from rsmatch_jax.data.stores import tfrecord
from rsmatch_jax.errors import RunFailed

CENTRE = 0.875  # of the shorter side, that an evaluation view shows


@dataclasses.dataclass(frozen=True)
class EncodedImages:
    """Looks like uint8 [N, S, S, 3], and is decoded where it is indexed.

    Any of `[int]`, `[slice]` and `[index array]` gives evaluation views: the central
    square of CENTRE times the shorter side, resized to S (so that the shorter
    side is S / CENTRE). Training makes its views of the files, `read`.
    files: paths; places: int64 [N, 3], position in `files`, then offset and length in
    bytes; size: S.
    """

    files: tuple[str, ...]
    places: np.ndarray
    size: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self.places), self.size, self.size, 3)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    @property
    def ndim(self) -> int:
        return 4

    @property
    def nbytes(self) -> int:
        """Of the views if all were decoded."""
        return len(self.places) * self.size * self.size * 3

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, at: int | slice | np.ndarray) -> np.ndarray:
        if isinstance(at, int | np.integer):
            return self._view(range(len(self))[at])
        rows = np.arange(len(self))[at]
        if rows.ndim != 1:
            raise IndexError("encoded images are indexed by image alone")
        views = np.empty((len(rows), *self.shape[1:]), np.uint8)
        if len(rows):
            # Pillow decodes without holding the interpreter.
            with ThreadPoolExecutor(min(len(rows), os.cpu_count() or 1)) as pool:
                for row, view in enumerate(pool.map(self._view, rows)):
                    views[row] = view
        return views

    def read(self, index: int) -> bytes:
        """An image's file, JPEG or PNG. Callable from several threads."""
        file, offset, length = self.places[index].tolist()
        try:
            return tfrecord.read(self.files[file], tfrecord.Place(offset, length))
        except OSError as e:
            raise RunFailed(
                f"{self.files[file]} cannot be read any more ({e}); restore it"
            ) from None

    def encoded(self, indices: np.ndarray) -> list[bytes]:
        """The images' files in the order of `indices`."""
        return [self.read(index) for index in indices]

    def take(self, indices: np.ndarray) -> "EncodedImages":
        """The images at `indices`, in their order; nothing is read."""
        return dataclasses.replace(self, places=self.places[indices])

    def followed_by(self, other: "EncodedImages") -> "EncodedImages":
        """These images and then the other ones, of the same size; nothing is read."""
        moved = other.places + np.array([[len(self.files), 0, 0]])
        return dataclasses.replace(
            self,
            files=self.files + other.files,
            places=np.concatenate([self.places, moved]),
        )

    def where(self, index: int) -> str:
        """An image's place in words."""
        file, offset, _ = self.places[index].tolist()
        return f"the image at byte {offset} of {self.files[file]}"

    def check(self, indices: np.ndarray):
        """Raises RunFailed naming the first of these images that is damaged."""
        for index in np.asarray(indices).tolist():
            self._view(index)

    def _view(self, index: int) -> np.ndarray:
        try:
            return evaluation_view(self.read(index), self.size)
        except (OSError, ValueError, SyntaxError) as e:  # Pillow's decoders
            raise RunFailed(
                f"{self.where(index)} cannot be decoded ({e}); copy or prepare the "
                "dataset again"
            ) from None


def evaluation_view(data: bytes, size: int) -> np.ndarray:
    """The deterministic view of an image file, uint8 [size, size, 3], by Pillow's
    antialiased bilinear kernel, as torchvision's crops."""
    from PIL import Image  # lazy: sets that are decoded need no Pillow

    with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
        return central_view(image.convert("RGB"), size)


def central_view(rgb: Any, size: int) -> np.ndarray:
    """`evaluation_view` of a decoded picture, a PIL.Image of mode RGB."""
    from PIL import Image  # lazy, as above

    side = CENTRE * min(rgb.size)
    left, top = (rgb.width - side) / 2, (rgb.height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(rgb.resize((size, size), Image.Resampling.BILINEAR, box=box))
