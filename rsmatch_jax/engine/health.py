"""Ends a run whose numbers are no longer finite; a method has alarms of its kind.

Looked at after every log interval, when its metrics have come from the device anyway.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from rsmatch_jax.errors import RunFailed

Steps = Sequence[Mapping[str, float]]


def require_finite(step: int, steps: Steps, last_saved: Callable[[], int | None]):
    """Raises RunFailed, naming the first, if a metric of the last steps is NaN or
    infinite.

    steps: metrics of the steps up to `step`, fetched. last_saved() gives the newest
    checkpoint's step, None for none.
    """
    for number, values in enumerate(steps, start=step - len(steps) + 1):
        for name, value in values.items():
            if not math.isfinite(value):
                saved = last_saved()
                kept = (
                    "nothing was saved before it"
                    if saved is None
                    else f"the last good checkpoint is of step {saved}"
                )
                raise RunFailed(
                    f"{name} is {value} at step {number}: the run has diverged, "
                    f"and would again from the same start; {kept}. Start anew with a "
                    "lower optim.learning_rate or model.dtype=float32, or look at the "
                    "data"
                )
