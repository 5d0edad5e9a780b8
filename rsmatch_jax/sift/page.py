"""The sifted pictures as one HTML file that needs no network: sift.html."""

import base64
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from rsmatch_jax import contact_sheet, files, templates
from rsmatch_jax.data import rs_ssl
from rsmatch_jax.data.stores.dataset_folder import natural_key
from rsmatch_jax.metrics import verdicts
from rsmatch_jax.sift import rows as judged
from rsmatch_jax.sift.rows import Row

MAX_SHOWN = 20_000  # pictures: the file has 40 MB, and a browser opens it in seconds
MAX_SIDE = 64  # pixels of a thumbnail
_LOSSLESS_SIDE = 32  # people look for traces of a generator in single pixels
_SPRITE_SIDE = 1024  # pixels; thumbnails are stored many to a picture


def write(
    path: str, rows: Sequence[Row], images: rs_ssl.Images, summary: Mapping[str, Any]
):
    """Writes the page.

    Of more than MAX_SHOWN pictures it shows a third each of the surest synthetic ones,
    the surest real ones and those nearest the border.

    Args:
        rows: of images.csv.
        images: uint8 [N, S, S, 1 or 3] or encoded, in the order of the rows; larger
            ones than MAX_SIDE are reduced.
        summary: of summary.json; all of it may be null.
    """
    shown = _shown(rows, summary)
    side = min(MAX_SIDE, images.shape[1])
    columns = _SPRITE_SIDE // side
    members = [rows[i] for i in shown.tolist()]
    paths = [row.path for row in members]
    judgements = {row.verdict for row in members}
    rate = verdicts.number(summary.get("false_alarm"))
    data = {
        "id": _identity([row.path for row in rows]),
        "side": side,
        "columns": columns,
        "border": judged.border(summary),
        "classes": sorted({row.class_name for row in members} - {""}, key=natural_key),
        "verdicts": [word for word in verdicts.VERDICTS if word in judgements],
        "path": paths,
        "class": [row.class_name for row in members],
        "probability": [_rounded(row.probability) for row in members],
        "score": [_rounded(row.score) for row in members],
        "verdict": [row.verdict or "" for row in members],
    }
    page = templates.filled(
        __file__,
        "sift.html.jinja",
        data=data,
        sprites=list(_sprites(images, shown, side, columns)),
        total=len(rows),
        figures=list(verdicts.figures(summary)),
        colours=verdicts.COLOURS,
        by=summary.get("by"),
        threshold=verdicts.number(summary.get("threshold")),
        needed=verdicts.number(summary.get("held_out_needed")),
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


def _sprites(
    images: rs_ssl.Images, shown: np.ndarray, side: int, columns: int
) -> Iterator[str]:
    """Yields WebP files in base64, each of columns * columns pictures at most."""
    kind = {"quality": 90} if side > _LOSSLESS_SIDE else {"lossless": True}
    for first in range(0, len(shown), columns * columns):
        pictures = images[shown[first : first + columns * columns]]
        lines = -(-len(pictures) // columns)
        grid = np.zeros((lines * columns, side, side, 3), np.uint8)
        for place, picture in zip(grid, pictures, strict=False):
            image = contact_sheet.resized(picture, side, side)
            place[:] = np.asarray(image.convert("RGB"))
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
