"""How far the diffusion model's training and drawing are, and its losses."""

import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

REPORT_SECONDS = 5.0
RECENT = 50  # losses that make the one that is shown


class Progress:
    """Says every few seconds how far a loop is, how fast, and when it ends."""

    def __init__(
        self,
        name: str,
        unit: str,
        total: int,
        say: Callable[[str], None],
        first: int = 0,
    ):
        """first: how much an earlier process has done."""
        self._name, self._unit, self._total, self._say = name, unit, total, say
        self._first = self._done = first
        self._start = self._said = time.monotonic()

    def advance(self, n: int, detail: Callable[[], str] = lambda: ""):
        """Counts n; `detail` is asked only when a line is due."""
        self._done += n
        now = time.monotonic()
        if self._done < self._total and now - self._said < REPORT_SECONDS:
            return
        text = detail()  # may wait for the device, so it comes before the clock
        self._said = time.monotonic()
        passed = max(self._said - self._start, 1e-9)
        rate = (self._done - self._first) / passed
        self._say(
            f"{self._name} {self._done}/{self._total} {self._unit}, {rate:.1f}/s, "
            f"{(self._total - self._done) / rate:.0f} s left"
            + (f", {text}" if text else "")
        )

    def skip_to(self, done: int):
        """Counts as done what took no time because an earlier process did it."""
        self._first += max(0, done - self._done)
        self._done = max(done, self._done)


class Losses:
    """The training's losses, fetched from the device late.

    known: of the steps up to the last fetch, in order; of steps that an earlier process
    took only the last RECENT. pending: device scalars of the steps after.
    """

    def __init__(
        self, learning_rate: float, done: int = 0, known: Sequence[float] = ()
    ):
        self._learning_rate, self._done = learning_rate, done
        self.known = list(known)
        self.pending: list[jax.Array] = []

    def fetch(self):
        """Waits for the pending ones. Raises FloatingPointError where one is not
        finite."""
        values = [float(value) for value in jax.device_get(self.pending)]
        self.pending.clear()
        finite = np.isfinite(values)
        if not finite.all():
            first = self._done + 1 + int(np.argmin(finite))
            raise FloatingPointError(
                f"the loss is not finite from training step {first} on; lower "
                f"--learning_rate (it was {self._learning_rate})"
            )
        self.known += values
        self._done += len(values)

    def recent(self) -> list[float]:
        """The last ones that are known."""
        return self.known[-RECENT:]

    def mean(self) -> float:
        """Mean of the recent ones."""
        return float(np.mean(self.recent()))

    def text(self) -> str:
        """For the progress line; waits for the device."""
        self.fetch()
        return f"loss {self.mean():.4f}"
