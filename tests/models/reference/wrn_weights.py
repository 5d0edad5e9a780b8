"""Weights, images and labels that both frameworks make for themselves, by name."""

import zlib

import numpy as np

BATCH, SIZE, CLASSES, MOMENTUM = 8, 16, 10, 0.9


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 array for the parameter or statistic `name`, in this project's layout.

    Nothing is left at a value (0, 1) at which a mistake would not show.
    """
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    noise = rng.standard_normal(shape)
    kind = name.rsplit("/", 1)[1]
    if kind == "kernel":
        values = noise * np.sqrt(2 / np.prod(shape[:-1]))
    elif kind == "scale":
        values = 1 + 0.2 * noise
    elif kind == "var":
        values = np.exp(0.3 * noise)
    else:  # bias, mean
        values = 0.2 * noise
    return values.astype(np.float32)


def batch() -> tuple[np.ndarray, np.ndarray]:
    """float32 [8, 16, 16, 3] images, int64 [8] labels."""
    rng = np.random.RandomState(0)
    images = rng.standard_normal((BATCH, SIZE, SIZE, 3)).astype(np.float32)
    return images, rng.randint(0, CLASSES, BATCH)


def sample(gradient: np.ndarray) -> np.ndarray:
    """At most 256 evenly spread entries of a flattened gradient."""
    flat = gradient.reshape(-1)
    return flat[:: -(-flat.size // 256)]
