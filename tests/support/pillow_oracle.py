"""USB's views by Pillow's public interface, and images to apply them to."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from scipy import stats

from rsmatch_jax.augment import views


def some_images(count, size, seed=0):
    """Noise, smooth, two-level, constant and grey pictures: uint8 [count, S, S, 3]."""
    rng = np.random.default_rng(seed)
    axis = np.linspace(0, 1, size)
    images = rng.integers(0, 256, (count, size, size, 3))
    for i in range(count):
        ramp = np.add.outer(axis * rng.uniform(-90, 90), axis * rng.uniform(-90, 90))
        noise = rng.normal(0, 8, (size, size, 3))
        low, high = np.sort(rng.integers(0, 256, (2, 3)), axis=0)
        match i % 8:
            case 1 | 2 | 3:
                images[i] = ramp[..., None] + noise + rng.integers(60, 196, 3)
            case 4:
                images[i] = np.clip(images[i], low, high)
            case 5:  # one constant channel, or all of them, at times black or white
                images[i, :, :, : 1 + i % 3] = rng.choice([0, 7, 128, 255])
            case 6:
                images[i] = 255 * (images[i] > 127)
            case 7:
                images[i] = images[i, :, :, :1]
    return np.clip(images, 0, 255).astype(np.uint8)


def pillow(name, image, v):
    """One operation by Pillow's public interface, as USB calls it."""
    im = Image.fromarray(image)
    width, height = im.size

    def affine(*coefficients):
        return im.transform(im.size, Image.Transform.AFFINE, coefficients)

    result = {
        "autocontrast": lambda: ImageOps.autocontrast(im),
        "brightness": lambda: ImageEnhance.Brightness(im).enhance(v),
        "color": lambda: ImageEnhance.Color(im).enhance(v),
        "contrast": lambda: ImageEnhance.Contrast(im).enhance(v),
        "equalize": lambda: ImageOps.equalize(im),
        "identity": lambda: im,
        "posterize": lambda: ImageOps.posterize(im, max(1, int(v))),
        "rotate": lambda: im.rotate(v),
        "sharpness": lambda: ImageEnhance.Sharpness(im).enhance(v),
        "shear_x": lambda: affine(1, v, 0, 0, 1, 0),
        "shear_y": lambda: affine(1, 0, 0, v, 1, 0),
        "solarize": lambda: ImageOps.solarize(im, v),
        "translate_x": lambda: affine(1, 0, v * width, 0, 1, 0),
        "translate_y": lambda: affine(1, 0, 0, 0, 1, v * height),
    }[name]()
    return np.asarray(result)


def special_values(name, size):
    """Ends of the range, whole numbers, and values beside a rounding boundary."""
    _, low, high = views.OPS[views.OP_NAMES.index(name)]
    if name.startswith("translate"):
        half = (np.arange(-size // 4, size // 4) + 0.5) / size
        return np.concatenate([half, half - 2.0**-20 / size, half + 2.0**-20 / size])
    if name.startswith("shear"):  # slopes that meet pixel edges exactly
        edges = 1 / np.arange(5, 2 * size, 2)
        return np.concatenate([edges, -edges, [low, 0, high]])
    if name == "rotate":  # enough for pixels at 1/65536 of an edge
        return np.linspace(low, high, 601)
    if name == "solarize":
        return np.array([0.0, 1e-9, 127.0, 127.5, 128.0, 255.0, 255.5, 256.0])
    if name == "posterize":
        return np.array([4.0, 4.999, 5.0, 6.0, 7.0, 7.999])
    return np.array([low, high, (low + high) / 2])


def crop_by_numpy(image, shift, flip, pad):
    size = len(image)
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
    cropped = padded[shift[0] : shift[0] + size, shift[1] : shift[1] + size]
    return cropped[:, ::-1] if flip else cropped


def pillow_cutout(image, share, centre_y, centre_x):
    """USB's CutoutAbs, drawn by Pillow; the centre in pixels."""
    if share <= 0:
        return image
    size = len(image)
    side = share * size
    y0, x0 = (int(max(0, centre - side / 2)) for centre in (centre_y, centre_x))
    box = (x0, y0, min(size, x0 + side), min(size, y0 + side))
    im = Image.fromarray(image)
    ImageDraw.Draw(im).rectangle(box, (125, 123, 114))
    return np.asarray(im)


def uniform(counts):
    """p-value of chi-square against equal frequencies."""
    return stats.chisquare(counts).pvalue


def torchvision_box(u, height, width, least):
    """transforms.RandomResizedCrop.get_params, on given uniform numbers."""
    low, high = math.log(3 / 4), math.log(4 / 3)
    for area_u, ratio_u, top_u, left_u in u:
        area = height * width * (least + (1 - least) * area_u)
        ratio = math.exp(low + (high - low) * ratio_u)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(top_u * (height - h + 1)), int(left_u * (width - w + 1)), h, w
    if width / height < 3 / 4:
        w, h = width, round(width / (3 / 4))
    elif width / height > 4 / 3:
        h, w = height, round(height * (4 / 3))
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w
