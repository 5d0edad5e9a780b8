"""A threshold on scores that keeps a promise about the next real picture."""

import math
from typing import NamedTuple

import numpy as np

INTERVAL = 0.95  # confidence of the interval
FALSE_ALARM = 0.05  # unless somebody chooses another rate


class Threshold(NamedTuple):
    """A picture is called synthetic if its score is above `value`.

    value: None if fewer than `needed` real pictures are held out. interval: of the
    rate of false alarms, by Clopper and Pearson from the held-out pictures above
    `value`; None without one.
    """

    value: float | None
    needed: int
    interval: tuple[float, float] | None


def conformal(real: np.ndarray, false_alarm: float) -> Threshold:
    """Returns the threshold that the next real picture exceeds with a probability of at
    most `false_alarm`, over the draw of the held-out pictures and of the next one.

    It is the order statistic of conformal prediction (Vovk et al. 2005): of n + 1
    exchangeable scores, each is equally likely to be among the highest k.

    Args:
        real: scores of real pictures from models that did not see them, [R].
        false_alarm: above 0 and below 1.
    """
    count = len(real)
    # The tolerance: 0.05 * 20 is one picture in spite of rounding.
    above = math.floor(false_alarm * (count + 1) + 1e-9)
    needed = math.ceil(1 / false_alarm - 1e-9) - 1
    if above < 1:
        return Threshold(None, needed, None)
    value = float(np.sort(real)[count - above])
    interval = clopper_pearson(int((real > value).sum()), count, (1 - INTERVAL) / 2)
    return Threshold(value, needed, interval)


def clopper_pearson(successes: int, count: int, tail: float) -> tuple[float, float]:
    """Returns the exact interval of a binomial share, which misses it on either side
    with a probability of at most `tail`."""
    from scipy import stats  # lazy

    low, high = 0.0, 1.0
    if successes > 0:
        low = float(stats.beta.ppf(tail, successes, count - successes + 1))
    if successes < count:
        high = float(stats.beta.ppf(1 - tail, successes + 1, count - successes))
    return low, high
