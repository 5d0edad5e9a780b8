"""Profiles a train step: time by class of kernel, and how long the device is idle.

The step is a run's, with its input: images lie on the device and views are made there.
Random images in the number and size of CIFAR-10's.
"""

import collections
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from rsmatch_jax import terminal
from rsmatch_jax.bench import step
from rsmatch_jax.bench.harness import frame, hlo, kernel_trace, timing, workload
from rsmatch_jax.bench.harness.kernel_trace import Kernel, Source
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.errors import RunFailed

METHODS = ("fixmatch", "rsmatch")
MEASURED_AT = {  # the step of a run with default settings
    **step.TIMED_AT["gpu"],
    "method.rsmatch.individual_models": True,
}
_AT = {"row": "rsmatch", "column": "idle_share", "at": {"gpu": MEASURED_AT}}
LIMITS = {"G10": frame.Limit("idle share of the device, RSMatch", 0.10, 0.03, **_AT)}
WINDOW_STEPS = {"cpu": 1, "gpu": 100}
WINDOWS = {"cpu": 3, "gpu": 1}  # on a GPU each has half a million events
LARGEST = 10  # number of single kernels to list


def measure(request: frame.Request) -> frame.Measured:
    """Profiles windows of steps of each method, in turns.

    Raises RunFailed if the profiler saw no kernel.
    """
    windows, steps = WINDOWS[request.kind], WINDOW_STEPS[request.kind]
    profiles, seconds = {}, {name: [] for name in METHODS}
    for name in METHODS:
        values = {"method.name": name}
        exp = workload.build(request.config, values, request.device)
        profiles[name] = profile = Profile(exp)
        profile.run(steps)
        terminal.say(f"  {name}: compiled in {profile.compile_seconds:.1f} s")
    terminal.say(
        f"{windows} profiled windows of {steps} step(s), {workload.describe(exp)}"
    )
    if request.kind == "cpu":
        terminal.say(
            "  a CPU profiler does not see convolutions: no idle share, and classes "
            "of the other kernels alone"
        )
    seen = collections.defaultdict(list)
    for _ in range(windows):
        for name, profile in profiles.items():
            begin = time.perf_counter()
            profile.run(steps)
            seconds[name].append((time.perf_counter() - begin) / steps)
            seen[name].append(profile.traced(steps))
    table = []
    for name, profile in profiles.items():
        row = {"row": name, "steps": steps, "steps_per_dispatch": profile.feed.most}
        row["compile_seconds"] = profile.compile_seconds
        row |= columns(seen[name], profile.program, steps)
        # Without the profiler, which delays the host and thereby the device. Under it
        # XLA also launches kernels one by one that it otherwise launches together.
        row |= timing.columns("ms", 1e3 * np.array(seconds[name]))
        row |= idle_share(row)
        if request.kind == "cpu":
            row |= dict.fromkeys(k for k in row if k.startswith("idle_"))
        table.append(row)
    return table, {}


class Profile(workload.FeedProgram):
    """The resident step of one method; program: sources of its instructions."""

    program: dict[str, Source]

    def __init__(self, exp: Experiment):
        # A cached program may be older than the names of its scopes.
        key = "jax_compilation_cache_include_metadata_in_key"
        before = getattr(jax.config, key)
        jax.config.update(key, True)
        try:
            super().__init__(exp, workload.resident_feed(exp))
        finally:
            jax.config.update(key, before)
        module = hlo.Module.parse(self.compiled.as_text())
        self.program = kernel_trace.sources(module)
        self._device = exp.devices[0]

    def traced(self, steps: int) -> list[Kernel]:
        """The kernels of so many steps."""
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # it would slow the host down
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder, profiler_options=options):
                self.run(steps)
            kernels = kernel_trace.read(folder, self._device.platform)
        if not kernels:
            raise RunFailed(
                f"the profiler saw no kernel on {self._device.device_kind}; on a GPU "
                "it needs CUPTI and the right to use performance counters"
            )
        return kernels


def columns(
    windows: Sequence[Sequence[Kernel]], program: Mapping[str, Source], steps: int
) -> dict[str, Any]:
    """A row's columns from the kernels of windows of `steps` steps each.

    Times are medians over windows, in milliseconds per step. Those of classes and
    kernels are summed over streams or threads, without nested kernels. So classes may
    add up to more than busy_ms, the time in which any kernel ran.
    """
    launches, classes = collections.Counter(), {}
    # Of every class and kernel: nanoseconds in each window.
    by_name = collections.defaultdict(lambda: np.zeros(len(windows)))
    for i, kernels in enumerate(windows):
        for kernel, nanoseconds in kernel_trace.self_times(kernels):
            name = (kernel.name, kernel.op)
            if name not in classes:
                classes[name] = kernel_trace.classify(kernel, program)
            by_name[classes[name]][i] += nanoseconds
            by_name[name][i] += nanoseconds
            launches[name] += 1

    def per_step(nanoseconds):
        return float(np.median(nanoseconds)) / 1e6 / steps

    times = {name: per_step(by_name[name]) for name in classes}
    class_times = {name: per_step(by_name[name]) for name in kernel_trace.CLASSES}
    total = math.fsum(class_times.values())
    busy, window = (
        np.array([of(kernels) for kernels in windows])
        for of in (kernel_trace.busy, kernel_trace.window)
    )
    return {
        "window_ms": per_step(window),
        "busy_ms": per_step(busy),
        **timing.columns("idle_gap", 1 - busy / window),
        "kernels_per_step": float(np.median([len(k) for k in windows]) / steps),
        "classes": class_times,
        "largest": [
            {
                "kernel": name[0],
                "instruction": name[1],
                "class": classes[name],
                "source": getattr(program.get(name[1]), "op_name", ""),
                "ms": times[name],
                "share": times[name] / total,
                "launches_per_step": launches[name] / steps / len(windows),
            }
            for name in sorted(times, key=times.__getitem__, reverse=True)[:LARGEST]
        ],
    }


def idle_share(row: frame.Row) -> frame.Row:
    """The columns of the share of an unprofiled step in which no kernel runs."""
    times = (row["ms"], *row["ms_quartiles"])
    value, *quartiles = (max(0.0, 1 - row["busy_ms"] / ms) for ms in times)
    return {"idle_share": value, "idle_share_quartiles": quartiles}


def _show(rows: Sequence[frame.Row]):
    frame.show(TABLE, rows)
    for row in rows:
        terminal.say(f"\n{row['row']}, by class and the largest:")
        total = math.fsum(row["classes"].values())
        classes = [
            {"class": name, "ms": ms, "share": ms / total}
            for name, ms in row["classes"].items()
        ]
        frame.show(CLASSES, classes)
        frame.show(KERNELS, row["largest"])


TABLE = {
    "method": "row",
    "ms/step, not profiled": frame.Column("ms"),
    "profiled": frame.Column("window_ms"),
    "of that busy": frame.Column("busy_ms"),
    "idle, %": frame.Column("idle_gap", 1, 0.01),
    "kernels/step": frame.Column("kernels_per_step", 0),
    "steps/dispatch": frame.Column("steps_per_dispatch", 0),
}
CLASSES = {
    "class of kernel": "class",
    "ms/step": frame.Column("ms", 3),
    "%": frame.Column("share", 1, 0.01),
}
KERNELS = {
    "kernel": lambda row: row["kernel"][:48],
    **CLASSES,
    "per step": frame.Column("launches_per_step", 1),
}
BENCH = frame.Bench("profile", measure, _show, LIMITS)
