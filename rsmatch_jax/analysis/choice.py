"""Chooses the images of a run to look at."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from rsmatch_jax.data import rs_ssl
from rsmatch_jax.data.rs_ssl import Task
from rsmatch_jax.data.stores.arrays import REAL_ORIGIN
from rsmatch_jax.errors import RequestError

SETS = ("unlabelled", "test")


@dataclasses.dataclass(frozen=True)
class Chosen:
    """N chosen images.

    images: uint8 [N, S, S, 3]. names: titles, or paths of files. indices: int64 [N],
    positions in the set, -1 = from disk. labels: int64 [N], -1 = unknown. origins: one
    each, REAL_ORIGIN or the generator's name, None = unknown.
    """

    images: np.ndarray
    names: tuple[str, ...]
    indices: np.ndarray
    labels: np.ndarray
    origins: tuple[str | None, ...]

    @property
    def synthetic(self) -> np.ndarray:
        """bool [N]; an image of unknown origin is not among them."""
        return np.array([o not in (None, REAL_ORIGIN) for o in self.origins], bool)

    @property
    def origin_known(self) -> np.ndarray:
        """bool [N]."""
        return np.array([origin is not None for origin in self.origins], bool)


def of_set(task: Task, name: str, indices: np.ndarray) -> Chosen:
    """Returns images of one of SETS by positions; RequestError if one is missing."""
    images, labels, origins = _columns(task, name)
    indices = np.asarray(indices, np.int64)
    wrong = [int(i) for i in indices if not 0 <= i < len(images)]
    if wrong:
        raise RequestError(
            f"--index={wrong[0]}: the {name} set has images 0 to {len(images) - 1}"
        )
    names = {rs_ssl.REAL: REAL_ORIGIN, rs_ssl.UNKNOWN: None}
    names |= dict(enumerate(task.generator_names))
    return Chosen(
        images=np.asarray(images[indices]),
        names=tuple(f"{name} {i}" for i in indices),
        indices=indices,
        labels=labels[indices].astype(np.int64),
        origins=tuple(names[origin] for origin in origins[indices].tolist()),
    )


def from_disk(images: np.ndarray, paths: Sequence[str]) -> Chosen:
    """Returns images uint8 [N, S, S, 3] without ground truth."""
    unknown = np.full(len(images), -1)
    return Chosen(images, tuple(paths), unknown, unknown, (None,) * len(images))


def balanced(
    task: Task,
    name: str,
    count: int,
    seed: int = 0,
    classes: Sequence[int] | None = None,
    least: int = 1,
) -> np.ndarray:
    """Returns positions int64 of random images, balanced over classes and origins.

    The set may hold fewer than `count`, or fewer of some class and origin; unknown
    classes and origins are such, too. classes: those to take in turn; None means all,
    or a random choice if `count` is below `least` of each class and origin.
    """
    _, labels, origins = _columns(task, name)
    kinds = np.clip(origins, rs_ssl.UNKNOWN, 0)  # unknown, real, synthetic
    rng, groups, of_every_class = np.random.default_rng(seed), [], classes is None
    if classes is None:
        shown = max(1, count // (least * len(np.unique(kinds))))
        classes = rng.permutation(len(task.class_names))[:shown].tolist()
    for label in range(len(task.class_names)):
        for kind in (rs_ssl.REAL, 0, rs_ssl.UNKNOWN):
            group = np.flatnonzero((labels == label) & (kinds == kind))
            group = rng.permutation(group)  # of all, so that draws are equal
            if label in classes:
                groups.append(group)
    if of_every_class:  # those of unknown class stand beside each class
        unknown = rng.permutation(np.flatnonzero(labels < 0))
        groups += np.array_split(unknown, len(classes))
    turns = itertools.zip_longest(*groups)
    dealt = [i for turn in turns for i in turn if i is not None]
    return np.asarray(dealt[:count], np.int64)


def label(name: str, names: Sequence[str]) -> int:
    """Returns a class's number; RequestError if `names` lacks it."""
    if name not in names:
        raise RequestError(f"--class={name} is none of {', '.join(names)}")
    return names.index(name)


def _columns(task: Task, name: str):
    """(images, labels, origins) of all images of the set."""
    if name == "unlabelled":
        return task.unl_images, task.unl_labels, task.unl_origins
    real = np.full(len(task.test_images), rs_ssl.REAL)
    return task.test_images, task.test_labels, real
