"""Dispatches that are under way on the device while the host goes on."""

from collections import deque

import jax

from rsmatch_jax.runs.history import Dispatched

# Enough that the device never waits for the host, few enough that a stop comes soon.
DISPATCHES = 4
STEPS = 16  # beside those of the oldest dispatch


class InFlight:
    """A queue of dispatches; the host waits for the oldest if there are too many.

    Not `ahead`, because the loop pushes into it, counts steps as well as dispatches,
    and empties it before an evaluation.
    """

    def __init__(self, most: int):
        """most: dispatches under way while the next one is made."""
        self._most = most
        self._dispatches: deque[Dispatched] = deque()

    def add(self, dispatched: Dispatched):
        """Adds a dispatch and waits until the limits hold."""
        self._dispatches.append(dispatched)
        while self._dispatches and self._is_too_long():
            jax.block_until_ready(self._dispatches.popleft().metrics)

    def clear(self):
        """Forgets all dispatches, which are done."""
        self._dispatches.clear()

    def _is_too_long(self) -> bool:
        steps = sum(d.count for d in self._dispatches)
        oldest = self._dispatches[0].count
        return len(self._dispatches) > self._most or steps > oldest + STEPS
