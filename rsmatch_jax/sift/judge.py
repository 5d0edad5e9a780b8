"""Scores, threshold and the estimated share of synthetic pictures."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from rsmatch_jax.data.rs_ssl import UNKNOWN
from rsmatch_jax.errors import RequestError
from rsmatch_jax.forensics import features, share, threshold
from rsmatch_jax.forensics import scores as forensic_scores
from rsmatch_jax.metrics import verdicts
from rsmatch_jax.sift import material as materials
from rsmatch_jax.sift.material import Material

DETECTOR, STATISTICS, BOTH = verdicts.BY
FEWEST_IMAGES = share.MIN_UNLABELED  # for an estimated share
FEWEST_KNOWN = 20  # of each origin, to choose a score by them
# Of the detector beside the statistics; equal ones first.
WEIGHTS = tuple(sorted((i / 10 for i in range(11)), key=lambda w: abs(w - 0.5)))
# Held-out pictures; with fewer, the statistics judge alone (with equal weights both did
# worse on CIFAR-10 + CIFAKE), and labelled ones count as held out if they are more.
ENOUGH_HELD_OUT = 50


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores in 0..1, higher = more synthetic, with their boundary at 0.5.

    images: float64 [N]. held_out: float64 [H], of real pictures that trained nothing;
    which: what these are. context: of further unlabelled pictures. lean: {group of
    statistics: its part in the scores}. weight: of the detector beside the statistics,
    None where there is one of them.
    """

    images: np.ndarray
    held_out: np.ndarray
    context: np.ndarray
    which: str = verdicts.HELD_OUT
    lean: Mapping[str, float] = dataclasses.field(default_factory=dict)
    weight: float | None = None


def scores(material: Material, by: str | None) -> dict[str, Scores]:
    """Returns the scores that `by` asks for, by name, and the detector's if there are
    any, for `predict`; None: all that there are."""
    predicted = {} if material.predicted is None else material.predicted.scores
    if by in (DETECTOR, BOTH) and not predicted:
        raise RequestError(
            f"--by={by}: this run has no detector; use --by={STATISTICS}, or leave it "
            "out"
        )
    made = {}
    if predicted:
        parts = [predicted[part].astype(np.float64) for part in materials.PARTS]
        made[DETECTOR] = Scores(parts[0], parts[1], parts[2])
    few = _too_few(material)
    if few and (by in (STATISTICS, BOTH) or not predicted):
        raise RequestError(few)
    if by != DETECTOR and not few:
        of_held_out, made[STATISTICS] = by_statistics(material)
        if DETECTOR in made and by != STATISTICS:
            made[BOTH] = combined(made[DETECTOR], of_held_out)
    return made


def _too_few(material: Material) -> str | None:
    """Returns why there are no scores by statistics, or None."""
    unlabelled = len(material.images) + len(material.context)
    for what, count, fewest, key in (
        ("labelled", len(material.labelled), forensic_scores.MIN_REAL, "labeled"),
        ("unlabelled", unlabelled, forensic_scores.FOLDS, "unlabeled"),
    ):
        if count < fewest:
            return (
                f"data.{key}: there are {count} {what} pictures, and scores by "
                f"statistics need {fewest}; add some"
            )
    return None


def by_statistics(material: Material) -> tuple[Scores, Scores]:
    """Returns scores by the statistics of pictures alone, cross-fitted: with the
    held-out pictures, and as they judge alone: with the labelled ones if those are
    too few."""
    parts = material.labelled, material.images, material.context, material.held_out
    labelled, images, context, held_out = map(features.compute, parts)
    fitted = forensic_scores.cross_fit(
        labelled,
        np.concatenate([images, context]),
        held_out,
        features.groups(material.labelled.shape[1:]),
        material.classes,
        np.concatenate([*map(features.digests, parts)]),
    )
    of_images, of_context = np.split(fitted.unlabeled, [len(images)])
    made = Scores(of_images, fitted.held_out, of_context, lean=fitted.lean)
    if len(held_out) >= min(ENOUGH_HELD_OUT, len(labelled)):
        return made, made
    of_labelled = {"held_out": fitted.labeled, "which": verdicts.LABELLED}
    return made, dataclasses.replace(made, **of_labelled)


