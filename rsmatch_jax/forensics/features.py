"""Statistics of a picture that may tell a synthetic one from a real one.

Groups of statistics, each of three planes (grey, R - G, B - G) unless it says
otherwise. They describe noise and texture more than content:

- spectrum: mean log power in rings of equal frequency (Durall et al. 2020, "Watch your
  up-convolution", arXiv 2003.01826).
- residual: histogram of the Laplacian, a high-pass filter of the rich models (SRM;
  Fridrich and Kodovsky 2012).
- differences: quantiles and kurtosis of first and second differences along both axes.
- dct: mean log magnitude of each coefficient of 8x8 blocks of grey (Frank et al. 2020,
  "Leveraging frequency analysis", arXiv 2003.08685).
- colour: moments and correlations of the channels, saturation, clipped pixels.
- correlation: of high-pass residuals between channels, and with themselves at small
  distances.
- patterns: histogram of rotation-invariant uniform local binary patterns (Ojala et al.
  2002).
- texture: quantiles of the variance of 4x4 blocks and of the absolute Laplacian.
- grid: differences across the edges of JPEG's 8-pixel blocks over those elsewhere.
"""

import concurrent.futures
import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from rsmatch_jax.forensics import pictures
from rsmatch_jax.forensics.groups import GROUPS
from rsmatch_jax.runtime import cores

# Of a picture's channels; the float32 planes of a chunk fit a core's cache.
_CHUNK_VALUES = 1 << 19


def compute(images: Any) -> np.ndarray:
    """Returns the statistics of pictures, float32 [N, F], by a thread per core.

    F depends on the size of the pictures only where they are small: some rings of the
    spectrum are empty below 16 pixels. images: uint8 [N, H, W, 1 or 3], or encoded
    ones, which each thread decodes a few at a time.
    """
    width = max(group.stop for group in groups(images.shape[1:]).values())
    parts = _of_chunks(images, lambda chunk: np.concatenate(_chunk(chunk), axis=1))
    return np.concatenate([np.zeros((0, width), np.float32), *parts])


def digests(images: Any) -> np.ndarray:
    """Returns what is equal for equal pictures, S32 [N]. The last bits of statistics
    are not, which depend on the number of pictures in a chunk. images: as in `compute`.
    """

    def of_chunk(chunk: np.ndarray) -> np.ndarray:
        made = (hashlib.blake2b(x.tobytes(), digest_size=16) for x in chunk)
        return np.array([digest.hexdigest() for digest in made], "S32")

    return np.concatenate([np.zeros(0, "S32"), *_of_chunks(images, of_chunk)])


def _of_chunks(
    images: Any, function: Callable[[np.ndarray], np.ndarray]
) -> list[np.ndarray]:
    """Returns what the function makes of each chunk of pictures, by a thread per
    core."""
    import threadpoolctl  # lazy: comes with scikit-learn

    rows = max(1, _CHUNK_VALUES // math.prod(images.shape[1:]))
    chunks = (slice(start, start + rows) for start in range(0, len(images), rows))
    with (
        threadpoolctl.threadpool_limits(1),
        concurrent.futures.ThreadPoolExecutor(cores.count()) as pool,
    ):
        return list(pool.map(lambda rows: function(np.asarray(images[rows])), chunks))


def groups(shape: tuple[int, ...]) -> dict[str, slice]:
    """Returns the columns of each group for pictures of a shape, as (32, 32, 3)."""
    parts = _chunk(np.zeros((1, *shape), np.uint8))
    ends = np.cumsum([part.shape[1] for part in parts]).tolist()
    places = zip(GROUPS, [0, *ends[:-1]], ends, strict=True)
    return {name: slice(start, end) for name, start, end in places}


def _chunk(images: np.ndarray) -> list[np.ndarray]:
    """Returns the statistics of each group, float32 [N, F of the group]."""
    lacking = [max(0, pictures.BLOCK - size) for size in images.shape[1:3]]
    if any(lacking):
        pad = ((0, 0), (0, lacking[0]), (0, lacking[1]), (0, 0))
        images = np.pad(images, pad, mode="edge")
    channels = np.ascontiguousarray(np.moveaxis(images, 3, 0), np.float32)
    if len(channels) == 1:
        channels = channels.repeat(3, axis=0)
    red, green, blue = channels
    planes = [pictures.to_grey(images), red - green, blue - green]
    laplacians = [pictures.laplacian(plane) for plane in planes]
    parts = []
    for group in GROUPS.values():
        columns = group(channels, planes, laplacians)
        columns = [np.asarray(c, np.float32).reshape(len(images), -1) for c in columns]
        parts.append(np.concatenate(columns, axis=1))
    return parts
