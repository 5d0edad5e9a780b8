"""How long the parts of a run take, and so how long a stop will.

A step on a slow CPU may take half a minute, and a stop waits for what is under way.
"""

import contextlib
import math
import time
from collections.abc import Generator

from rsmatch_jax.metrics import measure
from rsmatch_jax.progress import duration

SLOW = 5.0  # seconds of a dispatch, from which on one beside it keeps the device busy


class Pace:
    """Seconds of the last dispatch, batch of an evaluation, and save; None = not known
    yet. Another thread may read them."""

    def __init__(self):
        self._dispatch: float | None = None
        self._batch: float | None = None
        self._save = 0.0
        self._begun = self._evaluation = 0.0  # the oldest dispatch; an evaluation
        self._batches = 0  # of an evaluation under way
        self._saving = False

    def begin(self):
        """Notes that the device begins a dispatch."""
        self._begun = time.monotonic()

    def done(self, dispatches: int):
        """Notes that the oldest dispatches are done, and the device begins the next."""
        now = time.monotonic()
        self._dispatch, self._begun = (now - self._begun) / dispatches, now

    def ahead(self, most: int) -> int:
        """Returns how many of at most `most` dispatches may wait for another one: few
        if they are slow, because a stop waits for them."""
        if self._dispatch is None:
            return 0
        return most if self._dispatch < SLOW else min(most, 1)

    @contextlib.contextmanager
    def evaluating(self) -> Generator[None]:
        """For the time of an evaluation, which calls `batch` before each batch."""
        self._evaluation = time.monotonic()
        try:
            yield
        finally:
            self._batches = 0

    def batch(self):
        """Counts a batch that begins."""
        done = self._batches - measure.AHEAD
        if done > 0:
            self._batch = (time.monotonic() - self._evaluation) / done
        self._batches += 1

    @contextlib.contextmanager
    def saving(self) -> Generator[None]:
        """For the time of a save."""
        begin, self._saving = time.monotonic(), True
        try:
            yield
        finally:
            self._save, self._saving = time.monotonic() - begin, False

    def until_stopped(self, dispatches: int) -> str:
        """Returns in words what a stop waits for and how long, with a number of
        dispatches under way."""
        what, seconds = "this step", math.nan
        if self._saving:
            what, seconds = "this save", self._save or math.nan
        elif self._batches:
            what = "this batch of the evaluation"
            if self._batch is not None:
                seconds = self._batch * (1 + measure.AHEAD) + self._save
        elif self._dispatch is not None:
            seconds = self._dispatch * max(dispatches, 1) + self._save
        if math.isnan(seconds):
            return f"{what}; how long that takes is not known yet"
        return f"{what}, in about {duration(seconds)}"
