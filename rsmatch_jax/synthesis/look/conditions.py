"""Reads what each picture of a pool was drawn with besides its class, if its maker has
noted that: the second class of a picture between two (`synthesis.ddpm --mix`), and the
difficulty that was wanted, with the one that a classifier measured (`--difficulty`)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rsmatch_jax import terminal
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.data.stores.arrays import ImageArrays
from rsmatch_jax.errors import RequestError

SECOND = "second_labels"
DIFFICULTY, MEASURED = "difficulty", "measured_difficulty"
NAMES = (SECOND, DIFFICULTY, MEASURED)
PARTS = 5  # equal parts of 0 to 1, for the table
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
    result: dict[str, Any] = {}
    if SECOND in columns:
        pairs = np.zeros((pool.num_classes,) * 2, int)  # label, second
        np.add.at(pairs, (pool.labels, columns[SECOND]), 1)
        result["pairs"] = pairs.tolist()
    if {DIFFICULTY, MEASURED} <= columns.keys():
        result["difficulty"] = _difficulty(columns[DIFFICULTY], columns[MEASURED])
    return result


def _difficulty(wanted: np.ndarray, measured: np.ndarray) -> dict[str, Any]:
    """Compares two columns of 0 to 1: Spearman's rank correlation, None if a column is
    constant; a row per part of 0 to 1 that has pictures: its upper end, the number of
    pictures wanted in it, and the means."""
    from scipy import stats  # lazy

    varied = np.ptp(wanted) > 0 and np.ptp(measured) > 0
    part = np.minimum((wanted * PARTS).astype(int), PARTS - 1)
    rows = [
        [
            (i + 1) / PARTS,
            np.sum(part == i),
            wanted[part == i].mean(),
            measured[part == i].mean(),
        ]
        for i in np.unique(part)
    ]
    return {
        "spearman": stats.spearmanr(wanted, measured).statistic if varied else None,
        "parts": rows,
    }


def captions(columns: Columns, pool: ImageArrays) -> list[str]:
    """Returns a caption for each picture of the sheet; [] without columns."""
    texts = []
    if SECOND in columns:
        texts.append([f"+ {pool.class_names[label]}" for label in columns[SECOND]])
    if {DIFFICULTY, MEASURED} <= columns.keys():
        pairs = zip(columns[DIFFICULTY], columns[MEASURED], strict=True)
        texts.append(
            [f"{100 * wanted:.0f}:{100 * measured:.0f}" for wanted, measured in pairs]
        )
    return [" ".join(parts) for parts in zip(*texts, strict=True)]


def lines(figures: Mapping[str, Any]) -> list[str]:
    """Returns the paragraphs of the tables; figures: those of `figures`."""
    paragraphs = []
    if "pairs" in figures:
        counts = [n for row in figures["pairs"] for n in row if n]
        paragraphs.append(
            "Pictures between two classes\n"
            f"{sum(counts)} of {len(counts)} pairs of a class and a second one, "
            f"{min(counts)} to {max(counts)} a pair"
        )
    if "difficulty" in figures:
        spearman = figures["difficulty"]["spearman"]
        head, rows = ("wanted", "pictures", "mean wanted", "mean measured"), []
        for end, count, wanted, measured in figures["difficulty"]["parts"]:
            part = f"{end - 1 / PARTS:.1f} to {end:.1f}"
            rows.append((part, str(count), f"{wanted:.2f}", f"{measured:.2f}"))
        table = terminal.table(head, rows, numbers=True)
        paragraphs.append(
            f"Difficulty (on the sheet: wanted:measured in percent)\n{table}\n"
            "Spearman's rank correlation of wanted and measured: "
            + ("- (all are alike)" if spearman is None else f"{spearman:.3f}")
        )
    return paragraphs
