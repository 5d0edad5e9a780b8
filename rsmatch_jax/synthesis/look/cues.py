"""Measures what may tell synthetic pictures from real ones. Pure numpy.

Pictures are as in `forensics.pictures`.
"""

import math
from typing import NamedTuple

import numpy as np

from rsmatch_jax.forensics import pictures

NEAR_GREY = 7.0  # levels of mean colourfulness
NEAR_TWIN = 0.98  # correlation of two thumbnails
THUMBNAIL = 8  # pixels a side
_BLOCK_VALUES = 1 << 22  # correlations at a time


class Statistics(NamedTuple):
    """Figures of each picture, float64, in levels.

    means, stds: [N, C] over a picture's pixels. chroma: [N, 1], mean of largest minus
    smallest channel; [N, 0] for grey pictures. border [N, 1], inside [N]: mean absolute
    difference of neighbouring grey pixels across the edges of JPEG's 8-pixel blocks,
    and elsewhere; border is [N, 0] if pictures have no such edge.
    """

    means: np.ndarray
    stds: np.ndarray
    chroma: np.ndarray
    border: np.ndarray
    inside: np.ndarray

    def rows(self, which: np.ndarray) -> "Statistics":
        """Returns the figures of some pictures. which: an index array or a mask."""
        return Statistics(*(column[which] for column in self))


def statistics(images: np.ndarray) -> Statistics:
    """Returns the figures of every picture."""
    parts = [_chunk_statistics(chunk) for chunk in pictures.chunks(images)]
    return Statistics(*map(np.concatenate, zip(*parts, strict=True)))


def _chunk_statistics(images: np.ndarray) -> Statistics:
    planes = np.ascontiguousarray(np.moveaxis(images, 3, 0))
    planes = planes.reshape(len(planes), len(images), -1)
    chroma = (planes.max(0) - planes.min(0)).mean(1, keepdims=True)
    border, inside = pictures.steps(pictures.to_grey(images))
    chroma = chroma if len(planes) == 3 else chroma[:, :0]
    means, stds = planes.mean(2).T, planes.std(2).T
    return Statistics(means, stds, chroma, border, inside)


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
    vectors = pictures.to_grey(pictures.shrink(images, THUMBNAIL)[rows]).reshape(
        len(rows), -1
    )
    vectors -= vectors.mean(1, keepdims=True)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.maximum(length, math.sqrt(vectors.shape[1]))
    count = 0
    for label in np.unique(labels):
        members = vectors[labels == label]
        block = max(1, _BLOCK_VALUES // len(members))
        for start in range(0, len(members), block):
            near = members[start : start + block] @ members.T > NEAR_TWIN
            near[np.arange(len(near)), np.arange(len(near)) + start] = False
            count += int(near.any(1).sum())
    return count / len(rows)
