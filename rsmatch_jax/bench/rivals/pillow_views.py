"""Weak and strong views as PyTorch code bases make them: one Pillow image at a time.

Follows USB (randaugment.py and torchvision's RandomCrop with reflect padding). But
Pillow pastes the padding, for which torchvision uses numpy.
"""

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rsmatch_jax.augment import views


class Numbers(NamedTuple):
    """Random numbers of one view.

    shift: vertical and horizontal crop offset in pixels. ops: (name, value) in order.
    cutout: side as a share of the image's, and the centre's y and x in pixels; None
    without Cutout.
    """

    shift: tuple[int, int]
    flip: bool
    ops: Sequence[tuple[str, float]] = ()
    cutout: tuple[float, float, float] | None = None


class PillowViews:
    """Makes views of uint8 arrays [S, S, 3]. Raises ImportError without Pillow."""

    def __init__(self, spec: views.ViewSpec):
        from PIL import Image, ImageDraw, ImageEnhance, ImageOps

        self._spec, self._image, self._draw = spec, Image, ImageDraw
        self._ops = _operations(Image, ImageEnhance, ImageOps)
        self._mirror = Image.Transpose.FLIP_LEFT_RIGHT
        self._turn = Image.Transpose.FLIP_TOP_BOTTOM

    def batch(
        self, images: np.ndarray, rng: random.Random, *, strong: bool
    ) -> np.ndarray:
        """A view of each image: uint8 [N, S, S, 3] -> the same."""
        size = images.shape[1]
        return np.stack([self.view(x, self.draw(rng, size, strong)) for x in images])

    def draw(self, rng: random.Random, size: int, strong: bool) -> Numbers:
        """Draws numbers by USB's distribution, from Python's generator."""
        spec, stop = self._spec, 2 * self._spec.crop_pad
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
        im = self._image.fromarray(image)
        if self._spec.crop_pad:
            im = self._crop(im, numbers.shift)
        if numbers.flip:
            im = im.transpose(self._mirror)
        for name, value in numbers.ops:
            im = self._ops[name](im, value)
        if numbers.cutout is not None:
            im = self._cutout(im, *numbers.cutout)
        return np.asarray(im)

    def apply(self, name: str, image: np.ndarray, value: float) -> np.ndarray:
        """Applies one operation."""
        return np.asarray(self._ops[name](self._image.fromarray(image), value))

    def _crop(self, im, shift):
        size, pad = im.width, self._spec.crop_pad
        end = size - 1  # the edge is not repeated
        wide = self._image.new("RGB", (size + 2 * pad, size))
        wide.paste(im.crop((1, 0, 1 + pad, size)).transpose(self._mirror), (0, 0))
        wide.paste(im, (pad, 0))
        right = im.crop((end - pad, 0, end, size)).transpose(self._mirror)
        wide.paste(right, (pad + size, 0))
        full = self._image.new("RGB", (size + 2 * pad, size + 2 * pad))
        width = wide.width
        full.paste(wide.crop((0, 1, width, 1 + pad)).transpose(self._turn), (0, 0))
        full.paste(wide, (0, pad))
        bottom = wide.crop((0, end - pad, width, end)).transpose(self._turn)
        full.paste(bottom, (0, pad + size))
        y, x = shift
        return full.crop((x, y, x + size, y + size))

    def _cutout(self, im, share, centre_y, centre_x):
        if share <= 0:
            return im
        side = share * im.width
        x0, y0 = (int(max(0, c - side / 2)) for c in (centre_x, centre_y))
        box = (x0, y0, min(im.width, x0 + side), min(im.height, y0 + side))
        im = im.copy()
        self._draw.Draw(im).rectangle(box, views.CUTOUT_FILL)
        return im


def _operations(image: Any, enhance: Any, ops: Any) -> dict[str, Any]:
    """{name: function of (Pillow image, value)}."""
    affine = image.Transform.AFFINE

    def warp(im, *coefficients):
        return im.transform(im.size, affine, coefficients)

    return {
        "autocontrast": lambda im, v: ops.autocontrast(im),
        "brightness": lambda im, v: enhance.Brightness(im).enhance(v),
        "color": lambda im, v: enhance.Color(im).enhance(v),
        "contrast": lambda im, v: enhance.Contrast(im).enhance(v),
        "equalize": lambda im, v: ops.equalize(im),
        "identity": lambda im, v: im,
        "posterize": lambda im, v: ops.posterize(im, max(1, int(v))),
        "rotate": lambda im, v: im.rotate(v),
        "sharpness": lambda im, v: enhance.Sharpness(im).enhance(v),
        "shear_x": lambda im, v: warp(im, 1, v, 0, 0, 1, 0),
        "shear_y": lambda im, v: warp(im, 1, 0, 0, v, 1, 0),
        "solarize": lambda im, v: ops.solarize(im, v),
        "translate_x": lambda im, v: warp(im, 1, 0, v * im.width, 0, 1, 0),
        "translate_y": lambda im, v: warp(im, 1, 0, 0, 0, 1, v * im.height),
    }
