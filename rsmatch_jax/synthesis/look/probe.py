"""Tests how well a plain classifier tells synthetic pictures from real ones."""

from typing import Any

import numpy as np

FOLDS = 5
PENALTY = 3.0  # C of the support vector machine
SIDE = 16  # pixels a side of the reduced pictures
MIN_PICTURES = 5 * FOLDS  # of each kind


def choose(
    real_labels: np.ndarray,
    labels: np.ndarray,
    generators: np.ndarray,
    per_class: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows of real and of synthetic pictures, equally many of each class.

    At most per_class of each class and kind. The synthetic ones are from all generators
    in equal parts, as in training, as far as a generator has enough.
    """
    rng = np.random.default_rng(seed)
    real_rows, rows = [], []
    for label in np.union1d(real_labels, labels):
        real = rng.permutation(np.flatnonzero(real_labels == label))
        synthetic = rng.permutation(np.flatnonzero(labels == label))
        # The generators alternate until they have no more.
        turn = np.zeros(len(synthetic), np.int64)
        for g in np.unique(generators[synthetic]):
            members = generators[synthetic] == g
            turn[members] = np.arange(members.sum())
        synthetic = synthetic[np.argsort(turn, kind="stable")]
        count = min(per_class, len(synthetic), len(real))
        real_rows.append(real[:count])
        rows.append(synthetic[:count])
    return np.concatenate(real_rows), np.concatenate(rows)


def judge(
    features: np.ndarray, generators: np.ndarray, num_generators: int, seed: int
) -> dict[str, Any] | None:
    """Cross-validates a support vector machine; None if a kind is below MIN_PICTURES.

    Args:
        features: [N, F], standardised here; the kernel is Gaussian. No picture may
            occur twice, or it could be in the training and in the held-out part.
        generators: int [N], -1 for real pictures.

    Returns:
        balanced_accuracy: mean accuracy of real and of synthetic held-out pictures.
        error: its standard error, from the numbers of pictures. by_generator: the
        balanced accuracy with one generator's pictures alone, None if it has none.
    """
    from sklearn.model_selection import (  # lazy: scikit-learn takes a second
        StratifiedKFold,
        cross_val_predict,
    )
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    synthetic = generators >= 0
    numbers = np.bincount(synthetic, minlength=2)
    if numbers.min() < MIN_PICTURES:
        return None
    model = make_pipeline(StandardScaler(), SVC(C=PENALTY))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    right = cross_val_predict(model, features, synthetic, cv=folds) == synthetic
    of_real = right[~synthetic].mean()
    rates = np.array([of_real, right[synthetic].mean()])
    groups = [right[generators == g] for g in range(num_generators)]
    return {
        "balanced_accuracy": rates.mean(),
        "error": np.sqrt((rates * (1 - rates) / numbers).sum()) / 2,
        "by_generator": [(of_real + g.mean()) / 2 if len(g) else None for g in groups],
    }
