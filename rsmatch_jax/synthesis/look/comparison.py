"""Compares a pool with its real set: every figure, from the decoded pictures."""

from collections.abc import Callable
from typing import Any

import numpy as np

from rsmatch_jax.data.stores.arrays import ImageArrays
from rsmatch_jax.forensics import features, pictures
from rsmatch_jax.synthesis.look import cues
from rsmatch_jax.terminal import say

FOLDS = 5
# C of support vectors for pixels, and of logistic regression for statistics
PENALTIES = {"pixels": 3.0, "statistics": 0.01}
SIDE = 16  # pixels a side of the pictures that the support vectors get
MIN_PICTURES = 5 * FOLDS  # of each kind


def compare(
    pool: ImageArrays, train: ImageArrays, test: ImageArrays, sample: int, seed: int
) -> dict[str, Any]:
    """Returns all figures as in look.json: lists by class, then by generator.

    Pool and real set have the same classes, size and channels. sample: number of
    pictures for the classifier, half of them real.
    """
    classes, channels = pool.num_classes, pool.images.shape[3]
    say("looking for duplicates ...")
    digests, train_digests, test_digests = (
        features.digests(data.images) for data in (pool, train, test)
    )
    copies = np.isin(digests, train_digests)
    # The first of equal pictures, in order.
    rows, train_rows = (
        np.sort(np.unique(d, return_index=True)[1]) for d in (digests, train_digests)
    )
    twins = _near_twins(pool, train, rows, train_rows, seed)
    say("measuring colours and edges ...")
    stats = cues.statistics(np.asarray(pool.images))
    train_stats = cues.statistics(np.asarray(train.images))

    def each(figure: Callable[[cues.Statistics, np.ndarray], Any]) -> dict[str, Any]:
        groups = np.arange(len(pool.generator_names))[:, None] == pool.generators
        return {
            "real": figure(train_stats, train.labels),
            "pool": figure(stats, pool.labels),
            "generators": [figure(stats.rows(g), pool.labels[g]) for g in groups],
        }

    grey = None
    if channels == 3:
        grey = each(lambda s, labels: cues.grey_share(s, labels, classes))
    say("training a classifier to tell real from synthetic ...")
    sides = (train, train_rows), (pool, rows[~copies[rows]])
    return {
        "class_names": pool.class_names,
        "generator_names": pool.generator_names,
        "size": list(pool.images.shape[1:3]),
        "channels": channels,
        "counts": each(lambda s, y: np.bincount(y, minlength=classes).tolist()),
        "duplicates": {
            "pool": {
                **cues.exact_duplicates(digests, pool.labels),
                "copies_of_training_pictures": copies.sum(),
                "copies_of_test_pictures": np.isin(digests, test_digests).sum(),
            },
            "real": cues.exact_duplicates(train_digests, train.labels),
        },
        "near_twins": twins,
        "limits": {
            "near_grey_below": cues.NEAR_GREY,
            "near_twin_above": cues.NEAR_TWIN,
        },
        "near_grey": grey,
        "colour": each(lambda s, labels: cues.channels(s)),
        "blockiness": each(lambda s, labels: cues.blockiness(s)),
        "probe": _probe(*sides, sample, seed),
    }


def _near_twins(pool, train, rows, train_rows, seed: int) -> dict[str, float | None]:
    """Compares equally many pictures a class, because more pictures have more twins."""
    labels = train.labels[train_rows], pool.labels[rows]
    chosen_real, chosen = choose(*labels, 0 * rows, len(rows), seed)
    return {
        "real": cues.near_twins(train.images, train.labels, train_rows[chosen_real]),
        "pool": cues.near_twins(pool.images, pool.labels, rows[chosen]),
    }


