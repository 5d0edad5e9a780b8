"""Images that a state is most wrong about, for people to look at."""

import dataclasses
import io

import numpy as np

from rsmatch_jax.data.rs_ssl import Task
from rsmatch_jax.data.stores.arrays import REAL_ORIGIN
from rsmatch_jax.errors import RequestError
from rsmatch_jax.metrics.scores import SYNTHETIC_SCORE, Rows

DETECTOR, CLASSIFIER = "detector", "classifier"
MOST = 12  # real images taken for synthetic, and as many of the reverse
PAIRS, MOST_OF_PAIR = 6, 6  # pairs of confused classes, and images of each
MAX_SIDE = 96  # pixels; larger images are reduced


@dataclasses.dataclass(frozen=True)
class Mistakes:
    """M images, the worst of each kind first.

    images: uint8 [M, s, s, 3]. of: str [M], the network that is wrong. index: int32
    [M], position in the unlabelled set (detector) or the test set (classifier). labels,
    predicted: int32 [M], classes; -1 = unknown. score: float32 [M], of being synthetic,
    or the classifier's confidence. origin: str [M], "real" or the generator's name.
    """

    images: np.ndarray
    of: np.ndarray
    index: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    score: np.ndarray
    origin: np.ndarray

    def to_bytes(self) -> bytes:
        """Returns the content of a .npz file."""
        file = io.BytesIO()
        np.savez_compressed(file, **vars(self))
        return file.getvalue()


def read(path: str) -> Mistakes | None:
    """Reads what `to_bytes` made; None if there is none, RequestError if damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = [field.name for field in dataclasses.fields(Mistakes)]
            return Mistakes(**{name: arrays[name] for name in names})
    except FileNotFoundError:
        return None
    except Exception as e:  # zipfile, zlib and numpy raise many kinds
        raise RequestError(
            f"{path} cannot be read: {e}. Move it away: the next evaluation makes it"
        ) from None


def collect(task: Task, test: Rows, unlabelled: Rows) -> Mistakes:
    """Returns the worst mistakes in the rows of the test set and unlabelled set."""
    wrong = detector_mistakes(unlabelled, task)
    confused = confusions(test, task.test_labels, len(task.class_names))
    images = [
        _small(np.asarray(images[rows]))
        for images, rows in ((task.unl_images, wrong), (task.test_images, confused))
    ]
    origins = np.asarray([*task.generator_names, REAL_ORIGIN])  # rs_ssl.REAL is -1

    def both(of_detector, of_classifier, dtype=None):
        return np.concatenate([of_detector, of_classifier], dtype=dtype)

    no_scores = np.zeros(0, np.float32)
    return Mistakes(
        images=np.concatenate(images),
        of=np.repeat([DETECTOR, CLASSIFIER], [len(wrong), len(confused)]),
        index=both(wrong, confused, np.int32),
        labels=both(task.unl_labels[wrong], task.test_labels[confused], np.int32),
        predicted=both(unlabelled["predicted"][wrong], test["predicted"][confused]),
        score=both(
            unlabelled.get("synthetic_score", no_scores)[wrong],
            test["confidence"][confused],
        ),
        origin=both(
            origins[task.unl_origins[wrong]],
            np.repeat([REAL_ORIGIN], len(confused)),
        ),
    )


def detector_mistakes(rows: Rows, task: Task) -> np.ndarray:
    """Returns positions of real images with the highest scores, then the reverse, among
    those of known origin."""
    score = rows.get("synthetic_score")
    if score is None:
        return np.zeros(0, np.int64)
    positive = score >= SYNTHETIC_SCORE
    real = np.flatnonzero(positive & task.unl_real)
    missed = np.flatnonzero(~positive & task.unl_synthetic)
    return np.concatenate(
        [
            real[np.argsort(-score[real], kind="stable")][:MOST],
            missed[np.argsort(score[missed], kind="stable")][:MOST],
        ]
    )


def confusions(rows: Rows, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns positions of the most confused pairs' images, by falling confidence."""
    pair = labels.astype(np.int64) * num_classes + rows["predicted"]
    wrong = np.flatnonzero(rows["predicted"] != labels)
    pairs, count = np.unique(pair[wrong], return_counts=True)
    positions = [np.zeros(0, np.int64)]
    for worst in pairs[np.argsort(-count, kind="stable")][:PAIRS]:
        group = wrong[pair[wrong] == worst]
        order = np.argsort(-rows["confidence"][group], kind="stable")
        positions.append(group[order][:MOST_OF_PAIR])
    return np.concatenate(positions)


def _small(images: np.ndarray) -> np.ndarray:
    """uint8 [n, S, S, 3] averaged over squares of pixels to MAX_SIDE a side or less."""
    n, size = images.shape[:2]
    step = -(-size // MAX_SIDE)
    if step == 1:
        return images
    side = size // step
    cut = images[:, : side * step, : side * step]
    return cut.reshape(n, side, step, side, step, 3).mean(axis=(2, 4)).astype(np.uint8)
