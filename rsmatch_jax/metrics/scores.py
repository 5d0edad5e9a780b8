"""Figures of predictions against ground truth: accuracy, calibration, detector, queue.

Rows are the outputs of `measure.mapped_forward` for each image.
"""

from typing import Any

import numpy as np

from rsmatch_jax.data.rs_ssl import Task
from rsmatch_jax.data.stores.arrays import REAL_ORIGIN
from rsmatch_jax.state import CSQueue

Rows = dict[str, np.ndarray]
TOP = 5
BINS = 15  # of confidence, as usual since Guo et al.
SYNTHETIC_SCORE = 0.5  # the detector calls an image synthetic from this score on


def test_metrics(rows: Rows, labels: np.ndarray, num_classes: int) -> dict[str, Any]:
    """Returns accuracy, top5, macro precision, recall, F1, and the confusion matrix.
    Shares lie in [0, 1]; the matrix is int64 [K, K], row = truth."""
    from sklearn import metrics as sklearn_metrics  # lazy: reports need none of it

    precision, recall, f1, _ = sklearn_metrics.precision_recall_fscore_support(
        labels,
        rows["predicted"],
        labels=np.arange(num_classes),
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


def detector_metrics(
    rows: Rows, synthetic: np.ndarray, num_labeled: int
) -> dict[str, float | None]:
    """Returns the detector's figures on the unlabelled set.

    Accuracy and balanced accuracy at score 0.5, AUROC, and the accuracy on labelled
    real, other real and synthetic images: the first two differ if the detector has
    memorised the labelled images, the first num_labeled of the set. A figure is None
    without a detector or without such images.
    """
    groups = {
        "": np.ones(len(synthetic), bool),
        "_labelled": np.arange(len(synthetic)) < num_labeled,
        "_real": ~synthetic & (np.arange(len(synthetic)) >= num_labeled),
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
    if 0 < synthetic.sum() < len(synthetic):
        figures[ranked[0]] = float(
            sklearn_metrics.balanced_accuracy_score(synthetic, called_synthetic)
        )
        figures[ranked[1]] = float(sklearn_metrics.roc_auc_score(synthetic, score))
    return figures


def detector_groups(rows: Rows, task: Task) -> dict[str, Any]:
    """Returns the detector's accuracy by class [K] and by origin, on unlabelled images.

    An origin is "real" or a generator's name. None without a detector, and in a list
    without such images.
    """
    score = rows.get("synthetic_score")
    if score is None:
        return dict.fromkeys(
            ("detector_accuracy_per_class", "detector_accuracy_per_generator")
        )
    right = (score >= SYNTHETIC_SCORE) == task.unl_synthetic
    classes = len(task.class_names)
    count = np.bincount(task.unl_labels, minlength=classes)
    hits = np.bincount(task.unl_labels, weights=right, minlength=classes)
    names = {REAL_ORIGIN: ~task.unl_synthetic} | {
        name: task.unl_generator == g for g, name in enumerate(task.generator_names)
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
    rows: Rows, labels: np.ndarray, synthetic: np.ndarray, threshold: float
) -> dict[str, float | None]:
    """Returns figures of all, the real and the synthetic unlabelled images.

    utilisation: the share whose confidence reaches `threshold`, on plain images, by the
    EMA weights (train/utilisation: on weak views, by the live weights).
    pseudo_label_accuracy: the share of right classes among those. None without images
    to count.
    """
    confident = rows["confidence"] >= threshold
    right = rows["predicted"] == labels
    groups = {
        "": np.ones(len(labels), bool),
        "_real": ~synthetic,
        "_synthetic": synthetic,
    }
    figures = {}
    for name, group in groups.items():
        figures[f"pseudo_label_accuracy{name}"] = _share(right[group & confident])
        figures[f"utilisation{name}"] = _share(confident[group])
    return figures


def queue_metrics(
    queue: CSQueue | None, synthetic: np.ndarray
) -> dict[str, float | None]:
    """Returns purity (share of queue images that are synthetic) and fill."""
    if queue is None:
        return {"queue_purity": None, "queue_fill": None}
    indices = np.asarray(queue.indices)
    held = indices[indices >= 0]
    purity = _share(synthetic[held]) if synthetic.any() else None
    return {"queue_purity": purity, "queue_fill": len(held) / indices.size}


def queue_purity_per_class(
    queue: CSQueue | None, synthetic: np.ndarray, num_classes: int
) -> list[float | None] | None:
    """Returns the purity of each class's queue [K], None for an empty one. None without
    a queue per class or without synthetic images."""
    if queue is None or not synthetic.any() or len(queue.indices) != num_classes:
        return None
    return [_share(synthetic[row[row >= 0]]) for row in np.asarray(queue.indices)]


def _share(flags: np.ndarray) -> float | None:
    return float(np.mean(flags)) if len(flags) else None
