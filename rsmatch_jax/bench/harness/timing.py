"""Times programs in turns, so that noise of the machine hits all of them alike."""

import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rsmatch_jax import terminal

Run = Callable[[int], Any]  # does so many steps and waits for the last one
clock = time.perf_counter  # of programs
budget_clock = time.perf_counter  # of `within`


class Spread(NamedTuple):
    """Median and quartiles."""

    median: float
    low: float
    high: float


def spread(values: Any) -> Spread:
    """Median and linearly interpolated quartiles of float [n]."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
    return Spread(float(median), float(low), float(high))


def columns(name: str, values: Any) -> dict[str, Any]:
    """A row's columns `name` (median) and `name`_quartiles of float [n]."""
    median, low, high = spread(values)
    return {name: median, f"{name}_quartiles": [low, high]}


def timed(
    seconds: np.ndarray, reference: np.ndarray | None = None, images: int | None = None
) -> dict[str, Any]:
    """A row's columns of time from seconds per step, float [rounds]; rates for `images`
    a step. The "ratio" is taken within a round, so that a slow round cancels."""
    result = columns("ms", 1e3 * seconds)
    if reference is not None:
        result |= columns("ratio", seconds / reference)
    if images is not None:
        result["steps_per_second"] = 1e3 / result["ms"]
        result["images_per_second"] = 1e3 * images / result["ms"]
    return result


def repeat(program: Callable, *args: Any) -> Run:
    """A program whose every step calls `program(*args)`."""

    def run(steps):
        for _ in range(steps):
            last = program(*args)
        jax.block_until_ready(last)

    return run


def in_turns(
    runs: Mapping[str, Run],
    least_seconds: float,
    rounds: int,
    units: Mapping[str, int] | None = None,
) -> dict[str, np.ndarray]:
    """Warms programs up and times them; seconds per step, {name: float [rounds]}. Each
    turn takes at least `least_seconds` and a multiple of `units` steps, default 1."""
    steps = {}
    for name, run in runs.items():
        unit = (units or {}).get(name, 1)
        least, _ = warm_up(run, least_seconds)
        steps[name] = unit * math.ceil(least / unit)
    return interleave(runs, steps, rounds)


def warm_up(run: Run, least_seconds: float) -> tuple[int, float]:
    """(steps that take at least `least_seconds`, seconds per step), after a first step
    that does not count."""
    run(1)
    per_step = _per_step(run, 1)
    if per_step < least_seconds:  # one short step is too noisy
        per_step = _per_step(run, math.ceil(least_seconds / per_step))
    return max(1, math.ceil(least_seconds / per_step)), per_step


def interleave(
    runs: Mapping[str, Run], steps: Mapping[str, int], rounds: int
) -> dict[str, np.ndarray]:
    """Seconds per step, {name: float64 [rounds]}; in every round each does its `steps`.
    The order is drawn anew for each round, so that none always follows the same one."""
    rng, names = np.random.default_rng(0), list(runs)
    seconds = {name: np.zeros(rounds) for name in names}
    for r in range(rounds):
        for i in rng.permutation(len(names)):
            name = names[i]
            seconds[name][r] = _per_step(runs[name], steps[name])
    return seconds


def within(end: float, items: Sequence[Any], always: int = 0) -> Generator[Any]:
    """Yields items until `budget_clock` is at `end`, the first `always` in any case.
    Prints the items that were left out."""
    left = list(items)
    try:
        while left and (len(items) - len(left) < always or budget_clock() < end):
            yield left.pop(0)
    finally:  # also where the caller closes the iterator
        if left:
            terminal.say(f"left out: {'; '.join(map(str, left))}")


def _per_step(run: Run, steps: int) -> float:
    begin = clock()
    run(steps)
    return (clock() - begin) / steps
