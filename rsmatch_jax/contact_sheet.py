"""Contact sheets: rows of labelled pictures, drawn by Pillow."""

import functools
import io
import os
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rsmatch_jax import files

MAX_ROWS = 100  # of a sheet with a row per class
GREY = "#c8c8c8"  # around a tile
# Pixels.
GAP, _MARGIN = 2, 12  # between tiles, around everything and between groups
_FONT, _TITLE, _LINE = 11, 13, 16  # two sizes of letters, a line of text
_NAME = 180  # the longest name of a row
_SWATCH = 10  # the side of a colour in the legend


class Theme(NamedTuple):
    """Colours of the ground, of texts, of empty places and of marked captions."""

    paper: str
    ink: str
    empty: str
    marked: str


LIGHT = Theme(paper="#ffffff", ink="#000000", empty="#ebebeb", marked="#b03a00")
DARK = Theme(paper="#14171b", ink="#e6e9ed", empty="#2a3038", marked="#ff9f68")
THEMES = LIGHT, DARK  # of a picture and its dark twin


class Tile(NamedTuple):
    """A picture uint8 [H, W], [H, W, 1] or [H, W, 3], and the caption above it.
    stripes: width in pixels of stripes in the frame, 0 = an even one."""

    picture: np.ndarray
    caption: str = ""
    frame: str = GREY
    stripes: int = 0
    is_marked: bool = False  # the caption is bold and coloured


class Group(NamedTuple):
    """Tiles side by side, None for an empty place, and the heading above them."""

    tiles: Sequence[Tile | None]
    heading: str = ""


def draw(
    title: str,
    rows: Sequence[Sequence[Group]],
    names: Sequence[str] = (),
    *,
    sides: tuple[int, int],
    border: int = 0,
    legend: Sequence[tuple[np.ndarray, str]] = (),
    theme: Theme = LIGHT,
) -> Image.Image:
    """Returns a sheet with rows of groups of tiles; the first row has the most groups.

    All tiles get the size of the first one, see `fitted`. Long texts are shortened.

    Args:
        names: of the rows, at their left.
        sides: see `fitted`.
        border: width of the frames in pixels.
        legend: small pictures below the title, and what they mean.
        theme: its colours.
    """
    plain, large = font(_FONT), font(_TITLE)
    tiles = (t for row in rows for group in row for t in group.tiles if t is not None)
    size = fitted(*next(tiles).picture.shape[:2], *sides)
    high, wide = size[0] + 2 * border, size[1] + 2 * border
    names = [shortened(name, _NAME, plain) for name in names]
    left = max((_length(name, plain) + 2 * _MARGIN for name in names), default=_MARGIN)
    rooms = [
        max(1, *(len(row[g].tiles) for row in rows if g < len(row))) * (wide + GAP)
        for g in range(len(rows[0]))
    ]
    edges = [*accumulate((room - GAP + _MARGIN for room in rooms), initial=left)]
    tops, y = [], 2 * _MARGIN + _LINE * (2 if legend else 1)  # tops: of the tiles
    for row in rows:
        lines = _lines_above(row)
        y += _LINE * lines + (_MARGIN - GAP if tops and lines else 0)
        tops.append(y)
        y += high + GAP
    keys = [key.shape[1] + _length(text, plain) + 2 * _MARGIN for key, text in legend]
    right = max(edges[-1], 2 * _MARGIN + _length(title, large), _MARGIN + sum(keys))
    sheet = Image.new("RGB", (right, y - GAP + _MARGIN), theme.paper)
    pen, ink = ImageDraw.Draw(sheet), theme.ink
    pen.text((_MARGIN, _MARGIN), _one_line(title), ink, large)
    for x, (key, text) in zip(accumulate(keys, initial=_MARGIN), legend, strict=False):
        sheet.paste(_image(key), (x, _MARGIN + _LINE + 6))
        place = x + key.shape[1] + _MARGIN // 2, _MARGIN + _LINE + 4
        pen.text(place, text, ink, plain)
    for name, top in zip(names, tops, strict=False):
        pen.text((left - _MARGIN, top + high / 2), name, ink, plain, anchor="rm")
    for row, top in zip(rows, tops, strict=True):
        heading_top = top - _LINE * _lines_above(row)
        for x, room, group in zip(edges, rooms, row, strict=False):
            heading = shortened(group.heading, room, plain)
            pen.text((x, heading_top), heading, ink, plain)
            for column, tile in enumerate(group.tiles):
                corner = x + column * (wide + GAP), top
                _put(sheet, tile, corner, size, border, theme)
    return sheet


