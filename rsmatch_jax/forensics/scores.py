"""Scores of unlabelled pictures from real and unlabelled ones alone.

Positive-unlabelled learning by logistic regression on the statistics of `features`:
a classifier tells real from unlabelled pictures, and a second one learns from the
first one's verdicts. No picture is scored by a model that saw it.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from rsmatch_jax.forensics import share

FOLDS = 5
MIN_REAL = 10  # below, there is nothing to learn from
CLIP = 5.0  # standard deviations
# Inverse of the ridge penalty, times the number of pictures: statistics outnumber the
# real pictures, and a weak penalty costs 0.03 to 0.05 of AUROC.
STRENGTH = 5.0
SOFTNESS = 0.05  # of the second round's labels, as a share of the unlabelled pictures
STEEPNESS = 2.0  # of the scores, per standard deviation
MAX_TRAINING = 20_000  # unlabelled pictures that train a model


class Scores(NamedTuple):
    """Scores in 0..1, higher = more synthetic, float64.

    0.5 is the boundary: as many unlabelled pictures lie above it as the labelled ones
    suggest to be synthetic. labeled, unlabeled, held_out: [L], [N], [H], of models that
    did not see the picture, so that real pictures of all three score alike. lean: how
    much of the unlabelled pictures' score each group of statistics makes up; adds to 1.
    """

    labeled: np.ndarray
    unlabeled: np.ndarray
    held_out: np.ndarray
    lean: dict[str, float]


def cross_fit(
    labeled: np.ndarray,
    unlabeled: np.ndarray,
    held_out: np.ndarray | None = None,
    groups: Mapping[str, slice] | None = None,
    seed: int = 0,
) -> Scores:
    """Returns the scores of all pictures.

    Args:
        labeled: statistics of real pictures, at least MIN_REAL, [L, F].
        unlabeled: statistics of pictures of unknown origin, at least FOLDS, [N, F].
        held_out: statistics of further real pictures, which train nothing, [H, F].
        groups: columns of each group, for `lean`.
    """
    if len(labeled) < MIN_REAL or len(unlabeled) < FOLDS:
        raise ValueError(
            f"{len(labeled)} real and {len(unlabeled)} unlabelled pictures"
        )
    center, scale = unlabeled.mean(0, dtype=np.float64), unlabeled.std(0) + 1e-6
    held_out = unlabeled[:0] if held_out is None else held_out
    sets = [
        np.clip((x - center) / scale, -CLIP, CLIP).astype(np.float32)
        for x in (labeled, unlabeled, held_out)
    ]
    groups = {} if groups is None else groups
    rng = np.random.default_rng(seed)
    total = [np.zeros(len(x)) for x in sets]
    parts = {name: np.zeros(len(unlabeled)) for name in groups}
    synthetic = None  # probability of each unlabelled picture
    for _ in range(2):
        for rows, model in _folds(sets, synthetic, rng):
            decisions = [x[r] @ model for x, r in zip(sets, rows, strict=True)]
            # Models differ in scale: the unlabelled pictures have mean 0, deviation 1.
            middle, spread = decisions[1].mean(), decisions[1].std() + 1e-12
            for scores, r, decision in zip(total, rows, decisions, strict=True):
                scores[r] += (decision - middle) / spread
            for name, columns in groups.items():
                part = sets[1][rows[1], columns] @ model[columns]
                parts[name][rows[1]] += (part - part.mean()) / spread
        fraction = share.best_bin(total[0], total[1])
        ranks = total[1].argsort().argsort() / len(unlabeled)
        synthetic = _sigmoid((ranks - (1 - fraction)) / SOFTNESS)
    return _finish(total, parts, fraction)


def _finish(total, parts, fraction: float) -> Scores:
    middle = np.quantile(total[1], 1 - fraction)
    spread = total[1].std() + 1e-12
    labeled, unlabeled, held_out = (
        _sigmoid(STEEPNESS * (scores - middle) / spread) for scores in total
    )
    centred = total[1] - total[1].mean()
    variance = max(float(centred @ centred), 1e-12)
    lean = {name: float(part @ centred) / variance for name, part in parts.items()}
    return Scores(labeled, unlabeled, held_out, lean)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -30, 30)))


def _folds(
    sets: list[np.ndarray], synthetic: np.ndarray | None, rng: np.random.Generator
) -> Iterator[tuple[list[np.ndarray], np.ndarray]]:
    """Yields (rows to score of each set, weights of a model that saw none of them)."""
    folds = [rng.permutation(np.arange(len(x)) % FOLDS) for x in sets]
    labeled, unlabeled = sets[:2]
    for fold in range(FOLDS):
        rows = np.flatnonzero(folds[1] != fold)
        if len(rows) > MAX_TRAINING:
            rows = rng.choice(rows, MAX_TRAINING, replace=False)
        real, mixed = labeled[folds[0] != fold], unlabeled[rows]
        if synthetic is None:
            weights = np.ones(len(real)), np.ones(len(mixed))
        else:
            # Each unlabelled picture counts on both sides, in proportion; a labelled
            # one twice, because its origin is certain.
            chance = synthetic[rows]
            real = np.concatenate([real, mixed])
            weights = np.ones(len(real)), chance
            weights[0][: -len(mixed)] = 2
            weights[0][-len(mixed) :] = 1 - chance
        yield [np.flatnonzero(f == fold) for f in folds], _fit(real, mixed, *weights)


def _fit(zeros, ones, zero_weights, one_weights) -> np.ndarray:
    """Returns the weights of a balanced logistic regression, float32 [F]."""
    from sklearn import linear_model  # lazy: takes a second

    x = np.concatenate([zeros, ones])
    y = np.repeat([0, 1], [len(zeros), len(ones)])
    balanced = [len(x) / 2 * w / w.sum() for w in (zero_weights, one_weights)]
    model = linear_model.LogisticRegression(C=STRENGTH / len(x), max_iter=300, tol=1e-3)
    model.fit(x, y, sample_weight=np.concatenate(balanced))
    return model.coef_[0].astype(np.float32)
