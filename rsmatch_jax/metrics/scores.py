"""Figures of predictions against ground truth: accuracy, calibration, detector, queue.

Rows are the outputs of `measure.Predictor` for each image.
"""

from typing import Any

import numpy as np

from rsmatch_jax.data.rs_ssl import UNKNOWN, Task
from rsmatch_jax.data.stores.arrays import REAL_ORIGIN
from rsmatch_jax.state import CSQueue

Rows = dict[str, np.ndarray]
TOP = 5
BINS = 15  # of confidence, as usual since Guo et al.
SYNTHETIC_SCORE = 0.5  # the detector calls an image synthetic from this score on


def test_metrics(rows: Rows, labels: np.ndarray, num_classes: int) -> dict[str, Any]:
    """Returns accuracy, top5, macro precision, recall, F1, and the confusion matrix.
    Shares lie in [0, 1]; the matrix is int64 [K, K], row = truth. Macro figures are
    means over the classes that the labels or the predictions have, as sklearn's."""
    from sklearn import metrics as sklearn_metrics  # lazy: reports need none of it

    precision, recall, f1, _ = sklearn_metrics.precision_recall_fscore_support(
        labels,
        rows["predicted"],
        average="macro",
        zero_division=0,
    )
    return {
        "accuracy": float(np.mean(rows["predicted"] == labels)),
        "top5": float(np.mean(rows["rank"] < min(TOP, num_classes))),
        "macro_precision": float(precision),
        "macro_recall": float(recall),
        "macro_f1": float(f1),
        "confusion": sklearn_metrics.confusion_matrix(
            labels, rows["predicted"], labels=np.arange(num_classes)
        ),
    }


def most_confused(confusion: np.ndarray, count: int) -> list[tuple[int, int, int, int]]:
    """Returns the most frequent mistakes, at most `count`, by falling frequency.

    Each is (class, predicted class, images, images of the class). confusion: int64
    [K, K], row = truth.
    """
    wrong = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    pairs = [np.unravel_index(i, wrong.shape) for i in order if wrong.flat[i]]
    totals = confusion.sum(axis=1)
    return [(int(t), int(s), int(wrong[t, s]), int(totals[t])) for t, s in pairs]


def calibration(rows: Rows, labels: np.ndarray) -> tuple[dict[str, list], float]:
    """Returns reliability bins and the expected calibration error in [0, 1].

    Guo et al., "On Calibration of Modern Neural Networks", arXiv 1706.04599, Eq. 3:
    images in BINS equal bins of confidence (lo, hi]; the mean over images of the
    distance between a bin's accuracy and its mean confidence. Bins: count, confidence
    and accuracy, the last two None for an empty bin.
    """
    confidence = rows["confidence"].astype(np.float64)
    right = rows["predicted"] == labels
    edges = np.linspace(0, 1, BINS + 1)
    which = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, BINS - 1)
    count = np.bincount(which, minlength=BINS)
    sums = [np.bincount(which, weights=x, minlength=BINS) for x in (confidence, right)]
    error = float(np.abs(sums[0] - sums[1]).sum() / len(labels))
    means = [
        [float(s / n) if n else None for s, n in zip(total, count, strict=True)]
        for total in sums
    ]
    bins = {"count": count.tolist(), "confidence": means[0], "accuracy": means[1]}
    return bins, error


