"""How difficult a picture is for a classifier, s = 1 - p(its class | picture), 0 to 1.

Training images: cross-fitted, so that no classifier has seen the image that it scores
(it would find every memorised one easy). Logistic regression on pixels, the mean of
FITS fits to few labels: a good classifier would find nearly all easy, so s would have
no spread. Drawn pictures are measured by a classifier of another kind, a forest.

Source: Wang et al., Difficulty Controlled Diffusion (arXiv 2411.18109), who score with
one pretrained network.
"""

import os
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from rsmatch_jax import files
from rsmatch_jax.data.stores.arrays import ImageArrays
from rsmatch_jax.forensics import pictures
from rsmatch_jax.synthesis.ddpm import diffusion
from rsmatch_jax.synthesis.ddpm.settings import FOLDS, Settings, Tuning
from rsmatch_jax.terminal import say

FITS = 5  # to other labels, for each fold
SIDE = 16  # pixels a side that the classifiers see
STEPS = 100  # at most, of a logistic regression
TREES, LEAF = 200, 5  # of the forest; fewest training images in a leaf
FOREST_IMAGES = 10_000  # at most
HARD, LEAST_HARD = 0.3, 0.1  # s is its rank if fewer than this share are above HARD
BINS = 10  # of s, in which images are counted for oversampling
POINTS = (0, 0.1, 0.5, 0.9, 1)
MEASURED = "measured_difficulty"  # the column
FOREST = "extremely randomised trees on pixels, fitted to the real training images"
SCORED = (
    "logistic regression on pixels, {labels} labels a class, mean of {fits} fits, "
    "each image by fits to other folds of {folds}"
)


def cross_fitted(data: ImageArrays, labels_per_class: int, seed: int) -> np.ndarray:
    """Returns s of each image of `data`, float32 [N], by classifiers that have not seen
    it. labels_per_class: that a fit learns from, at most."""
    # lazy: takes 1 s
    import threadpoolctl
    from sklearn import exceptions, linear_model, model_selection

    inputs, labels = _pixels(data.images), np.asarray(data.labels)
    folds = model_selection.StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    rng = np.random.default_rng((seed, diffusion.DIFFICULTY))
    scores = np.zeros(len(labels))
    with warnings.catch_warnings(), threadpoolctl.threadpool_limits(1):
        # A fit that has not converged is a weak classifier, too.
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
        for others, members in folds.split(inputs, labels):
            for _ in range(FITS):
                chosen = some(rng, labels, others, labels_per_class)
                model = linear_model.LogisticRegression(max_iter=STEPS)
                model.fit(inputs[chosen], labels[chosen])
                scores[members] += _missing(model, inputs[members], labels[members])
    return (scores / FITS).astype(np.float32)


def some(
    rng: np.random.Generator, labels: np.ndarray, rows: np.ndarray, per_class: int
) -> np.ndarray:
    """Returns at most per_class random rows of each class among `rows`."""
    classes = np.unique(labels[rows])
    groups = [rng.permutation(rows[labels[rows] == c])[:per_class] for c in classes]
    return np.concatenate(groups)


def _pixels(images: Any) -> np.ndarray:
    """Returns [N, F], 0 to 1: the pictures at SIDE pixels a side or fewer."""
    images = np.asarray(images)
    return pictures.shrink(images, SIDE).reshape(len(images), -1) / 255


def _missing(model: Any, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns 1 - p(label) of each row, by a classifier that knows all classes."""
    return 1 - model.predict_proba(inputs)[np.arange(len(labels)), labels]


def scale(scores: np.ndarray) -> tuple[np.ndarray, str]:
    """Returns (s, "value"), or (its rank from 0 to 1, "rank") if s has too little
    spread: fewer than LEAST_HARD of the images above HARD."""
    if np.mean(scores > HARD) >= LEAST_HARD:
        return scores, "value"
    from scipy import stats  # lazy

    ranks = (stats.rankdata(scores) - 1) / max(1, len(scores) - 1)
    return ranks.astype(np.float32), "rank"


def chances(scores: np.ndarray, oversampling: float) -> np.ndarray:
    """Returns each image's chance to be chosen, float64 [N], sum 1: proportional to
    n ** -oversampling, where n images have s in the same tenth of 0 to 1. 0: all are
    alike; 1: all tenths are."""
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    weights = np.bincount(bins, minlength=BINS)[bins] ** -float(oversampling)
    return weights / weights.sum()


def wanted(settings: Settings, data: ImageArrays, choice: Mapping[str, Any]):
    """Returns the difficulties of all pictures to be drawn, float32 [N], in order: of
    N(mean, deviation), clipped to 0 to 1, or uniform if there is no mean."""
    rng = np.random.default_rng((settings.seed, diffusion.DIFFICULTY))
    count = settings.per_class * data.num_classes
    if choice["mean"] is None:
        return rng.uniform(size=count).astype(np.float32)
    drawn = rng.normal(choice["mean"], choice["deviation"], count)
    return np.clip(drawn, 0, 1).astype(np.float32)


def measure(
    data: ImageArrays, scores: np.ndarray, pool: ImageArrays, seed: int
) -> tuple[np.ndarray, float | None]:
    """Measures the difficulty of a pool's pictures by a forest that learns from `data`.
    scores: s of the images of `data`.

    Returns:
        s of the pictures, float32 [N]; Spearman's correlation of `scores` with s by the
        forest, which for each image of `data` uses the trees that have not seen it;
        None if all are alike.
    """
    # lazy: takes 1 s
    from scipy import stats
    from sklearn import ensemble

    labels, rng = np.asarray(data.labels), np.random.default_rng(seed)
    per_class = max(1, FOREST_IMAGES // data.num_classes)
    rows = np.sort(some(rng, labels, np.arange(len(labels)), per_class))
    forest = ensemble.ExtraTreesClassifier(
        TREES, min_samples_leaf=LEAF, bootstrap=True, oob_score=True, random_state=seed
    )
    forest.fit(_pixels(np.asarray(data.images)[rows]), labels[rows])
    unseen = 1 - forest.oob_decision_function_[np.arange(len(rows)), labels[rows]]
    agreement = None
    if np.ptp(scores) > 0 and np.ptp(unseen) > 0:
        agreement = round(float(stats.spearmanr(scores[rows], unseen).statistic), 3)
    measured = _missing(forest, _pixels(pool.images), pool.labels)
    return measured.astype(np.float32), agreement


def of_training(
    folder: str, data: ImageArrays, tuning: Tuning, seed: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """Returns s of each image of `data`, float32 [N], which `folder` keeps, and what
    the pool's report says of them."""
    path = os.path.join(folder, "scores.npy")
    if not os.path.exists(path):
        say("scoring the training images by cross-fitted classifiers ...")
        with files.replacing(path) as f:
            np.save(f, cross_fitted(data, tuning.difficulty_labels, seed))
    raw = np.load(path, allow_pickle=False)
    scores, form = scale(raw)
    text = SCORED.format(labels=tuning.difficulty_labels, fits=FITS, folds=FOLDS)
    return scores, {
        "scored_by": text,
        "measured_by": FOREST,
        "scale": form,
        "quantiles_0_10_50_90_100": np.quantile(raw, POINTS).round(3).tolist(),
        "share_above_0.3": round(float(np.mean(raw > HARD)), 3),
    }
