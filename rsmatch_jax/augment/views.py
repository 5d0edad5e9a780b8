"""The options of weak and strong views, and the table of RandAugment's operations.

The law is that of USB's RandAugment (randaugment.py): every slot draws one of 14
operations uniformly with replacement, always applies it, and draws its value uniformly
from the operation's range. The TensorFlow and the on-device augmentation share it.
"""

import dataclasses

import numpy as np

from rsmatch_jax.errors import RequestError

# What a view is for; each purpose has its own random numbers. "weak2" is a second weak
# view of the unlabelled images. The order is part of the random law.
PURPOSES = ("labelled", "weak", "strong", "weak2", "candidate")
# Name, lowest and highest value. Enhancement factors (1 = unchanged) only move towards
# the degenerate image; rotation is in degrees, shear is a slope, translation a share of
# the image's size; signs come from the range.
OPS = (
    ("autocontrast", 0.0, 1.0),
    ("brightness", 0.05, 0.95),
    ("color", 0.05, 0.95),
    ("contrast", 0.05, 0.95),
    ("equalize", 0.0, 1.0),
    ("identity", 0.0, 1.0),
    ("posterize", 4.0, 8.0),
    ("rotate", -30.0, 30.0),
    ("sharpness", 0.05, 0.95),
    ("shear_x", -0.3, 0.3),
    ("shear_y", -0.3, 0.3),
    ("solarize", 0.0, 256.0),
    ("translate_x", -0.3, 0.3),
    ("translate_y", -0.3, 0.3),
)
OP_NAMES = tuple(name for name, _, _ in OPS)
# Enhancements with the same range; their factor goes into Pillow's blend.
BLENDS = ("brightness", "color", "contrast", "sharpness")
GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")

LEVELS = 2**16  # values an operation can take on the device

CUTOUT_MAX = 0.5  # largest side, as a share of the image's
CUTOUT_FILL = (125, 123, 114)  # RGB


@dataclasses.dataclass(frozen=True)
class ViewSpec:
    """Options: the weak view is crop and flip, the strong one adds the rest."""

    flip: bool  # mirrors left-right with probability 1/2
    crop_pad: int  # pixels of reflect padding before the random crop; below the size
    randaugment_ops: int  # operations applied one after the other
    cutout: bool  # paints a random square at the end
    # Encoded images only, whose crop is a random rectangle, resized: the least share of
    # the image that it covers; above 0, at most 1.
    crop_area: float = 0.08


def value(name: str, level: int | np.integer | np.ndarray) -> np.float64 | np.ndarray:
    """Returns an operation's value at levels 0..LEVELS-1, float64, in its unit: the
    middle of one of LEVELS equal parts of the range. The parts' ends would make some
    translations exactly half a pixel, which Pillow rounds differently within an image.
    """
    low, high = OPS[OP_NAMES.index(name)][1:]
    return low + (high - low) * (np.asarray(level, np.float64) + 0.5) / LEVELS


def check(spec: ViewSpec, size: int):
    """Raises RequestError if the crop padding does not fit images of `size` pixels."""
    if spec.crop_pad >= size:
        raise RequestError(
            f"input.crop_pad={spec.crop_pad} does not fit images of {size} pixels, "
            f"because padding reflects the image; use at most {size - 1}"
        )
