"""Draws the images in the CSQueue."""

import math

import numpy as np

from rsmatch_jax import contact_sheet
from rsmatch_jax.contact_sheet import Group, Tile
from rsmatch_jax.data import rs_ssl
from rsmatch_jax.data.rs_ssl import Task
from rsmatch_jax.methods.csqueue import CSQueue
from rsmatch_jax.metrics import scores, verdicts

# Frames as of verdicts: what is unknown is like what is unsure.
REAL, SYNTHETIC = verdicts.COLOURS[verdicts.REAL], verdicts.COLOURS[verdicts.SYNTHETIC]
UNKNOWN = verdicts.COLOURS[verdicts.UNSURE]
STRIPES = {colour: verdicts.STRIPES[v] for v, colour in verdicts.COLOURS.items()}
_WIDTH = 1160  # pixels of a row, if its tiles can have that size
_SIDES = (32, 96)  # least and most pixels of a tile's side
_BORDER = 3  # pixels


def draw_queue(path: str, queue: CSQueue, task: Task, title: str) -> np.ndarray:
    """Writes queue.png of a queue on the host and its dark twin; returns the picture
    uint8 [H, W, 3].

    A row is a class, a tile a slot, MAX_ROWS rows at most. An even orange frame means
    synthetic, a striped blue one real, a dotted grey one an unknown origin. A single
    queue for all classes fills as many rows as there are classes, the last one perhaps
    in part.
    """
    images, indices = np.asarray(queue.images), np.asarray(queue.indices)
    is_single, num_classes = len(images) == 1, len(task.class_names)
    names = ["all classes"] if is_single else list(task.class_names)
    columns = math.ceil(indices.size / num_classes)
    images = images.reshape(-1, *images.shape[2:])
    indices = indices.reshape(-1)[: contact_sheet.MAX_ROWS * columns]
    colours = {rs_ssl.UNKNOWN: UNKNOWN, rs_ssl.REAL: REAL}
    frames = {
        index: colours.get(int(task.unl_origins[index]), SYNTHETIC)
        for index in indices[indices >= 0].tolist()
    }
    tiles = [
        _tile(images[slot], frames.get(index))
        for slot, index in enumerate(indices.tolist())
    ]
    starts = range(0, len(tiles), columns)
    rows = [[Group(tiles[start : start + columns])] for start in starts]
    purity = scores.queue_metrics(queue, task)["queue_purity"]
    if purity is not None:
        title += f": purity {purity:.3f}"
    if (task.unl_origins == rs_ssl.UNKNOWN).any():
        title += f" ({scores.known_counts(queue, task)['queue']} of known origin)"
    meanings = {SYNTHETIC: "synthetic", REAL: "real", UNKNOWN: "unknown"}
    least = _WIDTH // columns - contact_sheet.GAP - 2 * _BORDER
    sides = min(max(least, _SIDES[0]), _SIDES[1]), _SIDES[1]

    legend = [
        (contact_sheet.swatch(colour, STRIPES[colour]), meaning)
        for colour, meaning in meanings.items()
        if colour in frames.values()
    ]
    options = {"sides": sides, "border": _BORDER, "legend": legend}
    sheets = {
        theme: contact_sheet.draw(title, rows, names, theme=theme, **options)
        for theme in contact_sheet.THEMES
    }
    contact_sheet.write(path, lambda theme: contact_sheet.to_png(sheets[theme]))
    return np.asarray(sheets[contact_sheet.LIGHT])


def _tile(image: np.ndarray, frame: str | None) -> Tile | None:
    # An empty slot has no frame.
    return Tile(image, frame=frame, stripes=STRIPES[frame]) if frame else None
