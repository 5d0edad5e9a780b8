"""Times of programs in turns, so that a noisy machine is noisy for all alike."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

Run = Callable[[int], None]  # does so many steps and waits for the last one
Clock = Callable[[], float]


class Spread(NamedTuple):
    """Median and quartiles."""

    median: float
    low: float
    high: float


def spread(values: np.ndarray) -> Spread:
    """Of float [n]; quartiles interpolate linearly."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
    return Spread(float(median), float(low), float(high))


def warm_up(
    run: Run, least_seconds: float, clock: Clock = time.perf_counter
) -> tuple[int, float]:
    """(steps that take at least `least_seconds`, seconds a step), after first steps
    that nobody counts."""
    run(1)
    per_step = _per_step(run, 1, clock)
    if per_step < least_seconds:  # one short step says little: ask more of them
        per_step = _per_step(run, math.ceil(least_seconds / per_step), clock)
    return max(1, math.ceil(least_seconds / per_step)), per_step


def interleave(
    runs: Mapping[str, Run],
    steps: Mapping[str, int],
    rounds: int,
    clock: Clock = time.perf_counter,
) -> dict[str, np.ndarray]:
    """Seconds a step, {name: float64 [rounds]}.

    In every round each program does its `steps`, in an order drawn anew (seeded), so
    that none always follows the same one.
    """
    rng, names = np.random.default_rng(0), list(runs)
    seconds = {name: np.zeros(rounds) for name in names}
    for r in range(rounds):
        for i in rng.permutation(len(names)):
            name = names[i]
            seconds[name][r] = _per_step(runs[name], steps[name], clock)
    return seconds


def ratios(
    seconds: Mapping[str, np.ndarray], reference: str
) -> dict[str, tuple[Spread, Spread]]:
    """{name: (wall time over the reference's, speed over the reference's)}.

    Both over rounds of the ratio within a round: what slows a whole round down cancels.
    """
    base = seconds[reference]
    return {name: (spread(s / base), spread(base / s)) for name, s in seconds.items()}


def _per_step(run: Run, steps: int, clock: Clock) -> float:
    begin = clock()
    run(steps)
    return (clock() - begin) / steps


def repeat(program: Callable, *args: Any) -> Run:
    """Each step runs a JAX program on the same arguments."""

    def run(steps):
        for _ in range(steps):
            last = program(*args)
        jax.block_until_ready(last)

    return run
