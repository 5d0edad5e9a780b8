"""The task of a run on a user's pictures: a few labelled, many of unknown origin."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from rsmatch_jax.data import rs_ssl, sources, user_parts
from rsmatch_jax.data.images import user_pictures
from rsmatch_jax.data.rs_ssl import PictureFiles, Split, Task
from rsmatch_jax.data.stores.arrays import ImageArrays
from rsmatch_jax.data.user_parts import Places
from rsmatch_jax.errors import RequestError


def load_task(
    places: Places,
    *,
    size: int,
    encode: bool,
    alike: bool,
    test_share: float,
    labels_per_class: int | None,
    validation_per_class: int,
    seed: int,
) -> Task:
    """Loads the pictures and chooses those of each part; RequestError if there are none
    or too few.

    size, encode, alike: see `user_parts.read`. test_share: of each class's labelled
    pictures, the test set if `places.test` is not set. Others: `rs_ssl.make_split`.
    """
    labelled, tested, collected = user_parts.read(places, size, encode, alike)
    if tested is not None:
        of_train, of_test = np.arange(len(labelled.names)), np.arange(len(tested.names))
    else:
        of_train, of_test = hold_out(
            labelled.labels, labelled.class_names, test_share, seed
        )
        tested = labelled
    train = labelled.at(of_train)
    split = rs_ssl.make_split(
        train,
        None,
        labels_per_class=labels_per_class,
        validation_per_class=validation_per_class,
        seed=seed,
    )
    truth = user_pictures.origins(
        places.origins,
        collected.names.tolist(),
        labelled.class_names,
        collected.left_out,
    )
    unlabelled = ImageArrays(
        name=sources.OWN,
        images=collected.pictures.images,
        labels=truth.labels,
        class_names=labelled.class_names,
        generators=truth.origins,
        generator_names=truth.generator_names,
    )
    task = rs_ssl.make_task(train, tested.at(of_test), None, split, unlabelled)
    real = labelled.files.at(of_train)
    parts = _parts(real, split, collected.files, tested.files.at(of_test))
    notes = [*labelled.notes, *collected.notes, *truth.notes]
    if tested is labelled:
        notes.append(_held_out_note(len(of_test), len(labelled.names), test_share))
    else:
        notes += tested.notes
    notes += _overlaps(parts)
    return dataclasses.replace(
        task, files=parts, compressed=collected.compressed, notes=tuple(notes)
    )


def _parts(
    real: PictureFiles, split: Split, collected: PictureFiles, tested: PictureFiles
) -> dict[str, PictureFiles]:
    return {
        "labelled": real.at(split.labeled),
        "unlabelled": real.at(split.unlabeled_real).followed_by(collected),
        "validation": real.at(split.validation),
        "test": tested,
    }


def _overlaps(parts: dict[str, PictureFiles]) -> list[str]:
    labelled, unlabelled = parts["labelled"], parts["unlabelled"]
    others = np.arange(len(labelled.names), len(unlabelled.names))
    held_out = {part: parts[part] for part in ("validation", "test")}
    return user_parts.overlaps(labelled, unlabelled.at(others), held_out)


def hold_out(
    labels: np.ndarray, class_names: Sequence[str], share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns positions of training and of test pictures: of each class `share`, at
    least one and not all; none if the share is 0."""
    if not share:
        return np.arange(len(labels)), np.zeros(0, np.int64)
    rng = np.random.default_rng(seed)
    test = []
    for label, name in enumerate(class_names):
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) < 2:
            raise RequestError(
                f"data.labeled: class {name} has 1 readable picture, and "
                f"data.test_share={share} needs one to train on and one to test on; "
                "add pictures, name a test set (data.test), or set data.test_share=0"
            )
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        test.append(members[:count])
    held = np.sort(np.concatenate(test))
    return np.setdiff1d(np.arange(len(labels)), held), held


def _held_out_note(count: int, total: int, share: float) -> str:
    if not count:
        return (
            "data.test_share=0: there is no test set, so its figures are null and the "
            "last step is the result"
        )
    return (
        f"data.test is not set: {count} of {total} labelled pictures are held out as "
        f"the test set (data.test_share={share:g} of each class)"
    )
