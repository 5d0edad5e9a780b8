"""The training losses of the diffusion model, fetched late."""

from collections.abc import Sequence

import jax
import numpy as np

from rsmatch_jax.errors import RunFailed

RECENT = 50  # losses whose mean is shown


class Losses:
    """The losses, fetched from the device only when they are needed.

    values: losses up to the last fetch; of steps in an earlier process only the last
    RECENT. pending: device scalars of the steps after the last fetch.
    """

    def __init__(
        self, learning_rate: float, done: int = 0, values: Sequence[float] = ()
    ):
        self._learning_rate, self._done = learning_rate, done
        self.values = list(values)
        self.pending: list[jax.Array] = []

    def fetch(self):
        """Waits for the pending losses; raises RunFailed if one is not finite."""
        values = [float(value) for value in jax.device_get(self.pending)]
        self.pending.clear()
        finite = np.isfinite(values)
        if not finite.all():
            first = self._done + 1 + int(np.argmin(finite))
            raise RunFailed(
                f"the loss is not finite from training step {first} on; lower "
                f"--learning_rate (it was {self._learning_rate}) and name another "
                "--out, because that is other training"
            )
        self.values += values
        self._done += len(values)

    def mean(self) -> float:
        """Returns the mean of the recent losses."""
        return float(np.mean(self.values[-RECENT:]))

    def text(self) -> str:
        """Returns the text for the progress line; waits for the device."""
        self.fetch()
        return f"loss {self.mean():.4f}"
