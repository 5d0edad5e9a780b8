"""The sifted pictures as one HTML file that needs no network: sift.html."""

import base64
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from rsmatch_jax import contact_sheet, files, templates
from rsmatch_jax.data.stores.dataset_folder import natural_key
from rsmatch_jax.metrics import verdicts
from rsmatch_jax.sift import rows as judged
from rsmatch_jax.sift.rows import Row

MAX_SHOWN = 20_000  # pictures: the file has 40 MB, and a browser opens it in seconds
MAX_SIDE = 64  # pixels of a thumbnail
_LOSSLESS_SIDE = 32  # people look for traces of a generator in single pixels
_SPRITE_SIDE = 1024  # pixels; thumbnails are stored many to a picture


def write(
    path: str,
    rows: Sequence[Row],
    thumbnails: np.ndarray | Iterable[np.ndarray],
    summary: Mapping[str, Any],
):
    """Writes the page.

    Of more than MAX_SHOWN pictures it shows a third each of the surest synthetic ones,
    the surest real ones and those nearest the border.

    Args:
        rows: of images.csv.
        thumbnails: uint8 [N, S, S, 1 or 3], or an iterator of such pictures, in the
            order of the rows; larger ones than MAX_SIDE are reduced.
        summary: of summary.json; all of it may be null.
    """
    shown = _shown(rows, summary)
    pictures = _reduced(thumbnails, len(rows), shown)
    side = pictures.shape[1]
    columns = _SPRITE_SIDE // side
    taken = [rows[i] for i in shown.tolist()]
    classes = sorted({row.class_name for row in taken} - {""}, key=natural_key)
    class_number = {name: number for number, name in enumerate(classes)}
    verdict_number = {name: number for number, name in enumerate(verdicts.VERDICTS)}
    paths = [row.path for row in taken]
    rate = verdicts.number(summary.get("false_alarm"))
    data = {
        "id": _identity(paths),
        "side": side,
        "columns": columns,
        "border": judged.border(summary),
        "classes": classes,
        "verdicts": verdicts.VERDICTS,
        "path": paths,
        "class": [class_number.get(row.class_name, -1) for row in taken],
        "probability": [_rounded(row.probability) for row in taken],
        "score": [_rounded(row.score) for row in taken],
        "verdict": [verdict_number.get(row.verdict or "", -1) for row in taken],
    }
    page = templates.filled(
        __file__,
        "sift.html.jinja",
        data=data,
        sprites=list(_sprites(pictures, columns)),
        total=len(rows),
        figures=list(verdicts.figures(summary)),
        colours=verdicts.COLOURS,
        lean=_lean(summary.get("lean")),
        by=summary.get("by"),
        threshold=verdicts.number(summary.get("threshold")),
        has_share=verdicts.number(summary.get("estimated_share")) is not None,
        false_alarm=None if rate is None else verdicts.percent(rate),
    )
    files.write_text(path, page)


def _shown(rows: Sequence[Row], summary: Mapping[str, Any]) -> np.ndarray:
    """Returns the positions of the rows on the page, the highest score first."""
    orders = judged.orders(rows, summary)
    if len(rows) > MAX_SHOWN:
        chosen = np.unique([order[: MAX_SHOWN // 3] for order in orders.values()])
        orders = judged.orders(rows, summary, chosen)
    return orders["surest synthetic"]


def _reduced(
    thumbnails: np.ndarray | Iterable[np.ndarray], count: int, shown: np.ndarray
) -> np.ndarray:
    """Returns the shown pictures uint8 [n, S, S, 3] with S at most MAX_SIDE."""
    if isinstance(thumbnails, np.ndarray):
        pairs = ((place, thumbnails[i]) for place, i in enumerate(shown.tolist()))
    else:
        places = {i: place for place, i in enumerate(shown.tolist())}
        numbered = zip(range(count), thumbnails, strict=True)
        pairs = ((places[i], picture) for i, picture in numbered if i in places)
    reduced = None
    for place, picture in pairs:
        if reduced is None:
            side = min(MAX_SIDE, picture.shape[0])
            reduced = np.empty((len(shown), side, side, 3), np.uint8)
        image = contact_sheet.resized(picture, *reduced.shape[1:3])
        reduced[place] = np.asarray(image.convert("RGB"))
    if reduced is None:
        raise ValueError("a page needs at least one picture")
    return reduced


def _sprites(pictures: np.ndarray, columns: int) -> Iterator[str]:
    """Yields WebP files in base64, each of columns * columns pictures at most."""
    side, each = pictures.shape[1], columns * columns
    kind = {"quality": 90} if side > _LOSSLESS_SIDE else {"lossless": True}
    for first in range(0, len(pictures), each):
        part = pictures[first : first + each]
        lines = -(-len(part) // columns)
        grid = np.zeros((lines * columns, side, side, 3), np.uint8)
        grid[: len(part)] = part
        grid = grid.reshape(lines, columns, side, side, 3).swapaxes(1, 2)
        file = io.BytesIO()
        sprite = Image.fromarray(grid.reshape(lines * side, columns * side, 3))
        sprite.save(file, "WEBP", method=0, **kind)  # 0: the fastest
        yield base64.b64encode(file.getvalue()).decode()


def _identity(paths: Sequence[str]) -> str:
    """Names a set of pictures, so that a browser finds the ticks of the same ones."""
    text = "\0".join(sorted(paths)).encode(errors="surrogateescape")
    return hashlib.blake2b(text, digest_size=12).hexdigest()


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)


def _lean(lean: Any) -> list[str]:
    """What the scores lean on, as lines of text."""
    if isinstance(lean, Mapping):
        return [f"{key}: {value}" for key, value in lean.items()]
    return [str(lean)] if lean else []
