"""Reads what each picture of a pool was drawn with besides its class, if its maker has
noted that: the second class of a picture between two (`synthesis.ddpm --mix`)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rsmatch_jax.data.stores import arrays
from rsmatch_jax.data.stores.arrays import ImageArrays
from rsmatch_jax.errors import RequestError

SECOND = "second_labels"
NAMES = (SECOND,)
Columns = Mapping[str, np.ndarray]  # a number per picture


def read(folder: str, report: Mapping[str, Any], count: int) -> Columns:
    """Returns those of NAMES that a pool of `count` pictures has. report: the content
    of its pool.json or meta.json."""
    noted = report.get("pictures", {})
    columns = {name: np.asarray(noted[name]) for name in NAMES if name in noted}
    for name in NAMES:
        file = f"{name}.npy"
        if entry := report.get("files", {}).get(file):
            columns[name] = arrays.open_column(folder, file, entry["sha256"])
    for name, column in columns.items():
        if column.shape != (count,):
            raise RequestError(
                f"POOL={folder}: {name} is of {len(column)} pictures, but there are "
                f"{count}; make the pool again"
            )
    return columns


def figures(columns: Columns, pool: ImageArrays) -> dict[str, Any]:
    """Returns the figures of look.json; {} without columns."""
    if SECOND not in columns:
        return {}
    pairs = np.zeros((pool.num_classes,) * 2, int)  # label, second
    np.add.at(pairs, (pool.labels, columns[SECOND]), 1)
    return {"pairs": pairs.tolist()}


def captions(columns: Columns, pool: ImageArrays) -> list[str]:
    """Returns a caption for each picture of the sheet; [] without columns."""
    if SECOND not in columns:
        return []
    return [f"+ {pool.class_names[label]}" for label in columns[SECOND]]


def lines(figures: Mapping[str, Any]) -> list[str]:
    """Returns the paragraphs of the tables; figures: those of `figures`."""
    if "pairs" not in figures:
        return []
    counts = [n for row in figures["pairs"] for n in row if n]
    return [
        "Pictures between two classes\n"
        f"{sum(counts)} of {len(counts)} pairs of a class and a second one, "
        f"{min(counts)} to {max(counts)} a pair"
    ]
