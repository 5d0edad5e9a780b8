"""How well a plain classifier tells synthetic pictures from real ones."""

import dataclasses

import numpy as np

from rsmatch_jax.synthesis.look import cues

FOLDS = 5
PENALTY = 3.0  # the C of the support vector machine
SIDE = 16  # pixels of the shrunken pictures
MIN_PICTURES = 5 * FOLDS  # of either kind


@dataclasses.dataclass(frozen=True)
class Verdict:
    """balanced_accuracy: mean of the shares of real and of synthetic pictures that a
    held-out fold told rightly; error: its standard error from the numbers of pictures.
    by_generator: the same against each generator's pictures alone; None without any.
    """

    balanced_accuracy: float
    error: float
    by_generator: list[float | None]


def choose(
    real_labels: np.ndarray,
    labels: np.ndarray,
    generators: np.ndarray,
    per_class: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the real and of the synthetic pictures to compare, equally many a class.

    At most per_class of each class and kind. Synthetic ones come from every generator
    in equal parts, as training mixes them, where a generator has as many.
    """
    rng = np.random.default_rng(seed)
    real_rows, rows = [], []
    for label in np.union1d(real_labels, labels):
        own_real = rng.permutation(np.flatnonzero(real_labels == label))
        own = rng.permutation(np.flatnonzero(labels == label))
        own = own[_turns(generators[own])]
        count = min(per_class, len(own), len(own_real))
        real_rows.append(own_real[:count])
        rows.append(own[:count])
    return np.concatenate(real_rows), np.concatenate(rows)


def _turns(generators: np.ndarray) -> np.ndarray:
    """An order in which the generators take turns until each has no picture left."""
    turn = np.zeros(len(generators), np.int64)
    for g in np.unique(generators):
        turn[generators == g] = np.arange((generators == g).sum())
    return np.argsort(turn, kind="stable")


def pixels(images: np.ndarray) -> np.ndarray:
    """float32 [N, F]: area means of 16x16 pixels, all channels."""
    return cues.shrink(images, SIDE).reshape(len(images), -1)


def judge(
    features: np.ndarray, generators: np.ndarray, num_generators: int, seed: int
) -> Verdict | None:
    """Cross-validates a support vector machine in FOLDS folds; None below MIN_PICTURES
    of either kind.

    features: [N, F], standardised here, then seen through a Gaussian kernel.
    generators: int [N], -1 for real pictures. No picture may be there twice: it would
    be learnt in one fold and asked in another.
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
    said = cross_val_predict(model, features, synthetic, cv=folds)
    right = said == synthetic
    of_real = right[~synthetic].mean()
    rates = np.array([of_real, right[synthetic].mean()])
    groups = [right[generators == g] for g in range(num_generators)]
    return Verdict(
        balanced_accuracy=float(rates.mean()),
        error=float(np.sqrt((rates * (1 - rates) / numbers).sum()) / 2),
        by_generator=[
            float((of_real + g.mean()) / 2) if len(g) else None for g in groups
        ],
    )
