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


def orders(
    rows: Sequence[Row], summary: Mapping[str, Any], members: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Returns the positions of rows in three orders, by name.

    The border is the threshold; without one the third order is around 0.5. members:
    the positions of the rows that count, None = all.
    """
    threshold = verdicts.number(summary.get("threshold"))
    middle = 0.5 if threshold is None else threshold
    if members is None:
        members = np.arange(len(rows))
    scores = np.array([rows[i].score for i in members.tolist()], np.float64)
    keys = {
        "surest synthetic": -scores,
        "surest real": scores,
        "nearest 0.5" if threshold is None else "nearest the border": np.abs(
            scores - middle
        ),
    }
    return {k: members[np.argsort(key, kind="stable")] for k, key in keys.items()}
