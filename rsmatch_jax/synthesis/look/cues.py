"""Measures what may tell synthetic pictures from real ones. Pure numpy.

Pictures are uint8 [N, H, W, C], C = 1 or 3. They may be memory-mapped and are read in
chunks. Grey is JPEG's luma (BT.601). Levels are 0..255.
"""

import hashlib
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

NEAR_GREY = 7.0  # levels of mean colourfulness
NEAR_TWIN = 0.98  # correlation of two thumbnails
THUMBNAIL = 8  # pixels a side
BLOCK = 8  # of JPEG, pixels
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_CHUNK_VALUES = 1 << 22


class Statistics(NamedTuple):
    """Figures of each picture, float64, in levels.

    means, stds: [N, C] over a picture's pixels. chroma: [N, 1], mean of largest minus
    smallest channel; [N, 0] for grey pictures. border [N, 1], inside [N]: mean absolute
    difference of neighbouring grey pixels across the edges of JPEG's 8-pixel blocks,
    and elsewhere; border is [N, 0] if pictures have no such edge. detail: [N], mean
    absolute Laplacian of grey, 0 in pictures below 3 pixels.
    """

    means: np.ndarray
    stds: np.ndarray
    chroma: np.ndarray
    border: np.ndarray
    inside: np.ndarray
    detail: np.ndarray

    def rows(self, which: np.ndarray) -> "Statistics":
        """Returns the figures of some pictures. which: an index array or a mask."""
        return Statistics(*(column[which] for column in self))

    def features(self) -> np.ndarray:
        """Returns the input of a classifier, float64 [N, F]."""
        relative = self.border / (self.inside[:, None] + 1)
        columns = (self.means, self.stds, self.inside, self.detail, self.chroma)
        return np.column_stack([*columns, self.border, relative])


def statistics(images: np.ndarray) -> Statistics:
    """Returns the figures of every picture."""
    parts = [_chunk_statistics(chunk) for chunk in _chunks(images)]
    return Statistics(*map(np.concatenate, zip(*parts, strict=True)))


def _chunk_statistics(images: np.ndarray) -> Statistics:
    planes = np.ascontiguousarray(np.moveaxis(images, 3, 0))
    planes = planes.reshape(len(planes), len(images), -1)
    chroma = (planes.max(0) - planes.min(0)).mean(1, keepdims=True)
    grey = to_grey(images)
    border, inside = _steps(grey)
    chroma = chroma if len(planes) == 3 else chroma[:, :0]
    means, stds = planes.mean(2).T, planes.std(2).T
    return Statistics(means, stds, chroma, border, inside, _detail(grey))


def to_grey(images: np.ndarray) -> np.ndarray:
    """Converts uint8 or float32 [N, H, W, 1 or 3] to float32 [N, H, W]."""
    images = images.astype(np.float32)
    return images[..., 0] if images.shape[3] == 1 else images @ _LUMA


