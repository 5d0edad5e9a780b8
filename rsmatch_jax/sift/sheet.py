"""Draws sheet.png: of each class the surest synthetic pictures, the surest real ones
and those nearest the border."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rsmatch_jax import contact_sheet
from rsmatch_jax.contact_sheet import Group, Theme, Tile
from rsmatch_jax.data import rs_ssl
from rsmatch_jax.data.stores.dataset_folder import natural_key
from rsmatch_jax.metrics import verdicts
from rsmatch_jax.sift import rows as judged
from rsmatch_jax.sift.rows import Row

COLUMNS = 6  # of a group
ROWS_WITHOUT_CLASSES = 6
_SIDES = (48, 64)  # least and most pixels of a tile's side
_BORDER = 2  # pixels


def draw(
    path: str,
    rows: Sequence[Row],
    thumbnails: rs_ssl.Images,
    summary: Mapping[str, Any],
):
    """Writes the sheet of pictures uint8 [N, S, S, 3], in the order of the rows, and
    its dark twin."""
    names = np.array([row.class_name for row in rows])
    classes = sorted(set(names.tolist()), key=natural_key)[: contact_sheet.MAX_ROWS]
    lines = ROWS_WITHOUT_CLASSES if len(classes) == 1 else 1
    drawn: list[list[Group]] = []
    for name in classes:
        orders = judged.orders(rows, summary, np.flatnonzero(names == name))
        for first in range(0, lines * COLUMNS, COLUMNS):
            tiles = {
                heading: [
                    _tile(rows[i], thumbnails[i]) for i in order[first:][:COLUMNS]
                ]
                for heading, order in orders.items()
            }
            drawn.append([Group(t, "" if drawn else h) for h, t in tiles.items()])
    by = verdicts.BY.get(str(summary.get("by")), "a score")
    title = f"{len(rows):,} unlabelled pictures by {by}; 1 = synthetic"
    texts = {key: text for key, _, text in verdicts.figures(summary)}
    legend = [
        (
            contact_sheet.swatch(colour, verdicts.STRIPES[verdict]),
            f"{verdict} {texts[f'verdicts.{verdict}']}",
        )
        for verdict, colour in verdicts.COLOURS.items()
        if f"verdicts.{verdict}" in texts
    ]
    options = {"sides": _SIDES, "border": _BORDER, "legend": legend}

    def in_theme(theme: Theme) -> bytes:
        sheet = contact_sheet.draw(title, drawn, classes, theme=theme, **options)
        return contact_sheet.to_png(sheet)

    contact_sheet.write(path, in_theme)


def _tile(row: Row, picture: np.ndarray) -> Tile:
    frame = verdicts.COLOURS.get(row.verdict or "", contact_sheet.GREY)
    stripes = verdicts.STRIPES.get(row.verdict or "", 0)
    return Tile(picture, f"{row.score:.3f}", frame, stripes)
