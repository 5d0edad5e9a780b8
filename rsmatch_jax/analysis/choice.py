"""Which images of a run are looked at."""

import dataclasses

import numpy as np

from rsmatch_jax.data.rs_ssl import Task
from rsmatch_jax.errors import RequestError

SETS = ("unlabelled", "test")


@dataclasses.dataclass(frozen=True)
class Chosen:
    """images uint8 [N, S, S, 3]; names: what each is called; labels int64 [N], -1 =
    unknown; synthetic bool [N]; generators: one for each, "" = real."""

    images: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray
    synthetic: np.ndarray
    generators: tuple[str, ...]


def of_set(task: Task, name: str, indices: np.ndarray) -> Chosen:
    """These images of the run's unlabelled or test set. Raises RequestError for one
    that is not there."""
    if name not in SETS:
        raise RequestError(f"--set={name} is unknown; choose {' or '.join(SETS)}")
    unlabelled = name == "unlabelled"
    images = task.unl_images if unlabelled else task.test_images
    wrong = [int(i) for i in indices if not 0 <= i < len(images)]
    if wrong:
        raise RequestError(
            f"--index={wrong[0]}: the {name} set has images 0 to {len(images) - 1}"
        )
    nothing = np.zeros(len(indices), bool)
    generators = [""] * len(indices)
    if unlabelled:
        which = task.unl_generator[indices]
        generators = [task.generator_names[g] if g >= 0 else "" for g in which]
    return Chosen(
        images=np.asarray(images[np.asarray(indices)]),
        names=tuple(f"{name} {i}" for i in indices),
        labels=(task.unl_labels if unlabelled else task.test_labels)[indices],
        synthetic=task.unl_synthetic[indices] if unlabelled else nothing,
        generators=tuple(generators),
    )


def balanced(task: Task, count: int, seed: int = 0) -> np.ndarray:
    """Positions of `count` unlabelled images, real and synthetic ones alike and of all
    classes in turn, as far as there are any; the same for the same seed."""
    rng, groups = np.random.default_rng(seed), []
    for label in range(len(task.class_names)):
        for synthetic in (False, True):
            own = (task.unl_labels == label) & (task.unl_synthetic == synthetic)
            groups.append(rng.permutation(np.flatnonzero(own)))
    turns = max(map(len, groups), default=0)
    dealt = [
        group[turn] for turn in range(turns) for group in groups if turn < len(group)
    ]
    return np.asarray(dealt[:count], np.int64)
