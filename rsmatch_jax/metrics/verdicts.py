"""Verdicts on unlabelled pictures: their names, the files of the command `sift`, and
its summary in words."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from rsmatch_jax import files
from rsmatch_jax.forensics.threshold import INTERVAL

SYNTHETIC, UNSURE, REAL = "synthetic", "unsure", "real"
VERDICTS = (SYNTHETIC, UNSURE, REAL)
BOUNDARY = 0.5  # of a score: from here on a picture is rather synthetic
# Orange, grey and blue differ with and without colour vision.
COLOURS = {SYNTHETIC: "#d95f02", UNSURE: "#7f7f7f", REAL: "#1f78b4"}
FOLDER = "sift"  # in a workdir
TABLE_FILE, SUMMARY_FILE = "images.csv", "summary.json"
SHEET_FILE, PAGE_FILE = "sheet.png", "sift.html"
BY = {
    "detector": "the run's detector",
    "statistics": "statistics of the pictures",
    "both": "the run's detector and statistics of the pictures",
}


def of_scores(scores: np.ndarray, threshold: float | None) -> list[str | None]:
    """Returns a verdict on each score: synthetic above the threshold, real below
    BOUNDARY, unsure between the two; None without a threshold."""
    if threshold is None:
        return [None] * len(scores)
    below = np.where(scores < BOUNDARY, REAL, UNSURE)
    if threshold < BOUNDARY:
        below = np.full(len(scores), REAL)
    return np.where(scores > threshold, SYNTHETIC, below).tolist()


def detector_threshold(workdir: str, step: int) -> float | None:
    """Returns the threshold on a detector's score that `sift` has put into a workdir at
    this step, None if there is none."""
    summary = files.read_json(os.path.join(workdir, FOLDER, SUMMARY_FILE)) or {}
    if summary.get("step") != step:
        return None
    return number(summary.get("detector_threshold"))


def figures(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yields (key, title, text) of the figures in a summary.json that are not null."""
    counts = summary.get("verdicts") or {}
    for verdict in VERDICTS:
        if (count := number(counts.get(verdict))) is not None:
            total = sum(number(counts.get(v)) or 0 for v in VERDICTS)
            share = f" ({percent(count / total)})" if total else ""
            yield f"verdicts.{verdict}", f"called {verdict}", f"{count:,}{share}"
    if (share := number(summary.get("estimated_share"))) is not None:
        text = percent(share)
        if ends := interval(summary.get("estimated_share_interval")):
            text += f" (90 % interval {ends})"
        yield "estimated_share", "estimated synthetic share", text
    if (share := number(summary.get("share_at_least"))) is not None:
        text = f"{percent(share)} (at 90 % confidence)"
        yield "share_at_least", "synthetic share at least", text
    if (threshold := number(summary.get("threshold"))) is not None:
        yield "threshold", "called synthetic above a score of", f"{threshold:.3f}"
    if (count := number(summary.get("held_out_real"))) is not None:
        yield "held_out_real", "held-out real pictures", f"{count:,}"
    if (rate := number(summary.get("false_alarm"))) is not None:
        text = f"at most {percent(rate)}"
        if ends := interval(summary.get("false_alarm_interval")):
            text += f" ({percent(INTERVAL)} interval {ends})"
        yield "false_alarm", "real pictures called synthetic", text
    if by := BY.get(str(summary.get("by"))):
        yield "by", "judged by", by


def number(value: Any) -> int | float | None:
    """Returns a number from a JSON file, None for null and anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number else None


def percent(share: float) -> str:
    """Returns a share as percent with two or three digits: 5 %, 51.2 %, 100 %."""
    return f"{100 * share:.1f}".removesuffix(".0") + " %"


def interval(ends: Any) -> str | None:
    """Returns an interval of shares in percent, None for null."""
    if not isinstance(ends, list | tuple) or len(ends) != 2:
        return None
    low, high = map(number, ends)
    if low is None or high is None:
        return None
    return f"{percent(low).removesuffix(' %')} to {percent(high)}"
