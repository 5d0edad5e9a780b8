"""Ends a run whose metrics are no longer finite.

They are checked after each log interval, when its metrics are on the host.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from rsmatch_jax.errors import RunFailed

Steps = Sequence[Mapping[str, float]]


def require_finite(step: int, steps: Steps, last_saved: Callable[[], int | None]):
    """Raises RunFailed with the first metric of `steps` that is NaN or infinite.

    steps: the metrics of the steps up to `step`, on the host. last_saved: returns the
    step of the newest checkpoint, None if there is none.
    """
    for number, values in enumerate(steps, start=step - len(steps) + 1):
        for name, value in values.items():
            if not math.isfinite(value):
                saved = last_saved()
                checkpoint = (
                    "nothing was saved before it"
                    if saved is None
                    else f"the last good checkpoint is of step {saved}"
                )
                raise RunFailed(
                    f"{name} is {value} at step {number}: the run has diverged, and "
                    f"the same start would diverge again; {checkpoint}. Start anew "
                    "with a lower optim.learning_rate or model.dtype=float32, or check "
                    "the data"
                )
