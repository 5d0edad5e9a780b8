"""What a network's features tell of real and synthetic images (paper, Fig. 2)."""

import dataclasses
from collections.abc import Mapping
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


@dataclasses.dataclass(frozen=True)
class Embedded:
    """points float32 [N, 2]: t-SNE of a network's features; figures: see `measure`."""

    points: np.ndarray
    figures: Mapping[str, Any]


def embed(
    features: np.ndarray, labels: np.ndarray, synthetic: np.ndarray, seed: int = 0
) -> Embedded:
    """t-SNE by scikit-learn (PCA start, perplexity 30 or a third of the images), and
    the numbers for what the eye sees.

    features: float [N, D], D >= 2; labels: int [N]; synthetic: bool [N]. The same on
    every call with the same seed.
    """
    features = np.asarray(features, np.float64)
    # Features that do not differ have no first component to be scaled by.
    spread = features.std(axis=0).max() > 0
    tsne = manifold.TSNE(
        init="pca" if spread else "random",
        perplexity=min(PERPLEXITY, (len(features) - 1) / 3),
        random_state=seed,
    )
    # Sums by several threads may differ in their last bits, and t-SNE would make much
    # of them.
    with threadpoolctl.threadpool_limits(1):
        points = tsne.fit_transform(features).astype(np.float32)
        return Embedded(points, measure(features, labels, synthetic, seed))


def measure(
    features: np.ndarray, labels: np.ndarray, synthetic: np.ndarray, seed: int = 0
) -> dict[str, Any]:
    """images, synthetic: how many; probe_balanced_accuracy: `probe`; centroid_distance:
    `centroid_distance`."""
    return {
        "images": len(features),
        "synthetic": int(synthetic.sum()),
        "probe_balanced_accuracy": probe(features, synthetic, seed),
        "centroid_distance": centroid_distance(features, labels, synthetic),
    }


def probe(features: np.ndarray, synthetic: np.ndarray, seed: int = 0) -> float | None:
    """How well a linear probe tells real from synthetic, of images it has not seen
    (five folds): balanced accuracy of a logistic regression on standardised features,
    0.5 = not at all. None with fewer than five images of an origin."""
    if min(synthetic.sum(), (~synthetic).sum()) < FOLDS:
        return None
    folds = model_selection.StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    classifier = pipeline.make_pipeline(
        preprocessing.StandardScaler(),
        linear_model.LogisticRegression(max_iter=1000, class_weight="balanced"),
    )
    said = model_selection.cross_val_predict(
        classifier, np.asarray(features, np.float64), synthetic, cv=folds
    )
    return float(metrics.balanced_accuracy_score(synthetic, said))


def centroid_distance(
    features: np.ndarray, labels: np.ndarray, synthetic: np.ndarray
) -> float | None:
    """Between a class's real and synthetic centroid, mean over the classes that have
    both, in units of the mean distance between the real centroids of two classes: far
    below 1 = the class decides where an image lies, not its origin. None where no class
    has both, or where fewer than two have real images."""
    features = np.asarray(features, np.float64)
    real, fake = {}, {}
    for label in np.unique(labels):
        for centroids, origin in ((real, ~synthetic), (fake, synthetic)):
            group = features[(labels == label) & origin]
            if len(group):
                centroids[label] = group.mean(axis=0)
    shared = sorted(real.keys() & fake.keys())
    if not shared or len(real) < 2:
        return None
    apart = metrics.pairwise_distances(np.stack(list(real.values())))
    unit = apart[np.triu_indices(len(real), 1)].mean()
    own = [np.linalg.norm(real[k] - fake[k]) for k in shared]
    return float(np.mean(own) / unit) if unit else None
