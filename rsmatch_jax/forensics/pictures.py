"""Reads pictures in chunks, and filters them. Pure numpy.

Pictures are uint8 [N, H, W, C], C = 1 or 3. They may be memory-mapped. Levels are
0..255. Grey is JPEG's luma (BT.601).
"""

import math
from collections.abc import Iterator

import numpy as np

BLOCK = 8  # of JPEG, pixels
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_CHUNK_VALUES = 1 << 22


def chunks(images: np.ndarray) -> Iterator[np.ndarray]:
    """Yields consecutive pictures, at most _CHUNK_VALUES values at a time."""
    rows = max(1, _CHUNK_VALUES // math.prod(images.shape[1:]))
    for start in range(0, len(images), rows):
        yield np.asarray(images[start : start + rows])


def to_grey(images: np.ndarray) -> np.ndarray:
    """Converts uint8 or float32 [N, H, W, 1 or 3] to float32 [N, H, W]."""
    images = images.astype(np.float32)
    return images[..., 0] if images.shape[3] == 1 else images @ _LUMA


def laplacian(plane: np.ndarray) -> np.ndarray:
    """Returns 4 times a pixel minus its neighbours, [N, H-2, W-2]."""
    around = plane[:, :-2, 1:-1] + plane[:, 2:, 1:-1]
    around += plane[:, 1:-1, :-2] + plane[:, 1:-1, 2:]
    return 4 * plane[:, 1:-1, 1:-1] - around


def steps(plane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (border [N, 1], inside [N]), float64: the mean absolute differences of
    neighbouring pixels across the edges of JPEG's blocks, and elsewhere. border is
    [N, 0] if pictures have no such edge.
    """
    sums, counts = np.zeros((2, len(plane))), np.zeros(2)
    for axis in (1, 2):
        levels = np.abs(np.diff(plane, axis=axis)).mean(3 - axis, dtype=np.float64)
        at_border = (np.arange(levels.shape[1]) + 1) % BLOCK == 0
        for i, which in enumerate((at_border, ~at_border)):
            # Weighted by the other side's length: the mean over all pairs of pixels.
            length = plane.shape[3 - axis]
            sums[i] += levels[:, which].sum(1) * length
            counts[i] += which.sum() * length
    border, inside = sums / np.maximum(counts, 1)[:, None]
    return border[:, None][:, : int(counts[0] > 0)], inside


def shrink(images: np.ndarray, side: int) -> np.ndarray:
    """Returns area means, float32 [N, min(H, side), min(W, side), C]."""
    down, across = (_area(size, side) for size in images.shape[1:3])
    parts = (chunk.astype(np.float32) for chunk in chunks(images))
    areas = "yh,nhwc,xw->nyxc"
    means = [np.einsum(areas, down, c, across, optimize=True) for c in parts]
    return np.concatenate(means)


def _area(size: int, side: int) -> np.ndarray:
    """Returns the shares of `size` pixels (columns) in at most `side` new ones."""
    side = min(side, size)
    # Each pixel in `side` equal parts: every `size` parts make a new pixel.
    parts = np.repeat(np.eye(side), size, axis=0).reshape(size, side, side)
    return (parts.sum(1).T / size).astype(np.float32)