def combined(detector: Scores, statistics: Scores) -> Scores:
    """Returns a weighted mean of both scores' ranks among the unlabelled pictures, with
    the boundary where the estimated share puts it.

    Of WEIGHTS, the detector has the one with which held-out real pictures and
    unlabelled ones differ most; an equal one below ENOUGH_HELD_OUT. Where real pictures
    score alike, this is also the best one for telling origins, which nobody knows: the
    AUROC of real against unlabelled pictures is (1 - share) / 2 + share * that of real
    against synthetic ones. A threshold by the same held-out pictures then has 5.5 % of
    false alarms instead of 5 (made scores, 59 held out).
    """
    pair = (detector, statistics)
    among = [np.sort(np.concatenate([s.images, s.context])) for s in pair]

    def ranks(part: str) -> np.ndarray:
        below = [
            np.searchsorted(ordered, getattr(s, part), "right") / len(ordered)
            for s, ordered in zip(pair, among, strict=True)
        ]
        return np.stack(below)

    parts = [ranks(part) for part in ("images", "context")]
    has_real = len(detector.held_out) > 0
    parts.append(ranks("held_out"))
    weight, boundary = WEIGHTS[0], verdicts.BOUNDARY
    if len(detector.held_out) >= ENOUGH_HELD_OUT:
        weight = max(WEIGHTS, key=lambda w: _apart(*(_mean(x, w) for x in parts)))
    images, context, held_out = (_mean(x, weight) for x in parts)
    if has_real:
        unlabelled = np.concatenate([images, context])
        boundary = np.quantile(unlabelled, 1 - share.best_bin(held_out, unlabelled))
    # Two straight lines, so that the boundary comes to lie at 0.5.
    places = [0, np.clip(boundary, 1e-6, 1 - 1e-6), 1]
    line = [0, verdicts.BOUNDARY, 1]
    images, context, held_out = (
        np.interp(x, places, line) for x in (images, context, held_out)
    )
    return Scores(images, held_out, context, detector.which, statistics.lean, weight)


def _mean(ranks: np.ndarray, weight: float) -> np.ndarray:
    return weight * ranks[0] + (1 - weight) * ranks[1]


def _apart(images: np.ndarray, context: np.ndarray, real: np.ndarray) -> float:
    """Returns the AUROC of real against unlabelled pictures."""
    from sklearn import metrics  # lazy: takes a second

    unlabelled = np.repeat([1, 1, 0], [len(images), len(context), len(real)])
    return float(
        metrics.roc_auc_score(unlabelled, np.concatenate([images, context, real]))
    )


def best(made: Mapping[str, Scores], origins: np.ndarray) -> tuple[str, dict[str, Any]]:
    """Returns the name of the score to judge by, and figures of each where origins are
    known: the one with the highest AUROC there, else both if enough pictures are held
    out to weigh them, else the statistics, else the only one."""
    known = origins != UNKNOWN
    synthetic = origins[known] >= 0
    numbers = np.bincount(synthetic, minlength=2)
    figures: dict[str, Any] = {"real": int(numbers[0]), "synthetic": int(numbers[1])}
    auroc: dict[str, float | None] = dict.fromkeys(made)
    if numbers.min() > 0:
        from sklearn import metrics  # lazy: takes a second

        for name, s in made.items():
            auroc[name] = float(metrics.roc_auc_score(synthetic, s.images[known]))
    figures["auroc"] = auroc
    if can_choose(figures):
        return max(made, key=lambda name: auroc[name] or 0.0), figures
    if BOTH in made:
        can_weigh = len(made[BOTH].held_out) >= ENOUGH_HELD_OUT
        return BOTH if can_weigh else STATISTICS, figures
    return next(iter(made)), figures


def can_choose(known: Mapping[str, Any]) -> bool:
    """Whether enough origins are known to choose a score by them."""
    return min(known["real"], known["synthetic"]) >= FEWEST_KNOWN


def summary(
    made: Mapping[str, Scores], name: str, false_alarm: float
) -> dict[str, Any]:
    """Returns threshold, verdicts and share by one of the scores, with their intervals,
    None without held-out pictures. detector_threshold: of `predict`."""
    scored = made[name]
    limit = threshold.conformal(scored.held_out, false_alarm)
    counts = of_detector = estimate = None
    if limit.value is not None:
        words = verdicts.of_scores(scored.images, limit.value)
        counts = {word: words.count(word) for word in verdicts.VERDICTS}
    if DETECTOR in made:
        of_detector = threshold.conformal(made[DETECTOR].held_out, false_alarm).value
    if len(scored.images) >= FEWEST_IMAGES:
        estimate = share.estimate(scored.held_out, scored.images)
    value, interval, at_least = estimate or (None, None, None)
    return {
        "by": name,
        "verdicts": counts,
        "estimated_share": value,
        "estimated_share_interval": interval,
        "share_at_least": at_least,
        "threshold": limit.value,
        "detector_threshold": of_detector,
        "false_alarm": false_alarm,
        "false_alarm_interval": limit.interval,
        "held_out_real": len(scored.held_out),
        "held_out_needed": limit.needed,
        "held_out": scored.which,
        "detector_weight": scored.weight,
        "lean": {k: round(part, 4) for k, part in scored.lean.items()} or None,
    }
