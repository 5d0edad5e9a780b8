"""A pool beside the real set it is for: every figure, from the decoded pictures."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from rsmatch_jax.data.stores.arrays import ImageArrays
from rsmatch_jax.synthesis.look import cues, probe


def compare(
    pool: ImageArrays,
    train: ImageArrays,
    test: ImageArrays,
    *,
    sample: int,
    seed: int,
    note: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """All figures, as look.json holds them: lists by class, then by generator.

    sample: pictures that the classifier sees, half of them real. Pool and real set
    have the same classes, size and channels. note: is told what is being done.
    """
    classes, height, width, channels = (pool.num_classes, *pool.images.shape[1:])
    groups = [pool.generators == g for g in range(len(pool.generator_names))]
    note("looking for duplicates")
    names, train_names = map(cues.digests, (pool.images, train.images))
    copies = np.isin(names, train_names)
    unique = _first_of_each(names)
    train_unique = _first_of_each(train_names)
    twins = _near_twins(pool, train, unique, train_unique, seed)
    note("measuring colours and edges")
    stats = cues.statistics(pool.images)
    train_stats = cues.statistics(train.images)

    def each(figure, *, by_class: bool = False) -> dict[str, Any]:
        def of(stats, labels):
            return figure(stats, labels, classes) if by_class else figure(stats)

        return {
            "real": of(train_stats, train.labels),
            "pool": of(stats, pool.labels),
            "generators": [of(stats.rows(g), pool.labels[g]) for g in groups],
        }

    note("letting a classifier tell real from synthetic")
    return {
        "class_names": pool.class_names,
        "generator_names": pool.generator_names,
        "size": [height, width],
        "channels": channels,
        "counts": {
            "real": train.counts().tolist(),
            "pool": pool.counts().tolist(),
            "generators": [
                np.bincount(pool.labels[g], minlength=classes).tolist() for g in groups
            ],
        },
        "duplicates": {
            "pool": _duplicates(names, pool.labels),
            "real": _duplicates(train_names, train.labels),
            "copies_of_training_pictures": int(copies.sum()),
            "copies_of_test_pictures": int(
                np.isin(names, cues.digests(test.images)).sum()
            ),
        },
        "limits": {
            "near_grey_below": cues.NEAR_GREY,
            "near_twin_above": cues.NEAR_TWIN,
        },
        "near_twins": twins,
        "near_grey": each(cues.grey_share, by_class=True)
        if stats.chroma is not None
        else None,
        "colour": each(cues.channels),
        "blockiness": each(cues.blockiness),
        "probe": _probe(
            pool,
            train,
            (stats, train_stats),
            np.flatnonzero(unique & ~copies),
            np.flatnonzero(train_unique),
            sample,
            seed,
        ),
    }


def _first_of_each(names: np.ndarray) -> np.ndarray:
    mask = np.zeros(len(names), bool)
    mask[np.unique(names, return_index=True)[1]] = True
    return mask


def _duplicates(names: np.ndarray, labels: np.ndarray) -> dict[str, int]:
    same, several = cues.exact_duplicates(names, labels)
    return {"in_their_class": same, "pixels_in_several_classes": several}


def _near_twins(
    pool: ImageArrays,
    train: ImageArrays,
    unique: np.ndarray,
    train_unique: np.ndarray,
    seed: int,
) -> dict[str, Any]:
    """Of the whole pool; and of pool and real set, equally many pictures a class: the
    more pictures, the more of them have a twin."""
    chosen = np.flatnonzero(unique)
    vectors = cues.thumbnails(pool.images)
    train_vectors = cues.thumbnails(train.images)
    real_rows = np.flatnonzero(train_unique)
    a, b = probe.choose(
        train.labels[real_rows],
        pool.labels[chosen],
        np.zeros(len(chosen), np.int32),
        len(pool.labels),
        seed,
    )

    def count(vectors, labels, rows):
        pairs, pictures = cues.near_twins(vectors[rows], labels[rows])
        return {
            "pictures": len(rows),
            "pairs": pairs,
            "with_a_twin": pictures,
            "share": pictures / len(rows) if len(rows) else None,
        }

    return {
        "pool": count(vectors, pool.labels, chosen),
        "pool_equal_numbers": count(vectors, pool.labels, chosen[b]),
        "real_equal_numbers": count(train_vectors, train.labels, real_rows[a]),
    }


def _probe(pool, train, stats, rows, real_rows, sample: int, seed: int):
    a, b = probe.choose(
        train.labels[real_rows],
        pool.labels[rows],
        pool.generators[rows],
        max(1, sample // (2 * pool.num_classes)),
        seed,
    )
    real_rows, rows = np.sort(real_rows[a]), np.sort(rows[b])
    generators = np.concatenate([np.full(len(real_rows), -1), pool.generators[rows]])
    images = np.concatenate([train.images[real_rows], pool.images[rows]])
    pool_stats, train_stats = (
        s.rows(r) for s, r in zip(stats, (rows, real_rows), strict=True)
    )
    features = np.concatenate([train_stats.features(), pool_stats.features()])
    verdicts = {}
    for name, seen in (("pixels", probe.pixels(images)), ("statistics", features)):
        verdict = probe.judge(seen, generators, len(pool.generator_names), seed)
        verdicts[name] = dataclasses.asdict(verdict) if verdict else None
    return {"pictures": len(generators), "seed": seed, **verdicts}
