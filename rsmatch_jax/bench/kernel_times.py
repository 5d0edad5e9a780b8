"""Profiles a train step: time by class of kernel, and how long the device is idle.

The step is a run's, with its input: images lie on the device and views are made there.
"""

import collections
import math
import tempfile
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from rsmatch_jax import terminal
from rsmatch_jax.bench import step
from rsmatch_jax.bench.harness import frame, hlo, kernel_trace, timing, workload
from rsmatch_jax.bench.harness.kernel_trace import Kernel, Source
from rsmatch_jax.errors import RunFailed

METHODS = ("fixmatch", "rsmatch")
MEASURED_AT = {  # the step of a run with default settings
    **step.TIMED_AT["gpu"],
    "method.rsmatch.individual_models": True,
}
_AT = {"row": "rsmatch", "column": "idle_share", "at": {"gpu": MEASURED_AT}}
LIMITS = {"G10": frame.Limit("idle share of the device, RSMatch", 0.10, 0.03, **_AT)}
WINDOW_STEPS = {"cpu": 1, "gpu": 100}  # at least: dispatches are whole
WINDOWS = {"cpu": 3, "gpu": 1}  # on a GPU each has half a million events
LARGEST = 10  # number of single kernels to list


def measure(request: frame.Request) -> frame.Measured:
    """Times windows of steps of both methods in turns, then profiles as many. Raises
    RunFailed if the profiler saw no kernel."""
    # A cached program may be older than the names of the scopes in the source.
    jax.config.update("jax_compilation_cache_include_metadata_in_key", True)
    windows, steps, programs = WINDOWS[request.kind], 0, {}
    for name in METHODS:
        values = {"method.name": name}
        exp = workload.build(request.config, values, request.device)
        programs[name] = program = workload.FeedProgram(exp)
        steps = whole_dispatches(WINDOW_STEPS[request.kind], program.feed.most)
        program.run(steps)
        terminal.say(f"  {name}: compiled in {program.compile_seconds:.1f} s")
    terminal.say(f"{windows} profiled windows of {steps} step(s)")
    if request.kind == "cpu":
        terminal.say(
            "  the profiler does not see convolutions on a CPU, so there is no idle "
            "share, and classes hold the other kernels alone"
        )
    # Without the profiler, which delays the host and thereby the device. Under it XLA
    # also launches kernels one by one that it otherwise launches together.
    runs = {name: program.run for name, program in programs.items()}
    seconds = timing.interleave(runs, dict.fromkeys(runs, steps), windows)
    table = []
    for name, program in programs.items():
        row: frame.Row = {"row": name, "steps": steps}
        row["steps_per_dispatch"] = program.feed.most
        row["compile_seconds"] = program.compile_seconds
        sources = kernel_trace.sources(hlo.Module(program.compiled.as_text()))
        traces = [traced(program, steps, request.device) for _ in range(windows)]
        row |= columns(traces, sources, steps) | timing.timed(seconds[name])
        row |= idle_share(row)
        if request.kind == "cpu":
            row |= dict.fromkeys(k for k in row if k.startswith("idle_"))
        table.append(row)
    return table, {}


def whole_dispatches(steps: int, most: int) -> int:
    """At least so many steps, all of them by the program of `most` steps a dispatch."""
    return most * math.ceil(steps / most)


def traced(program: workload.Program, steps: int, device: jax.Device) -> list[Kernel]:
    """Does so many steps and returns their kernels."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # it would slow the host down
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            program.run(steps)
        kernels = kernel_trace.read(folder, device.platform)
    if not kernels:
        raise RunFailed(
            f"the profiler saw no kernel on {device.device_kind}; on a GPU it needs "
            "CUPTI and the right to use performance counters"
        )
    return kernels


def columns(
    windows: Sequence[Sequence[Kernel]], sources: Mapping[str, Source], steps: int
) -> frame.Row:
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
                classes[name] = kernel_trace.classify(kernel, sources)
            by_name[classes[name]][i] += nanoseconds
            by_name[name][i] += nanoseconds
            launches[name] += 1

    def per_step(nanoseconds):
        return float(np.median(nanoseconds)) / 1e6 / steps

    times = {name: per_step(by_name[name]) for name in classes}
    class_times = {name: per_step(by_name[name]) for name in kernel_trace.CLASSES}
    total = math.fsum(class_times.values())
    busy, window = np.array([kernel_trace.busy_and_window(w) for w in windows]).T
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
                "source": getattr(sources.get(name[1]), "op_name", ""),
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
        frame.show(("class", "ms", "share"), classes)
        largest = [{**k, "kernel": k["kernel"][:48]} for k in row["largest"]]
        frame.show(("kernel", "class", "ms", "share", "launches_per_step"), largest)


TABLE = (
    *("row", "ms", "window_ms", "busy_ms", "idle_gap"),
    *("kernels_per_step", "steps_per_dispatch"),
)
BENCH = frame.Bench("profile", measure, _show, LIMITS)