def judged(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Returns bool [N] twice: the unlabelled images that figures about origins, and
    about classes, count. No image if only labelled ones are known: they are trained on,
    so they say nothing about the others."""
    origins, classes = task.unl_origins != UNKNOWN, task.unl_labels >= 0
    for known in (origins, classes):
        known &= known.all() or known[len(task.lab_images) :].any()
    return origins, classes


def known_counts(queue: CSQueue | None, task: Task) -> dict[str, int]:
    """Returns the numbers of `judged` images, of those of known origin in the queue,
    and of all unlabelled images."""
    origins, classes = judged(task)
    held = 0 if queue is None else len(_held(queue, origins))
    counts = {"origins": int(origins.sum()), "classes": int(classes.sum())}
    return {**counts, "queue": held, "images": len(origins)}


def detector_metrics(rows: Rows, task: Task) -> dict[str, float | None]:
    """Returns the detector's figures on the unlabelled images of known origin.

    Accuracy and balanced accuracy at score 0.5, AUROC, and the accuracy on labelled
    real, other real and synthetic images: the first two differ if the detector has
    memorised the labelled images. A figure is None without a detector or without such
    images.
    """
    (known, _), synthetic = judged(task), task.unl_synthetic
    labelled = np.arange(len(known)) < len(task.lab_images)
    groups = {
        "": known,
        "_labelled": labelled,
        "_real": task.unl_real & ~labelled,
        "_synthetic": synthetic,
    }
    from sklearn import metrics as sklearn_metrics  # lazy: see above

    names = [f"detector_accuracy{name}" for name in groups]
    ranked = ("detector_balanced_accuracy", "detector_auroc")
    figures: dict[str, float | None] = dict.fromkeys([*names, *ranked])
    score = rows.get("synthetic_score")
    if score is None:
        return figures
    called_synthetic = score >= SYNTHETIC_SCORE
    right = called_synthetic == synthetic
    for name, group in zip(names, groups.values(), strict=True):
        figures[name] = _share(right[group])
    if 0 < synthetic.sum() < known.sum():
        truth = synthetic[known]
        figures[ranked[0]] = float(
            sklearn_metrics.balanced_accuracy_score(truth, called_synthetic[known])
        )
        figures[ranked[1]] = float(sklearn_metrics.roc_auc_score(truth, score[known]))
    return figures


def detector_groups(rows: Rows, task: Task) -> dict[str, Any]:
    """Returns the detector's accuracy by class [K] and by origin, on unlabelled images.

    An origin is "real" or a generator's name. None without a detector or a known
    origin, and in a list without such images.
    """
    score, (known, _) = rows.get("synthetic_score"), judged(task)
    if score is None or not known.any():
        return dict.fromkeys(
            ("detector_accuracy_per_class", "detector_accuracy_per_generator")
        )
    right = (score >= SYNTHETIC_SCORE) == task.unl_synthetic
    classes, both = len(task.class_names), known & (task.unl_labels >= 0)
    labels = task.unl_labels[both]
    count = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels, weights=right[both], minlength=classes)
    names = {REAL_ORIGIN: task.unl_real} | {
        name: task.unl_origins == g for g, name in enumerate(task.generator_names)
    }
    return {
        "detector_accuracy_per_class": [
            float(h / n) if n else None for h, n in zip(hits, count, strict=True)
        ],
        "detector_accuracy_per_generator": {
            name: _share(right[at]) for name, at in names.items() if at.any()
        },
    }


def pseudo_label_metrics(
    rows: Rows, task: Task, threshold: float
) -> dict[str, float | None]:
    """Returns figures of all, the real and the synthetic unlabelled images.

    utilisation: the share whose confidence reaches `threshold`, on plain images, by the
    EMA weights (train/utilisation: on weak views, by the live weights).
    pseudo_label_accuracy: the share of right classes among those, where the class is
    known. None without images to count.
    """
    confident = rows["confidence"] >= threshold
    right, (origins, known) = rows["predicted"] == task.unl_labels, judged(task)
    groups = {
        "": np.ones(len(known), bool),
        "_real": task.unl_real & origins,
        "_synthetic": task.unl_synthetic,
    }
    figures = {}
    for name, group in groups.items():
        figures[f"pseudo_label_accuracy{name}"] = _share(
            right[group & confident & known]
        )
        figures[f"utilisation{name}"] = _share(confident[group])
    return figures


def queue_metrics(queue: CSQueue | None, task: Task) -> dict[str, float | None]:
    """Returns purity (share of synthetic images among those of known origin in the
    queue) and fill."""
    if queue is None:
        return {"queue_purity": None, "queue_fill": None}
    purity, indices = None, np.asarray(queue.indices)
    if task.unl_synthetic.any():
        purity = _share(task.unl_synthetic[_held(queue, judged(task)[0])])
    return {"queue_purity": purity, "queue_fill": float(np.mean(indices >= 0))}


def queue_purity_per_class(
    queue: CSQueue | None, task: Task
) -> list[float | None] | None:
    """Returns the purity of each class's queue [K], None for one without an image of
    known origin. None without a queue per class or without synthetic images."""
    synthetic, classes = task.unl_synthetic, len(task.class_names)
    if queue is None or not synthetic.any() or len(queue.indices) != classes:
        return None
    known, _ = judged(task)
    rows = [row[row >= 0] for row in np.asarray(queue.indices)]
    return [_share(synthetic[row[known[row]]]) for row in rows]


def _held(queue: CSQueue, known: np.ndarray) -> np.ndarray:
    """Positions of the images of known origin that are in the queue, int32 [n]."""
    indices = np.asarray(queue.indices)
    held = indices[indices >= 0]
    return held[known[held]]


def _share(flags: np.ndarray) -> float | None:
    return float(np.mean(flags)) if len(flags) else None