def _probe(real, synthetic, sample: int, seed: int) -> dict[str, Any]:
    """Returns the verdicts of a classifier on pixels and of one on statistics, None
    without pictures. real, synthetic: images and the rows to choose from."""
    (train, train_rows), (pool, rows) = real, synthetic
    labels = train.labels[train_rows], pool.labels[rows]
    per_class = max(1, sample // (2 * pool.num_classes))
    chosen_real, chosen = choose(*labels, pool.generators[rows], per_class, seed)
    train_rows, rows = np.sort(train_rows[chosen_real]), np.sort(rows[chosen])
    if not len(rows):
        return {"pictures": 0, "seed": seed, "pixels": None, "statistics": None}
    generators = np.concatenate([np.full(len(train_rows), -1), pool.generators[rows]])
    images = np.concatenate([train.images[train_rows], pool.images[rows]])
    inputs = {
        "pixels": pictures.shrink(images, SIDE).reshape(len(images), -1),
        "statistics": features.compute(images),
    }
    count = len(pool.generator_names)
    verdicts = {k: judge(k, v, generators, count, seed) for k, v in inputs.items()}
    return {"pictures": len(generators), "seed": seed, **verdicts}


def choose(
    real_labels: np.ndarray,
    labels: np.ndarray,
    generators: np.ndarray,
    per_class: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows of real and of synthetic pictures, equally many of each class.

    At most per_class of each class and kind. The generators have equal shares, as in
    training, unless one has too few pictures.
    """
    rng = np.random.default_rng(seed)
    real_rows, rows = [], []
    for label in np.union1d(real_labels, labels):
        real = rng.permutation(np.flatnonzero(real_labels == label))
        synthetic = rng.permutation(np.flatnonzero(labels == label))
        # The generators alternate until they have no more.
        turn = np.zeros(len(synthetic), np.int64)
        for g in np.unique(generators[synthetic]):
            members = generators[synthetic] == g
            turn[members] = np.arange(members.sum())
        synthetic = synthetic[np.argsort(turn, kind="stable")]
        count = min(per_class, len(synthetic), len(real))
        real_rows.append(real[:count])
        rows.append(synthetic[:count])
    return np.concatenate(real_rows), np.concatenate(rows)


def judge(
    kind: str,
    inputs: np.ndarray,
    generators: np.ndarray,
    num_generators: int,
    seed: int,
) -> dict[str, Any] | None:
    """Cross-validates a classifier; None if real or synthetic are below MIN_PICTURES.

    Args:
        kind: `pixels` for support vectors with a Gaussian kernel, `statistics` for
            logistic regression, which does better on many correlated statistics.
        inputs: [N, F], standardised here. No picture may occur twice, or it could be in
            the training and in the held-out part.
        generators: int [N], -1 for real pictures.

    Returns:
        balanced_accuracy: mean accuracy of real and of synthetic held-out pictures.
        error: its standard error, from the numbers of pictures. by_generator: the
        balanced accuracy with one generator's pictures alone, None if it has none.
    """
    # lazy: takes 1 s
    import threadpoolctl
    from sklearn import linear_model, model_selection, pipeline, preprocessing, svm

    synthetic = generators >= 0
    numbers = np.bincount(synthetic, minlength=2)
    if numbers.min() < MIN_PICTURES:
        return None
    if kind == "pixels":
        model = svm.SVC(C=PENALTIES[kind])
    else:
        model = linear_model.LogisticRegression(C=PENALTIES[kind], max_iter=500)
    model = pipeline.make_pipeline(preprocessing.StandardScaler(), model)
    folds = model_selection.StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    with threadpoolctl.threadpool_limits(1):  # faster on few cores
        guesses = model_selection.cross_val_predict(model, inputs, synthetic, cv=folds)
    right = guesses == synthetic
    of_real = right[~synthetic].mean()
    rates = np.array([of_real, right[synthetic].mean()])
    groups = [right[generators == g] for g in range(num_generators)]
    return {
        "balanced_accuracy": rates.mean(),
        "error": np.sqrt((rates * (1 - rates) / numbers).sum()) / 2,
        "by_generator": [(of_real + g.mean()) / 2 if len(g) else None for g in groups],
    }
