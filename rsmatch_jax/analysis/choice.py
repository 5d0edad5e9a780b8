"""Which images of a run are looked at."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from rsmatch_jax.data.rs_ssl import Task
from rsmatch_jax.errors import RequestError

SETS = ("unlabelled", "test")


@dataclasses.dataclass(frozen=True)
class Chosen:
    """images uint8 [N, S, S, 3]; names: what each is called, of a file its path;
    indices int64 [N]: position in the set, -1 = from disk; labels int64 [N], -1 =
    unknown; synthetic bool [N]; generators: one for each, "" = real or unknown."""

    images: np.ndarray
    names: tuple[str, ...]
    indices: np.ndarray
    labels: np.ndarray
    synthetic: np.ndarray
    generators: tuple[str, ...]


def of_set(task: Task, name: str, indices: np.ndarray) -> Chosen:
    """These images of the run's unlabelled or test set, int64 [N]. Raises RequestError
    for one that is not there."""
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
    """Images uint8 [N, S, S, 3] of which nothing is known but their files."""
    count = len(images)
    return Chosen(
        images=images,
        names=tuple(paths),
        indices=np.full(count, -1),
        labels=np.full(count, -1),
        synthetic=np.zeros(count, bool),
        generators=("",) * count,
    )


def balanced(
    task: Task,
    name: str,
    count: int,
    seed: int = 0,
    classes: Sequence[int] | None = None,
    least: int = 1,
) -> np.ndarray:
    """Positions int64 of `count` images of the set, fewer where it has no more, real
    and synthetic ones alike as far as there are any; the same for the same seed.

    classes: which, taken in turn; None = all, or where they are so many that `count`
    does not give `least` of a class and origin, as many of them by chance.
    """
    _, labels, synthetic, _ = _columns(task, name)
    rng, groups = np.random.default_rng(seed), []
    if classes is None:
        shown = max(1, count // (least * len(np.unique(synthetic))))
        classes = np.sort(rng.permutation(len(task.class_names))[:shown])
    for label in range(len(task.class_names)):
        for origin in (False, True):
            own = np.flatnonzero((labels == label) & (synthetic == origin))
            own = rng.permutation(own)
            if label in classes:
                groups.append(own)
    turns = max(map(len, groups), default=0)
    dealt = [
        group[turn] for turn in range(turns) for group in groups if turn < len(group)
    ]
    return np.asarray(dealt[:count], np.int64)


def label(name: str, names: Sequence[str]) -> int:
    """A class's number. Raises RequestError for an unknown one."""
    if name not in names:
        raise RequestError(f"--class={name} is none of {', '.join(names)}")
    return names.index(name)


def check_set(name: str):
    """Raises RequestError for an unknown set."""
    if name not in SETS:
        raise RequestError(f"--set={name} is unknown; choose {' or '.join(SETS)}")


def _columns(task: Task, name: str):
    """(images, labels, synthetic, generator) of the whole set."""
    check_set(name)
    if name == "unlabelled":
        return task.unl_images, task.unl_labels, task.unl_synthetic, task.unl_generator
    count = len(task.test_images)
    real = np.zeros(count, bool), np.full(count, -1)
    return task.test_images, task.test_labels, *real
