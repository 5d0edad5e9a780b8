"""Pictures as arrays and as files."""

import io

import numpy as np
from PIL import Image


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(number: int, height: int, width: int) -> Image.Image:
    """Smooth colours: decoders and kernels differ little on them."""
    coarse = Image.fromarray(noise(5, 6, 3, seed=number))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image | np.ndarray, kind: str = "PNG", **options) -> bytes:
    """A file of a picture, or of pixels; JPEGs by default of quality 95."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    if kind == "JPEG":
        options = {"quality": 95, **options}
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def decode(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
