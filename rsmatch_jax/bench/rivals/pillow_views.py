"""Weak and strong views as PyTorch code bases make them: one Pillow image at a time.

Follows USB (randaugment.py and torchvision's RandomCrop with reflect padding), but
Pillow pastes the padding, for which torchvision uses numpy. Imports Pillow.
"""

import dataclasses
import math
import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from rsmatch_jax.augment import views

_MIRROR = Image.Transpose.FLIP_LEFT_RIGHT
_TURN = Image.Transpose.FLIP_TOP_BOTTOM


def _warp(im, *coefficients):
    return im.transform(im.size, Image.Transform.AFFINE, coefficients)


OPERATIONS = {  # functions of (Pillow image, value)
    "autocontrast": lambda im, v: ImageOps.autocontrast(im),
    "brightness": lambda im, v: ImageEnhance.Brightness(im).enhance(v),
    "color": lambda im, v: ImageEnhance.Color(im).enhance(v),
    "contrast": lambda im, v: ImageEnhance.Contrast(im).enhance(v),
    "equalize": lambda im, v: ImageOps.equalize(im),
    "identity": lambda im, v: im,
    "posterize": lambda im, v: ImageOps.posterize(im, max(1, int(v))),
    "rotate": lambda im, v: im.rotate(v),
    "sharpness": lambda im, v: ImageEnhance.Sharpness(im).enhance(v),
    "shear_x": lambda im, v: _warp(im, 1, v, 0, 0, 1, 0),
    "shear_y": lambda im, v: _warp(im, 1, 0, 0, v, 1, 0),
    "solarize": lambda im, v: ImageOps.solarize(im, v),
    "translate_x": lambda im, v: _warp(im, 1, 0, v * im.width, 0, 1, 0),
    "translate_y": lambda im, v: _warp(im, 1, 0, 0, 0, 1, v * im.height),
}


class Numbers(NamedTuple):
    """Random numbers of one view; `ops`: (name, value) in the order of use."""

    shift: tuple[int, int]
    flip: bool
    ops: Sequence[tuple[str, float]] = ()
    cutout: tuple[float, float, float] | None = None


@dataclasses.dataclass(frozen=True)
class PillowViews:
    """Makes views of uint8 arrays [S, S, 3]."""

    spec: views.ViewSpec

    def draw(self, rng: random.Random, size: int, strong: bool) -> Numbers:
        """Draws numbers by USB's distribution, from Python's generator."""
        spec, stop = self.spec, 2 * self.spec.crop_pad
        shift = (rng.randint(0, stop), rng.randint(0, stop))
        flip = spec.flip and rng.random() < 0.5
        if not strong:
            return Numbers(shift, flip)
        drawn = rng.choices(views.OPS, k=spec.randaugment_ops)
        ops = [(name, low + (high - low) * rng.random()) for name, low, high in drawn]
        if not spec.cutout:
            return Numbers(shift, flip, ops)
        share = views.CUTOUT_MAX * rng.random()
        # numpy's uniform(size) of USB is in (1, size].
        centre = (rng.uniform(size, 1), rng.uniform(size, 1))
        return Numbers(shift, flip, ops, (share, *centre))

    def view(self, image: np.ndarray, numbers: Numbers) -> np.ndarray:
        """Makes one view; it stays a Pillow image between operations."""
        im = Image.fromarray(image)
        if self.spec.crop_pad:
            im = _crop(im, numbers.shift, self.spec.crop_pad)
        if numbers.flip:
            im = im.transpose(_MIRROR)
        for name, value in numbers.ops:
            im = OPERATIONS[name](im, value)
        if numbers.cutout is not None:
            im = _cutout(im, *numbers.cutout)
        return np.asarray(im)


def apply(name: str, image: np.ndarray, value: float) -> np.ndarray:
    """Applies one operation to uint8 [S, S, 3]."""
    return np.asarray(OPERATIONS[name](Image.fromarray(image), value))


def _crop(im, shift, pad):
    size = im.width
    end, width = size - 1, size + 2 * pad  # the edge is not repeated
    wide = Image.new("RGB", (width, size))
    wide.paste(im.crop((1, 0, 1 + pad, size)).transpose(_MIRROR), (0, 0))
    wide.paste(im, (pad, 0))
    wide.paste(im.crop((end - pad, 0, end, size)).transpose(_MIRROR), (pad + size, 0))
    full = Image.new("RGB", (width, width))
    full.paste(wide.crop((0, 1, width, 1 + pad)).transpose(_TURN), (0, 0))
    full.paste(wide, (0, pad))
    bottom = wide.crop((0, end - pad, width, end)).transpose(_TURN)
    full.paste(bottom, (0, pad + size))
    y, x = shift
    return full.crop((x, y, x + size, y + size))


def _cutout(im, share, centre_y, centre_x):
    if share <= 0:
        return im
    side = share * im.width
    x0, y0 = (math.trunc(max(0.0, c - side / 2)) for c in (centre_x, centre_y))
    box = (x0, y0, min(im.width, x0 + side), min(im.height, y0 + side))
    im = im.copy()
    ImageDraw.Draw(im).rectangle(box, views.CUTOUT_FILL)
    return im
