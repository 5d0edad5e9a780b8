"""Examples of what a state is most wrong about, for people to look at."""

import dataclasses
import io

import numpy as np

from rsmatch_jax.data.rs_ssl import Task
from rsmatch_jax.data.stores.arrays import REAL_ORIGIN
from rsmatch_jax.errors import RequestError
from rsmatch_jax.metrics.scores import SYNTHETIC_SCORE, Rows

DETECTOR, CLASSIFIER = "detector", "classifier"
MOST = 12  # real images taken for synthetic, and as many the other way round
PAIRS, MOST_OF_PAIR = 6, 6  # pairs of classes that are confused, and images of each
MAX_SIDE = 96  # pixels; larger images are kept smaller


@dataclasses.dataclass(frozen=True)
class Mistakes:
    """M images, the worst of each kind first.

    images: uint8 [M, s, s, 3]. of: str [M], which network is wrong. index: int32 [M],
    position in the unlabelled set (detector) or the test set (classifier). labels,
    predicted: int32 [M], classes. score: float32 [M], of being synthetic, or the
    classifier's confidence. origin: str [M], "real" or the generator's name.
    """

    images: np.ndarray
    of: np.ndarray
    index: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    score: np.ndarray
    origin: np.ndarray

    def to_bytes(self) -> bytes:
        """A .npz file's content."""
        file = io.BytesIO()
        np.savez_compressed(file, **vars(self))
        return file.getvalue()


def read(path: str) -> Mistakes | None:
    """What `to_bytes` has made; None where there is no such file. Raises RequestError
    where it is another."""
    try:
        with np.load(path, allow_pickle=False) as found:
            return Mistakes(**{f.name: found[f.name] for f in _FIELDS})
    except FileNotFoundError:
        return None
    except Exception as e:  # zipfile, zlib and numpy raise nearly anything
        raise RequestError(
            f"{path} cannot be read: {e}. Move it away: the next evaluation makes it"
        ) from None


_FIELDS = dataclasses.fields(Mistakes)


def collect(task: Task, test: Rows, unlabelled: Rows) -> Mistakes:
    """test, unlabelled: rows of `evaluation.make_forward` for these images."""
    wrong = detector_mistakes(unlabelled, task.unl_synthetic)
    confused = confusions(test, task.test_labels, len(task.class_names))
    images = [
        _small(np.asarray(images[at]))
        for images, at in ((task.unl_images, wrong), (task.test_images, confused))
    ]
    origins = np.asarray([*task.generator_names, REAL_ORIGIN])  # -1 = the last
    return Mistakes(
        images=np.concatenate(images),
        of=np.repeat([DETECTOR, CLASSIFIER], [len(wrong), len(confused)]),
        index=np.concatenate([wrong, confused]).astype(np.int32),
        labels=np.concatenate(
            [task.unl_labels[wrong], task.test_labels[confused]]
        ).astype(np.int32),
        predicted=np.concatenate(
            [unlabelled["predicted"][wrong], test["predicted"][confused]]
        ),
        score=np.concatenate(
            [
                unlabelled.get("synthetic_score", np.zeros(0, np.float32))[wrong],
                test["confidence"][confused],
            ]
        ),
        origin=np.concatenate(
            [
                origins[task.unl_generator[wrong]],
                np.repeat([REAL_ORIGIN], len(confused)),
            ]
        ),
    )


def detector_mistakes(rows: Rows, synthetic: np.ndarray) -> np.ndarray:
    """Positions int64 of the real images that the detector is surest are synthetic,
    then of the synthetic ones that it is surest are real."""
    score = rows.get("synthetic_score")
    if score is None:
        return np.zeros(0, np.int64)
    said = score >= SYNTHETIC_SCORE
    taken = np.flatnonzero(said & ~synthetic)
    missed = np.flatnonzero(~said & synthetic)
    return np.concatenate(
        [
            taken[np.argsort(-score[taken], kind="stable")][:MOST],
            missed[np.argsort(score[missed], kind="stable")][:MOST],
        ]
    )


def confusions(rows: Rows, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Positions int64 of images of the pairs (class, prediction) that are confused
    most, the most frequent pair first, within a pair by falling confidence."""
    pair = labels.astype(np.int64) * num_classes + rows["predicted"]
    wrong = np.flatnonzero(rows["predicted"] != labels)
    pairs, count = np.unique(pair[wrong], return_counts=True)
    found = [np.zeros(0, np.int64)]
    for worst in pairs[np.argsort(-count, kind="stable")][:PAIRS]:
        own = wrong[pair[wrong] == worst]
        order = np.argsort(-rows["confidence"][own], kind="stable")
        found.append(own[order][:MOST_OF_PAIR])
    return np.concatenate(found)


def _small(images: np.ndarray) -> np.ndarray:
    """uint8 [n, S, S, 3] as means of squares of pixels, of at most MAX_SIDE a side."""
    n, size = images.shape[:2]
    step = -(-size // MAX_SIDE)
    if step == 1:
        return images
    side = size // step
    cut = images[:, : side * step, : side * step]
    return cut.reshape(n, side, step, side, step, 3).mean(axis=(2, 4)).astype(np.uint8)
