"""The judged pictures, and the orders in which people look at them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rsmatch_jax.metrics import verdicts


class Row(NamedTuple):
    """A line of images.csv. class_name: "" = no class; score: 1 = synthetic."""

    path: str
    class_name: str
    probability: float | None
    score: float
    verdict: str | None


def border(summary: Mapping[str, Any]) -> float:
    """Returns the threshold, 0.5 without one."""
    threshold = verdicts.number(summary.get("threshold"))
    return 0.5 if threshold is None else threshold


def orders(
    rows: Sequence[Row], summary: Mapping[str, Any], members: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Returns the positions of rows in three orders, by name.

    members: the positions of the rows that count, None = all.
    """
    middle, is_border = border(summary), summary.get("threshold") is not None
    if members is None:
        members = np.arange(len(rows))
    scores = np.array([rows[i].score for i in members.tolist()], np.float64)
    keys = {
        "surest synthetic": -scores,
        "surest real": scores,
        "nearest the border" if is_border else "nearest 0.5": np.abs(scores - middle),
    }
    return {k: members[np.argsort(key, kind="stable")] for k, key in keys.items()}
