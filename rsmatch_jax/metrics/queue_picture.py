"""Draws the images in the CSQueue."""

import io
from collections.abc import Sequence

import numpy as np

from rsmatch_jax import files
from rsmatch_jax.data import rs_ssl
from rsmatch_jax.data.rs_ssl import Task
from rsmatch_jax.methods.csqueue import CSQueue
from rsmatch_jax.metrics import scores

# Frame colours: a mistake is red.
REAL, SYNTHETIC, UNKNOWN = (214, 39, 40), (44, 160, 44), (127, 127, 127)
EMPTY = 235
FRAME = 2
MAX_SIDE = 64  # of a tile without its frame
MAX_ROWS = 100  # matplotlib draws at most 2**16 pixels


def queue_sheet(
    images: np.ndarray,
    indices: np.ndarray,
    origins: np.ndarray,
    class_names: Sequence[str],
    columns: int,
    min_side: int = 32,
) -> tuple[np.ndarray, list[str]]:
    """Returns the queue as a picture uint8 [H, W, 3], and the names of its rows.

    A row is a class, a tile a slot. A green frame means synthetic, a red one real, a
    grey one an unknown origin. At most MAX_ROWS rows are drawn, and only every n-th
    pixel of images above MAX_SIDE.

    images: uint8 [K, N_q, S, S, C]. indices: int32 [K, N_q], positions in the
    unlabelled set, -1 = empty. origins: int [N], ground truth as in Task. columns:
    tiles in a row; a single queue for all classes fills several rows. min_side: pixels
    to which smaller images are enlarged.
    """
    names = list(class_names) if len(images) == len(class_names) else ["all classes"]
    images = images.reshape(-1, columns, *images.shape[2:])[:MAX_ROWS]
    indices = indices.reshape(-1, columns)[:MAX_ROWS]
    names = (names + [""] * len(images))[: len(images)]
    skip = -(-images.shape[2] // MAX_SIDE)
    images = images[:, :, ::skip, ::skip]
    queues, length, size = images.shape[:3]
    zoom = -(-min_side // size)
    side = size * zoom + 2 * FRAME
    sheet = np.full((queues, length, side, side, 3), EMPTY, np.uint8)
    colours = {rs_ssl.UNKNOWN: UNKNOWN, rs_ssl.REAL: REAL}
    for k, slot in np.argwhere(indices >= 0):
        sheet[k, slot] = colours.get(int(origins[indices[k, slot]]), SYNTHETIC)
        tile = images[k, slot].repeat(zoom, axis=0).repeat(zoom, axis=1)
        sheet[k, slot, FRAME:-FRAME, FRAME:-FRAME] = tile
    sheet = sheet.transpose(0, 2, 1, 3, 4).reshape(queues * side, length * side, 3)
    return sheet, names


def draw_queue(path: str, queue: CSQueue, task: Task, title: str) -> np.ndarray:
    """Writes queue.png of a queue on the host; returns the sheet without its frame."""
    from matplotlib.figure import Figure  # lazy: half a second

    images, indices = np.asarray(queue.images), np.asarray(queue.indices)
    columns = indices.size // len(task.class_names)
    sheet, names = queue_sheet(
        images, indices, task.unl_origins, task.class_names, columns
    )
    height, width = sheet.shape[:2]
    left, above, below, right = 120, 40, 10, 20  # pixels around the sheet
    all_high, all_wide = height + above + below, width + left + right
    figure = Figure(figsize=(all_wide / 100, all_high / 100), dpi=100)
    box = left / all_wide, below / all_high, width / all_wide, height / all_high
    axes = figure.add_axes(box)
    axes.imshow(sheet, interpolation="nearest", aspect="auto")
    rows = len(names)
    axes.set_yticks((np.arange(rows) + 0.5) * height / rows - 0.5, names)
    axes.set_xticks([])
    axes.tick_params(length=0, labelsize=8)
    for spine in axes.spines.values():
        spine.set_visible(False)
    purity, colours = scores.queue_metrics(queue, task)["queue_purity"], ""
    if purity is not None:
        title += f": purity {purity:.3f}"
    if (task.unl_origins == rs_ssl.UNKNOWN).any():
        known = scores.known_counts(queue, task)["queue"]
        title, colours = f"{title} ({known} of known origin)", ", grey: unknown"
    title += f" (green: synthetic, red: real{colours})"
    axes.set_title(title, fontsize=9, loc="left")
    file = io.BytesIO()
    figure.savefig(file, format="png")
    files.write_bytes(path, file.getvalue())
    return sheet
