"""The names of metrics in a run's files, and their titles for people.

A metric `x` of an evaluation is `x` in the output of `evaluate`, and `eval/x` in
metrics.jsonl. All of them are shares of one.
"""

from collections.abc import Mapping
from typing import Any

BEST, MEDIAN = "test_accuracy_best", "test_accuracy_median20"
LATE = "last_four"  # mean test accuracy of the last four evaluations, in reports
# Metrics of one evaluation.
TITLES = {
    "test_accuracy": "test accuracy",
    "test_top5": "top-5",
    "test_macro_precision": "macro precision",
    "test_macro_recall": "macro recall",
    "test_macro_f1": "macro F1",
    "test_ece": "calibration error (ECE)",
    "validation_accuracy": "validation accuracy",
    "detector_accuracy": "detector accuracy",
    "detector_balanced_accuracy": "detector balanced accuracy",
    "detector_auroc": "detector AUROC",
    "detector_accuracy_labelled": "detector accuracy, labelled images",
    "detector_accuracy_real": "detector accuracy, other real images",
    "detector_accuracy_synthetic": "detector accuracy, synthetic images",
    "queue_purity": "queue purity",
    "queue_fill": "queue fill",
    "pseudo_label_accuracy": "pseudo-label accuracy",
    "pseudo_label_accuracy_real": "pseudo-label accuracy, real images",
    "pseudo_label_accuracy_synthetic": "pseudo-label accuracy, synthetic images",
    "utilisation": "utilisation",
    "utilisation_real": "utilisation of real images",
    "utilisation_synthetic": "utilisation of synthetic images",
}
SHOWN = ("test_accuracy", "detector_balanced_accuracy", "queue_purity")  # in training

# result.json has these of the last evaluation, and those of TEST below "test".
LAST = (
    *("detector_accuracy", "detector_balanced_accuracy", "detector_auroc"),
    *("queue_purity", "queue_fill", "pseudo_label_accuracy"),
)
TEST = ("top5", "macro_precision", "macro_recall", "macro_f1", "ece")
# Titles of result.json's shares; a dot leads into an object.
RESULT_TITLES = {
    "test_accuracy": "test accuracy, last",
    BEST: "test accuracy, best",
    MEDIAN: "test accuracy, median of the last 20",
    **{f"test.{name}": TITLES[f"test_{name}"] for name in TEST},
    **{name: TITLES[name] for name in LAST},
    "utilisation": "utilisation in training",
}


def known_line(known: Mapping[str, int] | None) -> str | None:
    """Returns how many images figures about the unlabelled set count, None if all.
    known: see `scores.known_counts`; None in runs of before."""
    if not known or known["origins"] == known["classes"] == known["images"]:
        return None
    return (
        f"of {known['images']} unlabelled images the figures about origins count "
        f"{known['origins']} and those about classes {known['classes']}, where these "
        f"are known; {known['queue']} images in the queue are of known origin"
    )


def accuracy(result: Mapping[str, Any]) -> str:
    """Returns the test accuracy of a run's result in words."""
    share = result["test_accuracy"]
    return "no test set" if share is None else f"test accuracy {share:.4f}"


# Columns of the report's CSV files, and their keys in result.json.
COLUMNS = {
    "best": BEST,
    "last": "test_accuracy",
    "median20": MEDIAN,
    **{name: name for name in LAST[:4]},
    **{name: f"test.{name}" for name in TEST},
}
