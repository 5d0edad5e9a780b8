"""Metrics that end a run, and those that it is warned of.

They are checked after each log interval, when its metrics are on the host.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from rsmatch_jax.errors import RunFailed

# In a shorter interval all unlabelled images may be of one origin by chance.
FEWEST_IMAGES = 1000

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


def alarms(steps: Steps, *, first: bool, images_a_step: int) -> dict[str, str]:
    """Returns {short name for the progress line: meaning} for one log interval.

    Methods without a detector have no alarms. first: whether the interval is the first
    one, in which the queue begins to fill. images_a_step: unlabelled images that the
    detector judges each step.
    """
    raised = {}
    shares = [values.get("detector_synthetic") for values in steps]
    if None in shares or first:
        return raised
    for share, word, other in ((0.0, "real", "synthetic"), (1.0, "synthetic", "real")):
        enough = len(steps) * images_a_step >= FEWEST_IMAGES
        if enough and all(s == share for s in shares):
            raised[f"detector says all {word}"] = (
                f"the detector called every unlabelled image {word} for a whole log "
                f"interval ({len(steps)} steps): it has collapsed, or no image is "
                f"{other}. See eval/detector_balanced_accuracy; "
                "method.rsmatch.detector_threshold, detector_learning_rate and "
                "queue_length decide how it learns"
            )
    if steps[-1]["queue_fill"] == 0:
        raised["queue empty"] = (
            "the CSQueue is still empty after the first log interval, so the detector "
            "learns only from real images; method.rsmatch.queue_min_score and "
            "queue_min_confidence decide what enters it"
        )
    return raised
