"""Verdicts on unlabelled pictures: their names, the files of the command `sift`, and
its summary in words."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from rsmatch_jax import files
from rsmatch_jax.forensics.scores import BOUNDARY
from rsmatch_jax.forensics.threshold import INTERVAL

SYNTHETIC, UNSURE, REAL = "synthetic", "unsure", "real"
VERDICTS = (SYNTHETIC, UNSURE, REAL)
# Orange, grey and blue differ with and without colour vision, and so do frames that
# are even, dotted and striped.
COLOURS = {SYNTHETIC: "#d95f02", UNSURE: "#7f7f7f", REAL: "#1f78b4"}
STRIPES = {SYNTHETIC: 0, UNSURE: 2, REAL: 4}  # pixels
FOLDER = "sift"  # in a workdir
TABLE_FILE, SUMMARY_FILE = "images.csv", "summary.json"
SHEET_FILE, PAGE_FILE = "sheet.png", "sift.html"
# Real pictures that set the threshold, in the summary.
HELD_OUT, LABELLED = "test and validation pictures", "labelled pictures, cross-fitted"
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
    keys = "estimated_share", "share_at_least", "threshold", "held_out_real"
    share, least, threshold, held_out = (number(summary.get(key)) for key in keys)
    rate = number(summary.get("false_alarm"))
    if share is not None:
        ends = interval(summary.get("estimated_share_interval"))
        text = percent(share) + (f" (90 % interval {ends})" if ends else "")
        yield "estimated_share", "estimated synthetic share", text
    if least is not None:
        text = f"{percent(least)} (at 90 % confidence)"
        yield "share_at_least", "synthetic share at least", text
    if threshold is not None:
        yield "threshold", "called synthetic above a score of", f"{threshold:.3f}"
    if held_out is not None:
        of_labelled = summary.get("held_out") == LABELLED
        note = " (the labelled ones, by models that did not see them)"
        text = f"{held_out:,}{note if of_labelled else ''}"
        yield "held_out_real", "held-out real pictures", text
    if threshold is not None and rate is not None:
        ends = interval(summary.get("false_alarm_interval"))
        text = f" ({percent(INTERVAL)} interval {ends})" if ends else ""
        text = f"at most {percent(rate)}{text}"
        yield "false_alarm", "real pictures called synthetic", text
    if by := BY.get(str(summary.get("by"))):
        yield "by", "judged by", by
    lean = summary.get("lean")
    if isinstance(lean, Mapping) and lean:
        parts = {name: number(part) or 0 for name, part in lean.items()}
        largest = sorted(parts, key=lambda name: -parts[name])[:4]
        text = ", ".join(f"{name} {percent(parts[name])}" for name in largest)
        yield "lean", "the statistics lean on", text
    if (weight := number(summary.get("detector_weight"))) is not None:
        text = f"{percent(weight)} detector, {percent(1 - weight)} statistics"
        yield "detector_weight", "weights", text


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
