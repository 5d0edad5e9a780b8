"""A contact sheet: a row per class, real pictures left, each generator's right."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from rsmatch_jax.data.stores.arrays import ImageArrays

MAX_ROWS = 100  # of classes
_TILE = (48, 96)  # least and most pixels of a side, as drawn
_SPACE, _GAP = 2, 16  # pixels between pictures and between groups
_WHITE = 255


def draw(path: str, pool: ImageArrays, train: ImageArrays, per_class: int, seed: int):
    """Writes the contact sheet: per_class pictures of each class, drawn by seed."""
    rng = np.random.default_rng(seed)

    def group(images, labels, of=None):
        rows = [
            np.flatnonzero((labels == c) & (True if of is None else of))
            for c in range(pool.num_classes)
        ]
        return [images[np.sort(rng.permutation(r)[:per_class])] for r in rows]

    groups = [group(train.images, train.labels)]
    for g in range(len(pool.generator_names)):
        groups.append(group(pool.images, pool.labels, pool.generators == g))
    canvas, edges = sheet(groups, per_class)
    save(
        path,
        canvas,
        edges,
        pool.class_names,
        ["real", *pool.generator_names],
        f"{train.name}: real and synthetic pictures, {per_class} of each class",
    )


def sheet(
    groups: Sequence[Sequence[np.ndarray]], columns: int
) -> tuple[np.ndarray, list[int]]:
    """Pictures as one, with the left edge of each group.

    groups: of real pictures, then of each generator's: for every class uint8
    [n, H, W, 1 or 3], of which the first `columns` are drawn. Small pictures are
    enlarged without smoothing, large ones shrunk. Returns uint8 [H', W', 3].
    """
    rows = min(len(groups[0]), MAX_ROWS)
    height, width = _tile_size(groups[0][0].shape[1:3])
    group_width = columns * (width + _SPACE) - _SPACE
    edges = [g * (group_width + _GAP) for g in range(len(groups))]
    total = (rows * (height + _SPACE) - _SPACE, edges[-1] + group_width, 3)
    canvas = np.full(total, _WHITE, np.uint8)
    for edge, group in zip(edges, groups, strict=True):
        for row, pictures in enumerate(group[:rows]):
            for column, picture in enumerate(pictures[:columns]):
                top, left = row * (height + _SPACE), edge + column * (width + _SPACE)
                tile = _draw(picture, (height, width))
                canvas[top : top + height, left : left + width] = tile
    return canvas, edges


def _tile_size(size: tuple[int, int]) -> tuple[int, int]:
    least, most = _TILE
    if max(size) > most:
        return tuple(max(1, round(s * most / max(size))) for s in size)
    zoom = -(-least // max(size))
    return tuple(s * zoom for s in size)


def _draw(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    image = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
    smaller = width < image.width
    kernel = Image.Resampling.BOX if smaller else Image.Resampling.NEAREST
    return np.asarray(image.resize((width, height), kernel).convert("RGB"))


def save(
    path: str,
    canvas: np.ndarray,
    edges: Sequence[int],
    class_names: Sequence[str],
    group_names: Sequence[str],
    title: str,
):
    """Writes the sheet as PNG with the names of its rows and groups."""
    from matplotlib.figure import Figure  # lazy: half a second

    names = [_short(name, 24) for name in class_names[:MAX_ROWS]]
    left = 24 + 8 * max(map(len, names))  # pixels around the sheet
    above, below, right = 64, 12, 24
    height, width = canvas.shape[:2]
    total_height = height + above + below
    # A title may be wider than a narrow sheet.
    total_width = max(left + width + right, 24 + 8 * len(title))
    figure = Figure(figsize=(total_width / 100, total_height / 100), dpi=100)
    axes = figure.add_axes(
        (
            left / total_width,
            below / total_height,
            width / total_width,
            height / total_height,
        )
    )
    axes.imshow(canvas, interpolation="nearest", aspect="auto")
    axes.set_xticks([])
    rows = len(names)
    axes.set_yticks(
        (np.arange(rows) + 0.5) * height / rows - 0.5, names, parse_math=False
    )
    axes.tick_params(length=0, labelsize=9)
    for spine in axes.spines.values():
        spine.set_visible(False)
    group_width = width - edges[-1]
    for edge, name in zip(edges, group_names, strict=True):
        text = _short(name, max(4, group_width // 8))
        axes.text(
            edge, -8, text, fontsize=9, fontweight="bold", va="bottom", parse_math=False
        )
    figure.text(
        12 / total_width,
        1 - 12 / total_height,
        title,
        fontsize=10,
        va="top",
        parse_math=False,
    )
    figure.savefig(path)


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
