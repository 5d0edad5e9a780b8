"""The arrays that views on the device read: random numbers and lookup tables.

The host computes the tables in double precision, because a device without it cannot
compute them to Pillow's last bit. Programs take them as arguments.
"""

import flax.struct
import jax
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32, UInt8

from rsmatch_jax.augment import views
from rsmatch_jax.errors import RequestError

MOST_PIXELS = 2048  # a side: the sum of luma, doubled, fits into 32 bits


@flax.struct.dataclass
class Numbers:
    """Random numbers of n views; the last three are of strong views alone."""

    # Vertical and horizontal crop offset, 0..2 * crop_pad.
    shift: Int32[Array, "n 2"]
    flip: Bool[Array, " n"]
    # Positions in views.OPS, in the order of use.
    ops: Int32[Array, "n slots"] | None = None
    # Of the operations, 0..views.LEVELS-1; see views.value.
    levels: Int32[Array, "n slots"] | None = None
    # Levels of the side (range 0 to views.CUTOUT_MAX times the image's) and of the
    # centre's y and x (range from the image's size down to 1).
    cutout: Int32[Array, "n 3"] | None = None


@flax.struct.dataclass
class Tables:
    """numpy arrays until they lie on a device; L = views.LEVELS; 25 MB in all."""

    # For each of views.GEOMETRIC the map (a, b, c, d, e, f) in 16.16 fixed point:
    # output pixel (x, y) reads pixel (a x + b y + c, d x + e y + f) >> 16.
    affine: Int32[jax.Array | np.ndarray, "5 L 6"]
    factor: Float32[jax.Array | np.ndarray, " L"]  # blend factor of views.BLENDS
    # New value by (lowest, highest, old value).
    autocontrast: UInt8[jax.Array | np.ndarray, "256 256 256"]


def make_tables(size: int, spec: views.ViewSpec) -> Tables | None:
    """Returns the tables for images of `size` pixels; None without RandAugment. Place
    them on the devices once, not at each step. Raises RequestError above MOST_PIXELS.
    """
    if not spec.randaugment_ops:
        return None
    if size > MOST_PIXELS:
        raise RequestError(
            f"images of {size} pixels a side: views on the device count in 32 bits, up "
            f"to {MOST_PIXELS}; use input.mode=tfdata, or a smaller data.image_size"
        )
    levels = np.arange(views.LEVELS)
    return Tables(
        affine=np.stack([_affine(name, levels, size) for name in views.GEOMETRIC]),
        factor=np.asarray(views.value("brightness", levels), np.float32),
        autocontrast=_autocontrast(),
    )


def _affine(name, levels, size):
    """Pillow's coefficients (Image.rotate, transform, Geometry.c), int32 [L, 6]."""
    value = views.value(name, levels)
    zero, one = np.zeros_like(value), np.ones_like(value)
    a, b, c, d, e, f = one, zero, zero, zero, one, zero
    if name == "rotate":
        angle = np.radians(-value)
        a, b, d, e = np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)
        centre = size / 2
        c, f = centre - centre * a - centre * b, centre - centre * d - centre * e
    elif name == "shear_x":  # about the top left corner
        b = value
    elif name == "shear_y":
        d = value
    # Offsets of the first pixel's centre. Pillow rounds them to 1/65536, but in a pure
    # translation it rounds the exact number to whole pixels.
    c, f = (_fixed(t) for t in (c + 0.5 * a + 0.5 * b, f + 0.5 * d + 0.5 * e))
    moved = np.floor(value * size + 0.5).astype(np.int32) * 65536
    if name == "translate_x":
        c = moved
    elif name == "translate_y":
        f = moved
    return np.stack([_fixed(a), _fixed(b), c, _fixed(d), _fixed(e), f], axis=1)


def _fixed(v):
    return np.floor(v * 65536 + 0.5).astype(np.int32)


def _autocontrast():
    """ImageOps.autocontrast's table, computed in double precision as Pillow does."""
    low, high, level = np.ogrid[:256, :256, :256]
    scale = 255 / np.maximum(high - low, 1)
    table = np.empty((256, 256, 256), np.uint8)
    for lowest in range(256):  # in slices, because all at once takes 400 MB
        stretched = np.clip(level[0] * scale[lowest] - lowest * scale[lowest], 0, 255)
        table[lowest] = np.where(high[0] > lowest, stretched, level[0])
    return table
