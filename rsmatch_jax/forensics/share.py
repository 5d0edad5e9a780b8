"""Estimates the share of synthetic pictures among unlabelled ones, by their scores.

Best-bin estimation: Garg et al. 2021, "Mixture proportion estimation and PU learning",
arXiv 2111.00980. The known component are real pictures, scored by models that did not
see them. The estimate is right as far as real pictures score alike in both sets.
"""

from typing import NamedTuple

import numpy as np

from rsmatch_jax.forensics import threshold

MIN_REAL = 20  # below, any estimate is worthless
MIN_UNLABELED = 50  # likewise; whoever calls `estimate` checks it
CONFIDENCE = 0.90  # of the interval and of the lower bound
_DELTA = 0.1  # of best-bin estimation; the paper's value
_MIN_BIN = 0.02  # least share of the real pictures in a bin
_DRAWS = 200  # of the bootstrap
_BINS = (0.1, 0.25, 0.5)  # shares of the real pictures below a bin of the lower bound


class Share(NamedTuple):
    """A point estimate, its interval by bootstrap and a lower bound, all in 0..1."""

    estimate: float
    interval: tuple[float, float]
    at_least: float


def estimate(real: np.ndarray, unlabeled: np.ndarray, seed: int = 0) -> Share | None:
    """Returns the share of synthetic pictures; None below MIN_REAL real ones.

    The interval ends at the bootstrap's quantiles, but reaches down at least as far as
    up: each draw takes its luckiest bin, so that most lie above the estimate, and their
    lower quantile is above 0 where nothing is synthetic. The interval covers the choice
    of pictures, not the training of the scores.

    Args:
        real: scores of real pictures, higher = more synthetic, [R].
        unlabeled: scores of the unlabelled pictures, from the same models, [N].
    """
    if len(real) < MIN_REAL or not len(unlabeled):
        return None
    rng = np.random.default_rng(seed)
    draws = [
        best_bin(rng.choice(real, len(real)), rng.choice(unlabeled, len(unlabeled)))
        for _ in range(_DRAWS)
    ]
    value = best_bin(real, unlabeled)
    tail = (1 - CONFIDENCE) / 2
    low, high = map(float, np.quantile(draws, (tail, 1 - tail)))
    interval = max(0.0, min(low, value, 2 * value - high)), max(value, high)
    return Share(value, interval, min(value, lower_bound(real, unlabeled)))


def best_bin(real: np.ndarray, unlabeled: np.ndarray) -> float:
    """Returns the point estimate by best-bin estimation (Garg et al. 2021).

    Below any score, the share of the unlabelled pictures over that of the real ones is
    at least the share of real pictures among the unlabelled. Takes the score where the
    upper confidence bound of this ratio is least; the paper's gamma, 0.01, is 0 here.
    """
    cuts = np.concatenate([real, unlabeled])
    of_real, of_unlabeled = (
        np.searchsorted(np.sort(scores), cuts, side="right") / len(scores)
        for scores in (real, unlabeled)
    )
    enough = of_real >= _MIN_BIN
    of_unlabeled, of_real = of_unlabeled[enough], of_real[enough]
    margin = np.log(4 / _DELTA) / 2
    margin = np.sqrt(margin / len(unlabeled)) + np.sqrt(margin / len(real))
    best = np.argmin((of_unlabeled + margin) / of_real)
    return float(np.clip(1 - of_unlabeled[best] / of_real[best], 0, 1))


def lower_bound(real: np.ndarray, unlabeled: np.ndarray) -> float:
    """Returns a share that the synthetic pictures reach with CONFIDENCE.

    The best of a few bins that are chosen beforehand, with exact bounds of both shares
    (Clopper and Pearson's, and the beta distribution of an order statistic), divided
    among the bins and bounds. Synthetic pictures that look real only lower it.
    """
    from scipy import stats  # lazy

    tail = (1 - CONFIDENCE) / (2 * len(_BINS))
    cuts, best = np.sort(real), 0.0
    for share in _BINS:
        rank = max(1, int(share * len(cuts)))
        count = int((unlabeled <= cuts[rank - 1]).sum())
        of_real = stats.beta.ppf(tail, rank, len(cuts) - rank + 1)
        _, of_unlabeled = threshold.clopper_pearson(count, len(unlabeled), tail)
        best = max(best, float(1 - of_unlabeled / of_real))
    return best
