"""Figures of predictions against ground truth: accuracy, calibration, detector, queue.

Rows are what `evaluation.make_forward` says of each image.
"""

from typing import Any

import numpy as np

from rsmatch_jax.data.rs_ssl import Task
from rsmatch_jax.data.stores.arrays import REAL_ORIGIN
from rsmatch_jax.state import TrainState

Rows = dict[str, np.ndarray]
TOP = 5
BINS = 15  # of confidence, as usual since Guo et al.
SAID_SYNTHETIC = 0.5  # score from which on the detector says so


def test_metrics(rows: Rows, labels: np.ndarray, num_classes: int) -> dict[str, Any]:
    """accuracy, top5, macro precision, recall, F1 in [0, 1], and the confusion matrix
    int64 [K, K] (row = truth)."""
    from sklearn import metrics as sklearn_metrics  # lazy: reports need none of it

    precision, recall, f1, _ = sklearn_metrics.precision_recall_fscore_support(
        labels,
        rows["predicted"],
        labels=np.arange(num_classes),
        average="macro",
        zero_division=0.0,
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
    """(class, taken for, how often, of how many) by falling frequency, at most `count`
    pairs; confusion: int64 [K, K], row = truth."""
    wrong = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    pairs = [np.unravel_index(i, wrong.shape) for i in order if wrong.flat[i]]
    totals = confusion.sum(axis=1)
    return [(int(t), int(s), int(wrong[t, s]), int(totals[t])) for t, s in pairs]


def calibration(rows: Rows, labels: np.ndarray) -> tuple[dict[str, list], float]:
    """Reliability bins, and the expected calibration error in [0, 1].

    Guo et al., "On Calibration of Modern Neural Networks", arXiv 1706.04599, Eq. 3:
    images in BINS equal bins of confidence (lo, hi]; the mean over images of the
    distance between a bin's accuracy and its mean confidence. Bins: count, confidence
    and accuracy, the last two None where a bin is empty.
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
    """The detector on the unlabelled set, whose first num_labeled images are labelled.

    Accuracy and balanced accuracy at score 0.5, AUROC, and the accuracy on labelled
    real, other real and synthetic images: a detector that knows the labelled ones by
    heart shows in the first two. None where there is no detector or no such image.
    """
    groups = {
        "": np.ones(len(synthetic), bool),
        "_labelled": np.arange(len(synthetic)) < num_labeled,
        "_real": ~synthetic & (np.arange(len(synthetic)) >= num_labeled),
        "_synthetic": synthetic,
    }
    from sklearn import metrics as sklearn_metrics  # lazy: as above

    names = [f"detector_accuracy{name}" for name in groups]
    ranked = ("detector_balanced_accuracy", "detector_auroc")
    found: dict[str, float | None] = dict.fromkeys([*names, *ranked])
    score = rows.get("synthetic_score")
    if score is None:
        return found
    said = score >= SAID_SYNTHETIC
    for name, group in zip(names, groups.values(), strict=True):
        if group.any():
            found[name] = float(np.mean(said[group] == synthetic[group]))
    if 0 < synthetic.sum() < len(synthetic):
        found[ranked[0]] = float(
            sklearn_metrics.balanced_accuracy_score(synthetic, said)
        )
        found[ranked[1]] = float(sklearn_metrics.roc_auc_score(synthetic, score))
    return found


def detector_groups(rows: Rows, task: Task) -> dict[str, Any]:
    """The detector's accuracy on the unlabelled images of each class [K], and by origin
    {"real" or a generator's name: accuracy}; None where there is no detector, or in a
    list no such image."""
    score = rows.get("synthetic_score")
    if score is None:
        return dict.fromkeys(
            ("detector_accuracy_per_class", "detector_accuracy_per_generator")
        )
    right = (score >= SAID_SYNTHETIC) == task.unl_synthetic
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
            name: _share(right[own]) for name, own in names.items() if own.any()
        },
    }


def pseudo_label_metrics(
    rows: Rows, labels: np.ndarray, synthetic: np.ndarray, threshold: float
) -> dict[str, float | None]:
    """Of all, the real and the synthetic unlabelled images: utilisation, the share
    whose confidence reaches `threshold` (of plain images, by the EMA weights, while
    train/utilisation is of weak views by the live ones), and pseudo_label_accuracy, the
    share of right classes among those. None where there is none to count."""
    confident = rows["confidence"] >= threshold
    right = rows["predicted"] == labels
    groups = {
        "": np.ones(len(labels), bool),
        "_real": ~synthetic,
        "_synthetic": synthetic,
    }
    found = {}
    for name, group in groups.items():
        found[f"pseudo_label_accuracy{name}"] = _share(right[group & confident])
        found[f"utilisation{name}"] = _share(confident[group])
    return found


def queue_metrics(state: TrainState, synthetic: np.ndarray) -> dict[str, float | None]:
    """Purity (share of queue images that are synthetic) and fill, from the slots'
    positions in the unlabelled set."""
    if "queue" not in state.extra:
        return {"queue_purity": None, "queue_fill": None}
    indices = np.asarray(state.extra["queue"].indices)
    held = indices[indices >= 0]
    return {
        "queue_purity": float(np.mean(synthetic[held]))
        if len(held) and synthetic.any()
        else None,
        "queue_fill": len(held) / indices.size,
    }


def queue_purity_per_class(
    state: TrainState, synthetic: np.ndarray, num_classes: int
) -> list[float | None] | None:
    """Purity of each class's queue [K], None where it is empty; None without a queue,
    with one for all classes, or without synthetic images."""
    if "queue" not in state.extra or not synthetic.any():
        return None
    indices = np.asarray(state.extra["queue"].indices)
    if len(indices) != num_classes:
        return None
    return [_share(synthetic[row[row >= 0]]) for row in indices]


def _share(flags: np.ndarray) -> float | None:
    return float(np.mean(flags)) if len(flags) else None
