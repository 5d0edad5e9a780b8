"""The losses of the diffusion model's training, fetched late."""

from collections.abc import Sequence

import jax
import numpy as np

RECENT = 50  # losses that make the one that is shown


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
