"""How a network's features arrange real and synthetic images (paper, Fig. 2)."""

import contextlib
import dataclasses
import io
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import threadpoolctl
from sklearn import (
    linear_model,
    manifold,
    metrics,
    model_selection,
    pipeline,
    preprocessing,
)

FOLDS = 5
PERPLEXITY = 30.0
ITERATIONS = 1000


@dataclasses.dataclass(frozen=True)
class Embedded:
    """points: float32 [N, 2], t-SNE of a network's features. figures: see `measure`."""

    points: np.ndarray
    figures: Mapping[str, Any]


def embed(
    features: np.ndarray,
    labels: np.ndarray,
    synthetic: np.ndarray,
    seed: int = 0,
    known: np.ndarray | slice = slice(None),
    advance: Callable[[int], object] = lambda count: None,
) -> Embedded:
    """Returns the t-SNE of features [N, D >= 2], and the figures of the `known` ones.
    labels, synthetic: as in `measure`. advance: gets numbers of iterations, ITERATIONS
    in all, once they are done. Equal calls give equal bits."""
    features = np.asarray(features, np.float64)
    # Equal features have no first component by which PCA could scale.
    differ = features.std(axis=0).max() > 0
    tsne = manifold.TSNE(
        init="pca" if differ else "random",
        perplexity=min(PERPLEXITY, (len(features) - 1) / 3),
        random_state=seed,
        max_iter=ITERATIONS,
        verbose=2,  # prints how far it is, for `_Iterations`
    )
    # Sums over several threads may differ in the last bits, and t-SNE amplifies that.
    with threadpoolctl.threadpool_limits(1):
        with contextlib.redirect_stdout(_Iterations(advance)):
            points = tsne.fit_transform(features).astype(np.float32)
        truth = labels[known], synthetic[known]
        return Embedded(points, measure(features[known], *truth, seed))


class _Iterations(io.TextIOBase):
    """Takes what scikit-learn prints about its iterations."""

    def __init__(self, advance: Callable[[int], object]):
        super().__init__()
        self._advance, self._done = advance, 0

    def write(self, text: str) -> int:
        if match := re.search(r"Iteration (\d+)", text):
            self._advance(int(match[1]) - self._done)
            self._done = int(match[1])
        return len(text)


def measure(
    features: np.ndarray, labels: np.ndarray, synthetic: np.ndarray, seed: int = 0
) -> dict[str, Any]:
    """Returns numbers of images, and the results of the two functions below. labels:
    int [N], -1 = unknown. synthetic: bool [N]."""
    return {
        "images": len(features),
        "synthetic": int(synthetic.sum()),
        "probe_balanced_accuracy": probe(features, synthetic, seed),
        "centroid_distance": centroid_distance(features, labels, synthetic),
    }


def probe(features: np.ndarray, synthetic: np.ndarray, seed: int = 0) -> float | None:
    """Returns how well a linear probe separates real from synthetic images.

    It is the balanced accuracy, 0.5 = not at all, of a logistic regression on
    standardised features in five folds. None if an origin has fewer than five images.
    """
    if min(synthetic.sum(), (~synthetic).sum()) < FOLDS:
        return None
    folds = model_selection.StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    classifier = pipeline.make_pipeline(
        preprocessing.StandardScaler(),
        linear_model.LogisticRegression(max_iter=1000, class_weight="balanced"),
    )
    predicted = model_selection.cross_val_predict(
        classifier, np.asarray(features, np.float64), synthetic, cv=folds
    )
    return float(metrics.balanced_accuracy_score(synthetic, predicted))


def centroid_distance(
    features: np.ndarray, labels: np.ndarray, synthetic: np.ndarray
) -> float | None:
    """Returns the distance between a class's real and synthetic centroid.

    It is the mean over the classes with both, in units of the mean distance between the
    real centroids of two classes. Far below 1, the class decides where an image lies,
    not its origin. None if no class has both, or fewer than two have real images.
    """
    features = np.asarray(features, np.float64)
    real, fake = {}, {}
    for label in np.unique(labels[labels >= 0]):
        for centroids, origin in ((real, ~synthetic), (fake, synthetic)):
            group = features[(labels == label) & origin]
            if len(group):
                centroids[label] = group.mean(axis=0)
    shared = sorted(real.keys() & fake.keys())
    if not shared or len(real) < 2:
        return None
    apart = metrics.pairwise_distances(np.stack(list(real.values())))
    unit = apart[np.triu_indices(len(real), 1)].mean()
    distances = [np.linalg.norm(real[k] - fake[k]) for k in shared]
    return float(np.mean(distances) / unit) if unit else None
