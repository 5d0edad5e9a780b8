"""Draws a contact sheet: a row per class, real pictures left, synthetic ones right."""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rsmatch_jax.data.stores.arrays import ImageArrays

MAX_ROWS = 100  # of classes
_TILE = (48, 96)  # fewest and most pixels of a tile's side
_SPACE, _GAP = 2, 16  # pixels between pictures and between groups
_TOP, _MARGIN, _FONT = 64, 12, 13  # pixels


def draw(path: str, pool: ImageArrays, train: ImageArrays, per_class: int, seed: int):
    """Writes the contact sheet: per_class pictures of each class, chosen by seed."""
    rng = np.random.default_rng(seed)

    def group(data: ImageArrays, members: np.ndarray) -> list[np.ndarray]:
        classes = range(pool.num_classes)
        rows = [np.flatnonzero((data.labels == c) & members) for c in classes]
        return [data.images[np.sort(rng.permutation(r)[:per_class])] for r in rows]

    groups = [group(train, np.ones(len(train.labels), bool))]
    generators = np.arange(len(pool.generator_names))[:, None]
    groups += [group(pool, members) for members in generators == pool.generators]
    names = ["real", *pool.generator_names]
    title = f"{train.name}: real and synthetic pictures, {per_class} of each class"
    sheet(groups, names, pool.class_names, per_class, title).save(path)


def sheet(
    groups: Sequence[Sequence[np.ndarray]],
    names: Sequence[str],
    class_names: Sequence[str],
    columns: int,
    title: str,
) -> Image.Image:
    """Returns the contact sheet.

    groups: the real pictures, then each generator's; for every class uint8
    [n, H, W, 1 or 3]. The first `columns` are drawn. Small pictures are enlarged
    without smoothing, large ones reduced. names: of the groups.
    """
    import matplotlib  # lazy: half a second; for its font

    folder = os.path.join(matplotlib.get_data_path(), "fonts", "ttf")
    font = ImageFont.truetype(os.path.join(folder, "DejaVuSans.ttf"), _FONT)
    class_names = [_short(name, 24) for name in class_names[:MAX_ROWS]]
    height, width = _tile_size(*groups[0][0].shape[1:3])
    group_width = columns * (width + _SPACE) - _SPACE
    left = 2 * _MARGIN + round(max(map(font.getlength, class_names)))
    edges = [left + g * (group_width + _GAP) for g in range(len(groups))]
    right = max(edges[-1] + group_width, _MARGIN + round(font.getlength(title)))
    bottom = _TOP + len(class_names) * (height + _SPACE) - _SPACE
    image = Image.new("RGB", (right + _MARGIN, bottom + _MARGIN), "white")
    pen = ImageDraw.Draw(image)
    pen.text((_MARGIN, _MARGIN), title, "black", font)
    for row, name in enumerate(class_names):
        top = _TOP + row * (height + _SPACE)
        middle = top + (height + _SPACE) / 2
        pen.text((left - _MARGIN, middle), name, "black", font, anchor="rm")
        for edge, group in zip(edges, groups, strict=True):
            for column, picture in enumerate(group[row][:columns]):
                corner = (edge + column * (width + _SPACE), top)
                image.paste(_tile(picture, height, width), corner)
    for edge, name in zip(edges, names, strict=True):
        name = _short(name, max(4, group_width // _FONT))
        pen.text((edge, _TOP - 8), name, "black", font, anchor="ls")
    return image


def _tile_size(height: int, width: int) -> tuple[int, int]:
    fewest, most = _TILE
    larger = max(height, width)
    up, down = (most, larger) if larger > most else (-(-fewest // larger), 1)
    return max(1, round(height * up / down)), max(1, round(width * up / down))


def _tile(picture: np.ndarray, height: int, width: int) -> Image.Image:
    image = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
    smaller = width < image.width
    kernel = Image.Resampling.BOX if smaller else Image.Resampling.NEAREST
    return image.resize((width, height), kernel)


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