def dark_twin(path: str) -> str:
    """Returns the path of the same picture for dark pages: queue.dark.png."""
    stem, extension = os.path.splitext(path)
    return f"{stem}.dark{extension}"


def write(path: str, drawn: Callable[[Theme], bytes]):
    """Writes a picture and its dark twin, the light one last.

    drawn: returns the picture in a theme, as PNG.
    """
    files.write_bytes(dark_twin(path), drawn(DARK))
    files.write_bytes(path, drawn(LIGHT))


def swatch(colour: str, stripes: int = 0) -> np.ndarray:
    """Returns a square for a legend, coloured as a tile's frame."""
    return np.asarray(_pattern((_SWATCH, _SWATCH), colour, stripes))


def _pattern(size: tuple[int, int], colour: str, stripes: int) -> Image.Image:
    """An even picture, or one with slanting white stripes; size: (width, height)."""
    pattern = Image.new("RGB", size, colour)
    if stripes:
        x, y = np.indices(size)
        gaps = ((x + y) // stripes % 2).T.astype(bool)
        pattern.paste("white", mask=Image.fromarray(gaps))
    return pattern


def fitted(height: int, width: int, least: int, most: int) -> tuple[int, int]:
    """Returns the height and width at which a picture is drawn.

    The larger one of a small picture becomes about `least` pixels, by a whole factor
    so that its pixels stay squares, and that of a picture above `most` becomes `most`.
    """
    larger = max(height, width)
    scale = most / larger if larger > most else max(1, round(least / larger))
    return max(1, round(height * scale)), max(1, round(width * scale))


def resized(picture: np.ndarray, height: int, width: int) -> Image.Image:
    """Returns a picture at a size: pixels are repeated, or their areas averaged."""
    image = _image(picture)
    kernel = Image.Resampling.NEAREST
    if height < image.height:
        kernel = Image.Resampling.BOX
    return image.resize((width, height), kernel)


def to_png(sheet: Image.Image) -> bytes:
    """Returns the PNG file."""
    file = io.BytesIO()
    # A sheet of 200 large images has 20 million pixels: low effort is enough.
    sheet.save(file, format="png", compress_level=3)
    return file.getvalue()


@functools.cache
def font(size: int, style: str = "") -> ImageFont.FreeTypeFont:
    """Returns a font that matplotlib brings along; style: "" or "-Bold"."""
    import matplotlib  # lazy: half a second

    folder = os.path.join(matplotlib.get_data_path(), "fonts", "ttf")
    return ImageFont.truetype(os.path.join(folder, f"DejaVuSans{style}.ttf"), size)


def shortened(text: str, room: float, style: ImageFont.FreeTypeFont) -> str:
    """Returns the text, or both its ends, at most `room` pixels wide."""
    shorter = text = _one_line(text)
    length = len(text)
    while length > 2 and style.getlength(shorter) > room:
        length -= 1
        head = (length - 1) // 2
        shorter = f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"
    return shorter


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())  # Pillow fails at any other end of a line


def _length(text: str, style: ImageFont.FreeTypeFont) -> int:
    return round(style.getlength(_one_line(text)))


def _lines_above(row: Sequence[Group]) -> int:
    """The lines of text above the tiles of a row."""
    captions = any(tile and tile.caption for group in row for tile in group.tiles)
    return any(group.heading for group in row) + captions


def _put(
    sheet: Image.Image,
    tile: Tile | None,
    corner: tuple[int, int],
    size: tuple[int, int],
    border: int,
    theme: Theme,
):
    """Draws a tile with its frame and caption, or an empty place."""
    (x, y), (height, width) = corner, size
    box = x, y, x + width + 2 * border, y + height + 2 * border
    if tile is None:
        sheet.paste(theme.empty, box)
        return
    if border:
        outer = width + 2 * border, height + 2 * border
        sheet.paste(_pattern(outer, tile.frame, tile.stripes), box)
    sheet.paste(resized(tile.picture, height, width), (x + border, y + border))
    style = font(_FONT, "-Bold" if tile.is_marked else "")
    text = shortened(tile.caption, width, style)
    colour = theme.marked if tile.is_marked else theme.ink
    ImageDraw.Draw(sheet).text((x, y - _LINE), text, colour, style)


def _image(picture: np.ndarray) -> Image.Image:
    is_grey = picture.ndim == 3 and picture.shape[2] == 1
    return Image.fromarray(
        np.ascontiguousarray(picture[..., 0] if is_grey else picture)
    )
