"""Scores of unlabelled pictures from real and unlabelled ones alone.

Positive-unlabelled learning by logistic regression on the statistics of `features`:
a classifier tells real from unlabelled pictures, and a second one learns from the
first one's verdicts. A score is a weighted mean of both.

No picture influences a model that scores it (apart from the scale of the statistics),
not even through the verdicts that the model learns from. Real pictures score alike for
that reason, whether they were labelled, unlabelled or held out. The folds are
stratified by class, because a labelled picture of a class that lacks it in training
looks less real.
"""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from rsmatch_jax.forensics import share

FOLDS = 7  # 5 cost 0.005 of AUROC with few labelled pictures, and half of the time
MIN_REAL = 10  # below, there is nothing to learn from
CLIP = 5.0  # standard deviations
# Inverse of the ridge penalty, times the number of pictures: statistics outnumber the
# real pictures, and a weak penalty costs 0.03 to 0.05 of AUROC.
STRENGTH = 5.0
SECOND_WEIGHT = 2.0  # of the second round, where the first has 1
SOFTNESS = 0.05  # of the second round's labels, as a share of the unlabelled pictures
STEEPNESS = 2.0  # of the scores, per standard deviation
BOUNDARY = 0.5  # of a score: from here on a picture is rather synthetic
MAX_TRAINING = 20_000  # unlabelled pictures that train a model


