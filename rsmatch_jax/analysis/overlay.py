"""Grad-CAM++ maps over their images, many on one sheet."""

import io
import os
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from rsmatch_jax.analysis.choice import Chosen
from rsmatch_jax.analysis.gradcam import Maps

SYNTHETIC = 1  # the detector's class
COLOURS = "plasma"  # read alike with and without colour vision
OPACITY = 0.65  # of a map where it is 1
TILE = (112, 160)  # pixels of a tile's side: small images are enlarged, large ones not
COLUMNS = 4  # images side by side
GAP, MARGIN, TOP = 4, 12, 56  # pixels: between tiles, around images, above all
LINES = 32  # pixels above a tile for two lines of text
BAR = 120  # pixels, of the key to the colours
FRAME = 200  # grey, around a tile
FONT, CHARACTER, TITLE = 7, 5.6, 7.2  # points; pixels a character, also of the title


def blend(image: np.ndarray, heat: np.ndarray, side: int) -> np.ndarray:
    """uint8 [side, side, 3] of an image uint8 [S, S, 3] and its map [S, S] in [0, 1]:
    grey where the map is 0, the more coloured the higher it is."""
    from matplotlib import colormaps  # lazy: half a second

    grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    grey = _scaled(np.rint(grey).astype(np.uint8), side)[..., None] / 255
    smooth = Image.fromarray(heat.astype(np.float32))
    smooth = np.asarray(smooth.resize((side, side), Image.Resampling.BILINEAR))
    colour, share = colormaps[COLOURS](smooth)[..., :3], OPACITY * smooth[..., None]
    return np.rint(255 * ((1 - share) * grey + share * colour)).astype(np.uint8)


def _scaled(image: np.ndarray, side: int) -> np.ndarray:
    """Pixels stay squares where they are enlarged."""
    kernel = Image.Resampling.NEAREST
    if side < len(image):
        kernel = Image.Resampling.BOX
    return np.asarray(Image.fromarray(image).resize((side, side), kernel))


def draw(
    chosen: Chosen, found: Mapping[str, Maps], names: Sequence[str], title: str
) -> bytes:
    """A PNG: for each image itself, what speaks for a class in the classifier and,
    where `found` has it, what speaks for "synthetic" in the detector."""
    from matplotlib import colormaps, transforms  # lazy: half a second
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count, size = chosen.images.shape[:2]
    side = size * max(1, round(TILE[0] / size)) if size < TILE[1] else TILE[1]
    tiles = 1 + len(found)
    columns = min(COLUMNS, count)
    block = tiles * (side + GAP) + 2 * MARGIN
    high = side + LINES + MARGIN
    width = max(columns * block, int(TITLE * len(title)) + 2 * MARGIN)
    height = TOP + -(-count // columns) * high
    sheet = np.full((height, width, 3), 255, np.uint8)
    # Texts alone, in pixels from the top: with the tiles it would take gigabytes.
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    pixels = transforms.Affine2D().scale(1, -1).translate(0, height)

    def write(x, y, text, room=None, **style):
        if room is not None:
            text = shortened(text, int(room / CHARACTER))
        style = {"fontsize": FONT, "transform": pixels, **style}
        figure.text(x, y, text, va="top", parse_math=False, **style)

    write(MARGIN, 8, title, fontsize=9)
    ramp = colormaps[COLOURS](np.linspace(0, 1, BAR))[None, :, :3]
    share = OPACITY * np.linspace(0, 1, BAR)[None, :, None]
    key = np.rint(255 * ((1 - share) * 0.5 + share * ramp)).astype(np.uint8)
    sheet[30:40, MARGIN : MARGIN + BAR] = key
    write(MARGIN + BAR + 6, 29, "from nothing to the most that speaks for the class")
    for i in range(count):
        x, y = i % columns * block + MARGIN, TOP + i // columns * high
        pictures = [_scaled(chosen.images[i], side)]
        pictures += [blend(chosen.images[i], m.maps[i], side) for m in found.values()]
        write(x, y, heading(chosen, i, names), tiles * (side + GAP))
        for column, picture in enumerate(pictures):
            left = x + column * (side + GAP)
            top = y + LINES
            sheet[top - 1 : top + side + 1, left - 1 : left + side + 1] = FRAME
            sheet[top : top + side, left : left + side] = picture
        for column, (part, maps) in enumerate(found.items(), start=1):
            text, wrong = saying(part, maps, chosen, i, names)
            style = {"color": "#b03a00", "weight": "bold"} if wrong else {}
            write(x + column * (side + GAP), y + 15, text, side, **style)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    # Texts stand on white, and so do tiles.
    np.minimum(sheet, np.asarray(canvas.buffer_rgba())[..., :3], out=sheet)
    file = io.BytesIO()
    # A sheet of 200 large images has 20 million pixels: little effort is enough.
    Image.fromarray(sheet).save(file, format="png", compress_level=3)
    return file.getvalue()


def heading(chosen: Chosen, row: int, names: Sequence[str]) -> str:
    """An image's name and what is known of it."""
    if chosen.labels[row] < 0:
        return os.path.basename(chosen.names[row])
    origin = f"synthetic by {chosen.generators[row]}" * bool(chosen.generators[row])
    return f"{chosen.names[row]}: {names[chosen.labels[row]]}, {origin or 'real'}"


def saying(
    part: str, maps: Maps, chosen: Chosen, row: int, names: Sequence[str]
) -> tuple[str, bool]:
    """What a map speaks for and how probable that is; whether the part is known to be
    mistaken about the image."""
    p, shown = maps.probabilities[row], maps.classes[row]
    label, said = chosen.labels[row], p.argmax()
    name = "synthetic" if part == "detector" else names[shown]
    truth = chosen.synthetic[row] if part == "detector" else label
    wrong = bool(label >= 0 and said != truth)
    return f"{name}: {p[shown]:.2f}", wrong


def shortened(text: str, length: int) -> str:
    """The text, or its two ends."""
    if len(text) <= length:
        return text
    head = max(1, (length - 1) // 2)
    return f"{text[:head]}…{text[len(text) - max(1, length - 1 - head) :]}"
