"""A run's past: its evaluations, best step, time and the metrics of its last steps."""

import contextlib
import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from rsmatch_jax.errors import RunFailed
from rsmatch_jax.metrics import names

MEDIAN_OF = 20  # evaluations, as FixMatch reports


@dataclasses.dataclass(frozen=True)
class Dispatched:
    """Metrics of `count` steps on the device: scalars of one step, or [n >= count]."""

    metrics: dict[str, Any]
    count: int


Pending = list[Dispatched | dict[str, float]]


class Stopwatch:
    """Seconds since it was made, without the pauses."""

    def __init__(self):
        self._start = time.monotonic()

    def read(self) -> float:
        return time.monotonic() - self._start

    @contextlib.contextmanager
    def paused(self) -> Generator[None]:
        """Stops for the block."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self._start += time.monotonic() - begin


@dataclasses.dataclass
class Record:
    """Saved with every checkpoint, so that a resumed run reports as an undisturbed one.

    evaluations: metrics and the step of each. pending: metrics of the steps since the
    last log step. seconds: training time. images_per_second: since the last start that
    took a step. metrics_bytes: length of metrics.jsonl. alarmed: names of past alarms.
    """

    evaluations: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best_step: int | None = None
    seconds: float = 0.0
    images_per_second: float = 0.0
    metrics_bytes: int = 0
    utilisation: float | None = None
    warnings: list[str] = dataclasses.field(default_factory=list)
    alarmed: list[str] = dataclasses.field(default_factory=list)
    pending: Pending = dataclasses.field(default_factory=list)

    def add_evaluation(self, step: int, metrics: dict[str, Any]) -> bool:
        """Adds an evaluation; returns True if it is better than all before."""
        self.evaluations.append({"step": step, **metrics})
        # On the validation images if there are any, else (USB's rule) on the test set;
        # without both there is no best step.
        *earlier, now = (
            e.get("validation_accuracy", e["test_accuracy"]) for e in self.evaluations
        )
        if now is None or (earlier and now <= max(earlier)):
            return False
        self.best_step = step
        return True

    def warn_once(self, alarms: Mapping[str, str], step: int) -> list[str]:
        """Adds and returns a warning for each new alarm of {name: text}."""
        new = [name for name in alarms if name not in self.alarmed]
        warnings = [f"step {step}: {alarms[name]}" for name in new]
        self.alarmed += new
        self.warnings += warnings
        return warnings

    def to_meta(self) -> dict[str, Any]:
        """Returns the record as a JSON-ready dict."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**fields, "pending": per_step(self.pending)}

    @classmethod
    def from_meta(cls, meta: dict[str, Any]) -> "Record":
        """Undoes `to_meta`; raises RunFailed if another version has made `meta`."""
        try:
            return cls(**meta)
        except TypeError as e:
            raise RunFailed(
                f"the checkpoint's record is of another version ({e}): use that "
                "version, or train anew with --overwrite"
            ) from None

    def result(
        self, *, status: str, config: dict[str, Any], step: int, fingerprint: str | None
    ) -> dict[str, Any]:
        """Returns the content of result.json; None for what a method does not have."""
        last = self.evaluations[-1] if self.evaluations else {}
        accuracies = [e["test_accuracy"] for e in self.evaluations[-MEDIAN_OF:]]
        accuracies = [share for share in accuracies if share is not None]
        best = next((e for e in self.evaluations if e["step"] == self.best_step), {})
        return {
            "status": status,
            "method": config["method"]["name"],
            "dataset": config["data"]["name"],
            "seed": config["seed"],
            "steps": step,
            "seconds": self.seconds,
            "test_accuracy": last.get("test_accuracy"),
            names.BEST: best.get("test_accuracy"),
            names.MEDIAN: statistics.median(accuracies) if accuracies else None,
            "best_step": self.best_step,
            "test": {key: last.get(f"test_{key}") for key in names.TEST},
            **{key: last.get(key) for key in names.LAST},
            "known": last.get("known"),
            "utilisation": self.utilisation,
            "images_per_second": self.images_per_second,
            "fingerprint": fingerprint,
            "warnings": self.warnings,
            "config": config,
        }


def per_step(pending: Pending) -> list[dict[str, float]]:
    """Returns one dict per step, in order; waits for the device if need be."""
    dispatches = [p if isinstance(p, Dispatched) else Dispatched(p, 1) for p in pending]
    steps, fetched = [], jax.device_get([d.metrics for d in dispatches])
    for values, dispatched in zip(fetched, dispatches, strict=True):
        columns = {name: np.atleast_1d(v) for name, v in values.items()}
        for i in range(dispatched.count):
            steps.append({name: float(v[i]) for name, v in columns.items()})
    return steps


def interval_means(steps: list[dict[str, float]]) -> dict[str, float]:
    """Returns the mean of each metric over steps, in float64."""
    return {name: float(np.mean([step[name] for step in steps])) for name in steps[0]}


def require_finite(
    step: int,
    steps: Sequence[Mapping[str, float]],
    last_saved: Callable[[], int | None],
):
    """Raises RunFailed with the first metric of the `steps` up to `step` that is NaN or
    infinite. last_saved: returns the step of the newest checkpoint, or None."""
    for number, values in enumerate(steps, start=step - len(steps) + 1):
        for name, value in values.items():
            if math.isfinite(value):
                continue
            saved, checkpoint = last_saved(), "nothing was saved before it"
            if saved is not None:
                checkpoint = f"the last good checkpoint is of step {saved}"
            raise RunFailed(
                f"{name} is {value} at step {number}: the run has diverged, and the "
                f"same start would diverge again; {checkpoint}. Start anew with a "
                "lower optim.learning_rate or model.dtype=float32, or check the data"
            )
