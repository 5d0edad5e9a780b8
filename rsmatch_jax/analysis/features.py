"""What the networks' features tell of real and synthetic images (paper, Fig. 2)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn import (
    linear_model,
    manifold,
    metrics,
    model_selection,
    pipeline,
    preprocessing,
)

FOLDS = 5


@dataclasses.dataclass(frozen=True)
class Embedded:
    """points float32 [N, 2]: t-SNE of a network's features; figures: see `measure`."""

    points: np.ndarray
    figures: Mapping[str, Any]


def embed(
    features: np.ndarray, labels: np.ndarray, synthetic: np.ndarray, seed: int = 0
) -> Embedded:
    """t-SNE by scikit-learn (PCA start, perplexity 30 or a third of the images), and
    the numbers for what the eye sees. features: float32 [N, D]."""
    perplexity = min(30.0, (len(features) - 1) / 3)
    points = manifold.TSNE(
        init="pca", perplexity=perplexity, random_state=seed, n_jobs=-1
    ).fit_transform(np.asarray(features, np.float64))
    return Embedded(
        points.astype(np.float32), measure(features, labels, synthetic, seed)
    )


def measure(
    features: np.ndarray, labels: np.ndarray, synthetic: np.ndarray, seed: int = 0
) -> dict[str, Any]:
    """probe_balanced_accuracy: how well a linear probe tells real from synthetic, of
    images it has not seen (five folds); 0.5 = not at all. centroid_distance: between a
    class's real and synthetic centroid, mean over classes, in units of the mean
    distance between the real centroids of two classes: far below 1 = the class decides
    where an image lies, not its origin. None where one of the groups is too small."""
    return {
        "images": len(features),
        "synthetic": int(synthetic.sum()),
        "probe_balanced_accuracy": probe(features, synthetic, seed),
        "centroid_distance": centroid_distance(features, labels, synthetic),
    }


def probe(features: np.ndarray, synthetic: np.ndarray, seed: int = 0) -> float | None:
    """Balanced accuracy of a logistic regression on standardised features."""
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
    """See `measure`."""
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