def _steps(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (border, inside) of Statistics."""
    sums, counts = np.zeros((2, len(grey))), np.zeros(2)
    for axis in (1, 2):
        steps = np.abs(np.diff(grey, axis=axis)).mean(3 - axis, dtype=np.float64)
        at_border = (np.arange(steps.shape[1]) + 1) % BLOCK == 0
        for i, which in enumerate((at_border, ~at_border)):
            # Weighted by the other side's length: the mean over all pairs of pixels.
            length = grey.shape[3 - axis]
            sums[i] += steps[:, which].sum(1) * length
            counts[i] += which.sum() * length
    border, inside = sums / np.maximum(counts, 1)[:, None]
    return border[:, None][:, : int(counts[0] > 0)], inside


def _detail(grey: np.ndarray) -> np.ndarray:
    if min(grey.shape[1:]) < 3:
        return np.zeros(len(grey))
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1]
    around += grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return np.abs(4 * grey[:, 1:-1, 1:-1] - around).mean((1, 2), dtype=np.float64)


def channels(stats: Statistics) -> dict[str, list[float]]:
    """Returns mean and deviation of each channel over all pixels; [] if no picture."""
    if not len(stats.means):
        return {"mean": [], "std": []}
    mean = stats.means.mean(0)
    variance = (stats.stds**2 + stats.means**2).mean(0) - mean**2
    return {"mean": mean.tolist(), "std": np.sqrt(np.maximum(variance, 0)).tolist()}


def blockiness(stats: Statistics) -> float | None:
    """Returns the difference across block edges over that inside, 1 without JPEG. None
    if the pictures have no block edge, or are flat."""
    if not stats.border.size or not stats.inside.sum():
        return None
    return float(stats.border.sum() / stats.inside.sum())


def grey_share(
    stats: Statistics, labels: np.ndarray, num_classes: int
) -> list[float | None]:
    """Returns each class's share of pictures with chroma below NEAR_GREY, or None."""
    counts = np.bincount(labels, minlength=num_classes)
    grey = np.bincount(labels[stats.chroma[:, 0] < NEAR_GREY], minlength=num_classes)
    return [g / n if n else None for g, n in zip(grey.tolist(), counts, strict=True)]


def digests(images: np.ndarray) -> np.ndarray:
    """Returns bytes [N], equal for equal pixels of one shape."""
    hashes = [hashlib.blake2b(i.tobytes(), digest_size=16).hexdigest() for i in images]
    return np.array(hashes, "S32")


def exact_duplicates(digests: np.ndarray, labels: np.ndarray) -> dict[str, int]:
    """Counts pictures that repeat one of their class, and pixels in several classes. Of
    n equal pictures in a class n - 1 repeat, as in the importer."""
    _, which = np.unique(digests, return_inverse=True)
    num_classes = int(labels.max(initial=0)) + 1
    places = np.unique(which * num_classes + labels)
    shared = np.bincount(places // num_classes) > 1
    return {
        "in_their_class": len(digests) - len(places),
        "pixels_in_several_classes": int(shared.sum()),
    }


def near_twins(
    images: np.ndarray, labels: np.ndarray, rows: np.ndarray
) -> float | None:
    """Returns the share of pictures with a near twin in their class, None if no row.

    The 8x8 grey thumbnails of near twins correlate by more than NEAR_TWIN, whatever
    their brightness and contrast. Contrast below one level counts as one, so that flat
    pictures resemble nothing. rows: the pictures to compare, no two of them equal.
    """
    if not len(rows):
        return None
    labels = labels[rows]
    vectors = to_grey(shrink(images, THUMBNAIL)[rows]).reshape(len(rows), -1)
    vectors -= vectors.mean(1, keepdims=True)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.maximum(length, math.sqrt(vectors.shape[1]))
    count = 0
    for label in np.unique(labels):
        members = vectors[labels == label]
        block = max(1, _CHUNK_VALUES // len(members))
        for start in range(0, len(members), block):
            near = members[start : start + block] @ members.T > NEAR_TWIN
            near[np.arange(len(near)), np.arange(len(near)) + start] = False
            count += int(near.any(1).sum())
    return count / len(rows)


def shrink(images: np.ndarray, side: int) -> np.ndarray:
    """Returns area means, float32 [N, min(H, side), min(W, side), C]."""
    down, across = (_area(size, side) for size in images.shape[1:3])
    chunks = (chunk.astype(np.float32) for chunk in _chunks(images))
    areas = "yh,nhwc,xw->nyxc"
    means = [np.einsum(areas, down, c, across, optimize=True) for c in chunks]
    return np.concatenate(means)


def _area(size: int, side: int) -> np.ndarray:
    """Returns the shares of `size` pixels (columns) in at most `side` new ones."""
    side = min(side, size)
    # Each pixel in `side` equal parts: every `size` parts make a new pixel.
    parts = np.repeat(np.eye(side), size, axis=0).reshape(size, side, side)
    return (parts.sum(1).T / size).astype(np.float32)


def _chunks(images: np.ndarray) -> Iterator[np.ndarray]:
    rows = max(1, _CHUNK_VALUES // math.prod(images.shape[1:]))
    for start in range(0, len(images), rows):
        yield np.asarray(images[start : start + rows])
