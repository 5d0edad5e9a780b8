"""How difficult a picture is for a classifier, s = 1 - p(its class | picture), 0 to 1.

Training images: cross-fitted, so that no classifier has seen the image that it scores
(it would find every memorised one easy). Logistic regression on pixels, the mean of
FITS fits to few labels: a good classifier would find nearly all easy, so s would have
no spread. Drawn pictures are measured by a classifier of another kind, a forest.

Source: Wang et al., Difficulty Controlled Diffusion (arXiv 2411.18109), who score with
one pretrained network.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rsmatch_jax.data.stores.arrays import ImageArrays
from rsmatch_jax.forensics import pictures
from rsmatch_jax.synthesis.ddpm import diffusion
from rsmatch_jax.synthesis.ddpm.settings import Settings, Tuning

FOLDS = 5
FITS = 5  # to other labels, for each fold
SIDE = 16  # pixels a side that the classifiers see
STEPS = 100  # at most, of a logistic regression
TREES, LEAF = 200, 5  # of the forest; fewest training images in a leaf
FOREST_IMAGES = 10_000  # at most
HARD, LEAST_HARD = 0.3, 0.1  # s is its rank if fewer than this share are above HARD
BINS = 10  # of s, in which images are counted for oversampling
MEASURED = "extremely randomised trees on pixels, fitted to the real training images"
SCORED = (
    "logistic regression on pixels, {labels} labels a class, mean of {fits} fits, "
    "each image by fits to the other {folds} - 1 of {folds} folds"
)


def cross_fitted(data: ImageArrays, labels_per_class: int, seed: int) -> np.ndarray:
    """Returns s of each image of `data`, float32 [N], by classifiers that have not seen
    it. labels_per_class: that a fit learns from, at most."""
    # lazy: takes 1 s
    import threadpoolctl
    from sklearn import linear_model, model_selection

    inputs, labels = _pixels(data.images), np.asarray(data.labels)
    folds = model_selection.StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    rng = np.random.default_rng((seed, diffusion.DIFFICULTY))
    scores = np.zeros(len(labels))
    with threadpoolctl.threadpool_limits(1):  # faster on few cores
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
    data: ImageArrays, pool: ImageArrays, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measures by a forest that learns from `data`.

    Returns:
        s of the pictures of `pool`, float32; the rows of `data` that the forest learnt
        from; their s by the trees that have not seen them.
    """
    from sklearn import ensemble  # lazy: takes 1 s

    labels, rng = np.asarray(data.labels), np.random.default_rng(seed)
    per_class = max(1, FOREST_IMAGES // data.num_classes)
    rows = np.sort(some(rng, labels, np.arange(len(labels)), per_class))
    forest = ensemble.ExtraTreesClassifier(
        TREES, min_samples_leaf=LEAF, bootstrap=True, oob_score=True, random_state=seed
    )
    inputs = _pixels(data.images)[rows]
    forest.fit(inputs, labels[rows])
    unseen = forest.oob_decision_function_[np.arange(len(rows)), labels[rows]]
    scores = _missing(forest, _pixels(pool.images), pool.labels)
    return scores.astype(np.float32), rows, 1 - unseen


def describe(raw: np.ndarray, form: str, tuning: Tuning) -> dict[str, Any]:
    """Returns what the pool's report says of the difficulties. raw: before `scale`."""
    points = np.quantile(raw, (0, 0.1, 0.5, 0.9, 1)).round(3).tolist()
    text = SCORED.format(labels=tuning.difficulty_labels, fits=FITS, folds=FOLDS)
    return {
        "scored_by": text,
        "measured_by": MEASURED,
        "scale": form,
        "quantiles_0_10_50_90_100": points,
        "share_above_0.3": round(float(np.mean(raw > HARD)), 3),
    }
