"""Numbers gone bad: what ends a run, and what it is warned of.

Looked at after every log interval, when its metrics have come from the device anyway.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from rsmatch_jax.errors import RunFailed

# An interval of fewer unlabelled images may be of one origin by chance.
FEWEST_IMAGES = 1000

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


def alarms(steps: Steps, *, first: bool, images_a_step: int) -> dict[str, str]:
    """{short name for the progress line: what it means} of one interval of RSMatch;
    empty for methods without a detector.

    first: of the first interval, in which the queue begins to fill. images_a_step:
    unlabelled ones that the detector judges.
    """
    found = {}
    shares = [values.get("detector_synthetic") for values in steps]
    if None in shares or first:
        return found
    for share, word, other in ((0.0, "real", "synthetic"), (1.0, "synthetic", "real")):
        enough = len(steps) * images_a_step >= FEWEST_IMAGES
        if enough and all(s == share for s in shares):
            found[f"detector says all {word}"] = (
                f"the detector called every unlabelled image {word} for a whole log "
                f"interval ({len(steps)} steps): it has collapsed, or no image is "
                f"{other}. See eval/detector_balanced_accuracy; "
                "method.rsmatch.detector_threshold, detector_learning_rate and "
                "queue_length decide how it learns"
            )
    if steps[-1]["queue_fill"] == 0:
        found["queue empty"] = (
            "the CSQueue is still empty after the first log interval, so the detector "
            "learns from real images alone; method.rsmatch.queue_min_score and "
            "queue_min_confidence decide what enters it"
        )
    return found
