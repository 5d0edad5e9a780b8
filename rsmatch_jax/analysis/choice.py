"""Chooses the images of a run to look at."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from rsmatch_jax.data.rs_ssl import Task
from rsmatch_jax.errors import RequestError

SETS = ("unlabelled", "test")


@dataclasses.dataclass(frozen=True)
class Chosen:
    """N chosen images.

    images: uint8 [N, S, S, 3]. names: titles, or paths of files. indices: int64 [N],
    positions in the set, -1 = from disk. labels: int64 [N], -1 = unknown. synthetic:
    bool [N]. generators: one each, "" = real or unknown.
    """

    images: np.ndarray
    names: tuple[str, ...]
    indices: np.ndarray
    labels: np.ndarray
    synthetic: np.ndarray
    generators: tuple[str, ...]


def of_set(task: Task, name: str, indices: np.ndarray) -> Chosen:
    """Returns images of one of SETS by positions; RequestError if one is missing."""
    images, labels, synthetic, generator = _columns(task, name)
    indices = np.asarray(indices, np.int64)
    wrong = [int(i) for i in indices if not 0 <= i < len(images)]
    if wrong:
        raise RequestError(
            f"--index={wrong[0]}: the {name} set has images 0 to {len(images) - 1}"
        )
    generators = [task.generator_names[g] if g >= 0 else "" for g in generator[indices]]
    return Chosen(
        images=np.asarray(images[indices]),
        names=tuple(f"{name} {i}" for i in indices),
        indices=indices,
        labels=labels[indices].astype(np.int64),
        synthetic=synthetic[indices],
        generators=tuple(generators),
    )


def from_disk(images: np.ndarray, paths: Sequence[str]) -> Chosen:
    """Returns images uint8 [N, S, S, 3] without ground truth."""
    count = len(images)
    unknown = np.full(count, -1)
    synthetic = np.zeros(count, bool)
    return Chosen(images, tuple(paths), unknown, unknown, synthetic, ("",) * count)


def balanced(
    task: Task,
    name: str,
    count: int,
    seed: int = 0,
    classes: Sequence[int] | None = None,
    least: int = 1,
) -> np.ndarray:
    """Returns positions int64 of random images, balanced over classes and origins.

    The set may hold fewer than `count`, or fewer of some class and origin. classes:
    those to take in turn; None means all, or a random choice if `count` is below
    `least` of each class and origin.
    """
    _, labels, synthetic, _ = _columns(task, name)
    rng, groups = np.random.default_rng(seed), []
    if classes is None:
        shown = max(1, count // (least * len(np.unique(synthetic))))
        classes = rng.permutation(len(task.class_names))[:shown].tolist()
    for label in range(len(task.class_names)):
        for origin in (False, True):
            group = np.flatnonzero((labels == label) & (synthetic == origin))
            group = rng.permutation(group)  # of all, so that draws are equal
            if label in classes:
                groups.append(group)
    turns = itertools.zip_longest(*groups)
    dealt = [i for turn in turns for i in turn if i is not None]
    return np.asarray(dealt[:count], np.int64)


def label(name: str, names: Sequence[str]) -> int:
    """Returns a class's number; RequestError if `names` lacks it."""
    if name not in names:
        raise RequestError(f"--class={name} is none of {', '.join(names)}")
    return names.index(name)


def _columns(task: Task, name: str):
    """(images, labels, synthetic, generator) of all images of the set."""
    if name == "unlabelled":
        return task.unl_images, task.unl_labels, task.unl_synthetic, task.unl_generator
    count = len(task.test_images)
    real = np.zeros(count, bool), np.full(count, -1)
    return task.test_images, task.test_labels, *real
