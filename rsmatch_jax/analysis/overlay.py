"""Draws Grad-CAM++ maps over their images, many on one sheet."""

import os
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from rsmatch_jax import contact_sheet
from rsmatch_jax.analysis.choice import Chosen
from rsmatch_jax.analysis.gradcam import Maps
from rsmatch_jax.contact_sheet import Group, Theme, Tile

SYNTHETIC = 1  # the detector's class
COLOURS = "plasma"  # reads alike with and without colour vision
OPACITY = 0.65  # of a map where it is 1
SIDES = (112, 160)  # least and most pixels of a tile's side
COLUMNS = 4  # images side by side
BAR = (120, 16)  # pixels of the colour bar: width, height
KEY = (
    "left to right: from nothing to the most that speaks for the class in this map; "
    "from top to bottom: dark to light parts of the image; bold: a mistake"
)


def blend(image: np.ndarray, heat: np.ndarray, side: int) -> np.ndarray:
    """Returns a grey image of `side` pixels, coloured where `heat` [S, S] is high."""
    grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    grey = contact_sheet.resized(np.rint(grey).astype(np.uint8), side, side)
    smooth = Image.fromarray(heat.astype(np.float32))
    smooth = smooth.resize((side, side), Image.Resampling.BILINEAR)
    return _coloured(np.asarray(grey) / 255, np.asarray(smooth))


def _coloured(grey: np.ndarray, heat: np.ndarray) -> np.ndarray:
    from matplotlib import colormaps  # lazy: half a second

    share = OPACITY * heat[..., None]
    mixed = (1 - share) * grey[..., None] + share * colormaps[COLOURS](heat)[..., :3]
    return np.rint(255 * mixed).astype(np.uint8)


def legend_bar() -> np.ndarray:
    """Returns uint8 [h, w, 3] with every colour of a map, of any height and grey."""
    heat, grey = np.meshgrid(np.linspace(0, 1, BAR[0]), np.linspace(0, 1, BAR[1]))
    return _coloured(grey, heat)


def draw(
    chosen: Chosen,
    shown: Mapping[str, Maps],
    names: Sequence[str],
    title: str,
    *,
    theme: Theme = contact_sheet.LIGHT,
) -> bytes:
    """Returns a PNG with each image, and beside it its map of each network."""
    count, size = chosen.images.shape[:2]
    side, _ = contact_sheet.fitted(size, size, *SIDES)

    def group(i: int) -> Group:
        tiles = [Tile(chosen.images[i])]
        for part, maps in shown.items():
            text, is_wrong = caption(part, maps, chosen, i, names)
            picture = blend(chosen.images[i], maps.maps[i], side)
            tiles.append(Tile(picture, text, is_marked=is_wrong))
        return Group(tiles, heading(chosen, i, names))

    rows = [
        [group(i) for i in range(first, min(first + COLUMNS, count))]
        for first in range(0, count, COLUMNS)
    ]
    options = {"border": 1, "legend": [(legend_bar(), KEY)], "theme": theme}
    sheet = contact_sheet.draw(title, rows, sides=SIDES, **options)
    return contact_sheet.to_png(sheet)


def heading(chosen: Chosen, row: int, names: Sequence[str]) -> str:
    """Returns an image's name and what is known of it."""
    label, origin = chosen.labels[row], chosen.origins[row]
    facts = [names[label]] if label >= 0 else []
    if origin is not None:
        facts.append(f"synthetic by {origin}" if chosen.synthetic[row] else "real")
    name = os.path.basename(chosen.names[row])
    return f"{name}: {', '.join(facts)}" if facts else name


def caption(
    part: str, maps: Maps, chosen: Chosen, row: int, names: Sequence[str]
) -> tuple[str, bool]:
    """Returns a map's class and probability, and whether the prediction is wrong."""
    p, shown = maps.probabilities[row], maps.classes[row]
    name, truth, is_known = names[shown], chosen.labels[row], chosen.labels[row] >= 0
    if part == "detector":
        name, truth = "synthetic", chosen.synthetic[row]
        is_known = chosen.origins[row] is not None
    return f"{name}: {p[shown]:.2f}", bool(is_known and p.argmax() != truth)
