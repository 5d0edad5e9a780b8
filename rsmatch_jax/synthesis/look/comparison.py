"""Compares a pool with its real set: every figure, from the decoded pictures."""

from collections.abc import Callable
from typing import Any

import numpy as np

from rsmatch_jax.data.stores.arrays import ImageArrays
from rsmatch_jax.synthesis.look import cues, probe
from rsmatch_jax.terminal import say


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
        cues.digests(data.images) for data in (pool, train, test)
    )
    copies = np.isin(digests, train_digests)
    # The first of equal pictures, in order.
    rows, train_rows = (
        np.sort(np.unique(d, return_index=True)[1]) for d in (digests, train_digests)
    )
    twins = _near_twins(pool, train, rows, train_rows, seed)
    say("measuring colours and edges ...")
    stats, train_stats = map(cues.statistics, (pool.images, train.images))

    def each(figure: Callable[[cues.Statistics, np.ndarray], Any]) -> dict[str, Any]:
        groups = np.arange(len(pool.generator_names))[:, None] == pool.generators
        return {
            "real": figure(train_stats, train.labels),
            "pool": figure(stats, pool.labels),
            "generators": [figure(stats.rows(g), pool.labels[g]) for g in groups],
        }

    counts = each(lambda s, labels: np.bincount(labels, minlength=classes).tolist())
    grey = None
    if channels == 3:
        grey = each(lambda s, labels: cues.grey_share(s, labels, classes))
    say("training a classifier to tell real from synthetic ...")
    both = (train, train_stats, train_rows), (pool, stats, rows[~copies[rows]])
    return {
        "class_names": pool.class_names,
        "generator_names": pool.generator_names,
        "size": list(pool.images.shape[1:3]),
        "channels": channels,
        "counts": counts,
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
        "probe": _probe(*both, sample, seed),
    }


def _near_twins(pool, train, rows, train_rows, seed: int) -> dict[str, float | None]:
    """Compares equally many pictures a class, because more pictures have more twins."""
    chosen_real, chosen = probe.choose(
        train.labels[train_rows], pool.labels[rows], 0 * rows, len(rows), seed
    )
    return {
        "real": cues.near_twins(train.images, train.labels, train_rows[chosen_real]),
        "pool": cues.near_twins(pool.images, pool.labels, rows[chosen]),
    }


def _probe(real, synthetic, sample: int, seed: int) -> dict[str, Any]:
    """Returns the verdicts of a classifier on pixels and on statistics.

    real, synthetic: images, their statistics and the rows to choose from.
    """
    (train, train_stats, train_rows), (pool, stats, rows) = real, synthetic
    chosen_real, chosen = probe.choose(
        train.labels[train_rows],
        pool.labels[rows],
        pool.generators[rows],
        max(1, sample // (2 * pool.num_classes)),
        seed,
    )
    train_rows, rows = np.sort(train_rows[chosen_real]), np.sort(rows[chosen])
    generators = np.concatenate([np.full(len(train_rows), -1), pool.generators[rows]])
    images = np.concatenate([train.images[train_rows], pool.images[rows]])
    both = train_stats.rows(train_rows), stats.rows(rows)
    features = {
        "pixels": cues.shrink(images, probe.SIDE).reshape(len(images), -1),
        "statistics": np.concatenate([s.features() for s in both]),
    }
    count = len(pool.generator_names)
    verdicts = {k: probe.judge(v, generators, count, seed) for k, v in features.items()}
    return {"pictures": len(generators), "seed": seed, **verdicts}