class Scores(NamedTuple):
    """Scores in 0..1, higher = more synthetic, float64.

    0.5 is the boundary: as many unlabelled pictures lie above it as the real ones
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
    classes: np.ndarray | None = None,
    digests: np.ndarray | None = None,
    seed: int = 0,
) -> Scores:
    """Returns the scores of all pictures.

    Args:
        labeled: statistics of real pictures, at least MIN_REAL, [L, F].
        unlabeled: statistics of pictures of unknown origin, at least FOLDS, [N, F].
        held_out: statistics of further real pictures, which train nothing, [H, F].
        groups: columns of each group, for `lean`.
        classes: int [L], classes of the labelled pictures.
        digests: `features.digests` of all pictures, [L + N + H]; without them no
            picture is known as a copy of another one.

    Raises:
        ValueError: there are too few pictures.
    """
    import threadpoolctl  # lazy, as scikit-learn

    if len(labeled) < MIN_REAL or len(unlabeled) < FOLDS:
        raise ValueError(f"{len(labeled)} real, {len(unlabeled)} unlabelled pictures")
    center, scale = unlabeled.mean(0, dtype=np.float64), unlabeled.std(0) + 1e-6
    held_out = unlabeled[:0] if held_out is None else held_out
    sets = [
        np.clip((x - center) / scale, -CLIP, CLIP).astype(np.float32)
        for x in (labeled, unlabeled, held_out)
    ]
    fit = _Fit(sets, classes, {} if groups is None else groups, seed, digests)
    # BLAS in two threads takes 7 times as long on two busy cores: its threads wait for
    # one another in a loop.
    with threadpoolctl.threadpool_limits(1):
        fit.second_round(fit.first_round())
    total = fit.total
    fraction = share.best_bin(np.concatenate([total[0], total[2]]), total[1])
    middle = np.quantile(total[1], 1 - fraction)
    spread = total[1].std() + 1e-12
    of_labeled, of_unlabeled, of_held_out = (
        _sigmoid(STEEPNESS * (z - middle) / spread) for z in total
    )
    centred = total[1] - total[1].mean()
    variance = max(float(centred @ centred), 1e-12)
    lean = {name: float(part @ centred) / variance for name, part in fit.parts.items()}
    return Scores(of_labeled, of_unlabeled, of_held_out, lean)


class _Fit:
    """Both rounds of models, and the scores that they add up.

    total: [L], [N], [H]. parts: {group: its part of the unlabelled pictures' total}.
    """

    def __init__(
        self, sets, classes, groups: Mapping[str, slice], seed: int, digests=None
    ):
        self.sets, self.groups = sets, groups
        self.rng = np.random.default_rng(seed)
        folds = [self.rng.permutation(np.arange(len(x)) % FOLDS) for x in sets]
        if classes is not None:
            order = self.rng.permutation(len(classes))
            order = order[np.argsort(classes[order], kind="stable")]
            folds[0][order] = np.arange(len(order)) % FOLDS
        if digests is not None:
            together = _copies_together(digests, folds)
            # Hardly any picture is left if they are all equal.
            if all(len(np.unique(f)) == FOLDS for f in together[:2]):
                folds = together
        self.folds = folds
        self.total = [np.zeros(len(x)) for x in sets]
        self.parts = {name: np.zeros(len(sets[1])) for name in groups}

    def first_round(self) -> tuple[np.ndarray, np.ndarray]:
        """Fits a model without each pair of folds. Returns its scores of labelled and
        unlabelled pictures, [L, FOLDS] and [N, FOLDS], by the other fold of the pair.
        """
        labeled, unlabeled = (np.zeros((len(x), FOLDS)) for x in self.sets[:2])
        verdicts = labeled, unlabeled
        for pair in itertools.combinations(range(FOLDS), 2):
            real, rows = self._training(pair)
            mixed = self.sets[1][rows]
            model = _weights(real, mixed, np.ones(len(real)), np.ones(len(mixed)))
            for fold, other in (pair, pair[::-1]):
                scored = self._add(model, mixed, fold, 1 / (FOLDS - 1))
                for column, (members, scores) in zip(verdicts, scored, strict=False):
                    column[members, other] = scores
        return verdicts

    def second_round(self, verdicts: tuple[np.ndarray, np.ndarray]):
        """Fits a model without each fold to the verdicts, and adds its scores."""
        for fold in range(FOLDS):
            labeled, unlabeled = (
                v[f != fold, fold] for v, f in zip(verdicts, self.folds, strict=False)
            )
            fraction = share.best_bin(labeled, unlabeled)
            real, rows = self._training((fold,))
            position = np.searchsorted(np.sort(unlabeled), verdicts[1][rows, fold])
            position = position / len(unlabeled)
            synthetic = _sigmoid((position - (1 - fraction)) / SOFTNESS)
            mixed = self.sets[1][rows]
            # Each unlabelled picture counts on both sides, in proportion; a labelled
            # one twice, because its origin is certain.
            weights = np.append(np.full(len(real), 2.0), 1 - synthetic)
            model = _weights(np.concatenate([real, mixed]), mixed, weights, synthetic)
            self._add(model, mixed, fold, SECOND_WEIGHT)

    def _training(self, without: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the labelled statistics, and rows of the unlabelled ones."""
        labeled, unlabeled = (~np.isin(f, without) for f in self.folds[:2])
        rows = np.flatnonzero(unlabeled)
        if len(rows) > MAX_TRAINING:
            rows = self.rng.choice(rows, MAX_TRAINING, replace=False)
        return self.sets[0][labeled], rows

    def _add(self, model: np.ndarray, mixed: np.ndarray, fold: int, factor: float):
        """Adds a model's scores of a fold; returns (rows, scores) of each set. mixed:
        the unlabelled pictures that trained the model."""
        members = [np.flatnonzero(f == fold) for f in self.folds]
        scores = [x[rows] @ model for x, rows in zip(self.sets, members, strict=True)]
        # Models differ in scale, so those that trained one get mean 0, deviation 1. By
        # the fold's pictures, real ones would look synthetic in a fold with many.
        trained = mixed @ model
        middle, spread = trained.mean(), trained.std() + 1e-12
        scores = [(z - middle) / spread for z in scores]
        for total, rows, z in zip(self.total, members, scores, strict=True):
            total[rows] += factor * z
        x = self.sets[1][members[1]]
        for name, columns in self.groups.items():
            average = mixed[:, columns].mean(0) @ model[columns]
            part = (x[:, columns] @ model[columns] - average) / spread
            self.parts[name][members[1]] += factor * part
        return list(zip(members, scores, strict=True))


def _copies_together(digests: np.ndarray, folds: list[np.ndarray]) -> list[np.ndarray]:
    """Returns folds in which equal pictures share one, that of the first, because a
    model that saw one of them saw the others."""
    _, first, which = np.unique(digests, return_index=True, return_inverse=True)
    together = np.concatenate(folds)[first][which]
    return np.split(together, np.cumsum([len(fold) for fold in folds])[:-1])


def _weights(zeros, ones, zero_weights, one_weights) -> np.ndarray:
    """Returns the weights of a balanced logistic regression, float32 [F]."""
    from sklearn import linear_model  # lazy: takes a second

    x = np.concatenate([zeros, ones])
    y = np.repeat([0, 1], [len(zeros), len(ones)])
    balanced = [len(x) / 2 * w / w.sum() for w in (zero_weights, one_weights)]
    model = linear_model.LogisticRegression(C=STRENGTH / len(x), max_iter=300, tol=1e-3)
    model.fit(x, y, sample_weight=np.concatenate(balanced))
    return model.coef_[0].astype(np.float32)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -30, 30)))
