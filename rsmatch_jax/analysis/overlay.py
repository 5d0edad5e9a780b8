"""Draws Grad-CAM++ maps over their images, many on one sheet."""

import io
import os
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rsmatch_jax.analysis.choice import Chosen
from rsmatch_jax.analysis.gradcam import Maps

SYNTHETIC = 1  # the detector's class
COLOURS = "plasma"  # reads alike with and without colour vision
OPACITY = 0.65  # of a map where it is 1
TILE = (112, 160)  # pixels a side: smaller images are enlarged, larger ones reduced
COLUMNS = 4  # images side by side
GAP, MARGIN, TOP = 4, 12, 56  # pixels: between tiles, around images, above all
LINES = 32  # pixels above a tile for two lines of text
BAR = 120  # pixels, of the colour bar
KEY = "from nothing to the most that speaks for the class"
FRAME = "#c8c8c8"  # around a tile
FONT, TITLE = 10, 12  # pixels
MISTAKE = "#b03a00"


def blend(image: np.ndarray, heat: np.ndarray, side: int) -> np.ndarray:
    """Returns a grey image of `side` pixels, coloured where `heat` [S, S] is high."""
    grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    grey = np.asarray(_scaled(np.rint(grey).astype(np.uint8), side)) / 255
    smooth = Image.fromarray(heat.astype(np.float32))
    return _coloured(grey, smooth.resize((side, side), Image.Resampling.BILINEAR))


def _coloured(grey: np.ndarray, heat) -> np.ndarray:
    from matplotlib import colormaps  # lazy: half a second

    heat = np.asarray(heat)
    share = OPACITY * heat[..., None]
    mixed = (1 - share) * grey[..., None] + share * colormaps[COLOURS](heat)[..., :3]
    return np.rint(255 * mixed).astype(np.uint8)


def _scaled(image: np.ndarray, side: int) -> Image.Image:
    """An image at another size; enlarged pixels stay squares."""
    kernel = Image.Resampling.NEAREST
    if side < len(image):
        kernel = Image.Resampling.BOX
    return Image.fromarray(image).resize((side, side), kernel)


def draw(
    chosen: Chosen, shown: Mapping[str, Maps], names: Sequence[str], title: str
) -> bytes:
    """Returns a PNG with each image, and beside it its map of each network."""
    count, size = chosen.images.shape[:2]
    side = size * max(1, round(TILE[0] / size)) if size < TILE[1] else TILE[1]
    columns = min(COLUMNS, count)
    room = (1 + len(shown)) * (side + GAP)
    block, high = room + 2 * MARGIN, side + LINES + MARGIN
    plain, bold = _font("DejaVuSans", FONT), _font("DejaVuSans-Bold", FONT)
    heading_font = _font("DejaVuSans", TITLE)
    texts = heading_font.getlength(title), BAR + 2 * GAP + plain.getlength(KEY)
    width = max(columns * block, int(max(texts)) + 2 * MARGIN)
    height = TOP + -(-count // columns) * high
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, 8), title, "black", heading_font)
    ramp = np.tile(np.linspace(0, 1, BAR), (10, 1))
    sheet.paste(Image.fromarray(_coloured(np.full_like(ramp, 0.5), ramp)), (MARGIN, 30))
    pen.text((MARGIN + BAR + 2 * GAP, 29), KEY, "black", plain)
    for i in range(count):
        x, y = i % columns * block + MARGIN, TOP + i // columns * high
        text = shortened(heading(chosen, i, names), room, plain)
        pen.text((x, y), text, "black", plain)
        tiles = [_scaled(chosen.images[i], side)]
        for part, maps in shown.items():
            left = x + len(tiles) * (side + GAP)
            text, wrong = caption(part, maps, chosen, i, names)
            font = bold if wrong else plain
            colour = MISTAKE if wrong else "black"
            pen.text((left, y + 15), shortened(text, side, font), colour, font)
            tile = blend(chosen.images[i], maps.maps[i], side)
            tiles.append(Image.fromarray(tile))
        for column, tile in enumerate(tiles):
            left, top = x + column * (side + GAP), y + LINES
            pen.rectangle((left - 1, top - 1, left + side, top + side), outline=FRAME)
            sheet.paste(tile, (left, top))
    file = io.BytesIO()
    # A sheet of 200 large images has 20 million pixels: low effort is enough.
    sheet.save(file, format="png", compress_level=3)
    return file.getvalue()


def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A font that matplotlib brings along."""
    import matplotlib  # lazy: half a second

    path = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf")
    return ImageFont.truetype(path, size)


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


def shortened(text: str, room: float, font: ImageFont.FreeTypeFont) -> str:
    """Returns the text, or both its ends, at most `room` pixels wide."""
    shorter = text = text.replace("\n", " ")  # Pillow measures single lines
    length = len(text)
    while length > 2 and font.getlength(shorter) > room:
        length -= 1
        head = (length - 1) // 2
        shorter = f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"
    return shorter
