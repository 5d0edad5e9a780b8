"""Pictures that a run draws of itself."""

from collections.abc import Sequence

import numpy as np

REAL, SYNTHETIC = (214, 39, 40), (44, 160, 44)  # frame colours: a mistake is red
EMPTY = 235
FRAME = 2


def queue_sheet(
    images: np.ndarray, indices: np.ndarray, synthetic: np.ndarray, min_side: int = 32
) -> np.ndarray:
    """The CSQueue as one picture: a row per class, a tile per slot.

    images: uint8 [K, N_q, S, S, C]; indices: int32 [K, N_q], -1 = empty;
    synthetic: bool [N], ground truth. A green frame means synthetic, a red one real.
    Small images are enlarged to at least min_side pixels. Returns uint8 [H, W, 3].
    """
    queues, length, size = images.shape[:3]
    zoom = -(-min_side // size)
    side = size * zoom + 2 * FRAME
    sheet = np.full((queues, length, side, side, 3), EMPTY, np.uint8)
    for k, slot in np.argwhere(indices >= 0):
        sheet[k, slot] = SYNTHETIC if synthetic[indices[k, slot]] else REAL
        tile = images[k, slot].repeat(zoom, axis=0).repeat(zoom, axis=1)
        sheet[k, slot, FRAME:-FRAME, FRAME:-FRAME] = tile
    return sheet.transpose(0, 2, 1, 3, 4).reshape(queues * side, length * side, 3)


def save_queue(path: str, sheet: np.ndarray, class_names: Sequence[str], title: str):
    """Writes a queue sheet as PNG, its rows labelled with the classes."""
    from matplotlib.figure import Figure  # lazy: half a second

    height, width = sheet.shape[:2]
    figure = Figure(figsize=(width / 100 + 1.4, height / 100 + 0.6), dpi=100)
    axes = figure.add_axes(
        (1.2 / figure.get_figwidth(), 0.1 / figure.get_figheight(), 0.0, 0.0)
    )
    axes.set_position(
        (
            1.2 / figure.get_figwidth(),
            0.1 / figure.get_figheight(),
            width / 100 / figure.get_figwidth(),
            height / 100 / figure.get_figheight(),
        )
    )
    axes.imshow(sheet, interpolation="nearest", aspect="auto")
    rows = len(class_names)
    axes.set_yticks((np.arange(rows) + 0.5) * height / rows - 0.5, class_names)
    axes.set_xticks([])
    axes.tick_params(length=0, labelsize=8)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(title, fontsize=9, loc="left")
    figure.savefig(path)
