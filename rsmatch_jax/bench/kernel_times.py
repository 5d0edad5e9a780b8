"""Where the time of a train step goes: by class of kernel, and how long none runs.

The step is the one of a run, input and all: images lie on the device, views are made
there. Random images in the number and size of CIFAR-10's.
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
from rsmatch_jax.bench.harness import kernel_trace, request, results, timing, workload
from rsmatch_jax.bench.harness.kernel_trace import Instruction, Kernel
from rsmatch_jax.bench.harness.results import Limit, interval, number
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.errors import RunFailed

METHODS = ("fixmatch", "rsmatch")
LIMITS = {"G10": Limit("idle share of the device, RSMatch", 0.10, 0.03)}
# The limit was set for the step of a run as it is by default, on a GPU.
MEASURED_AT = {
    "model.classifier": "wrn_28_2",
    "model.detector": "wrn_10_1",
    "model.dtype": "bfloat16",
    "train.batch_size": 64,
    "train.unlabeled_ratio": 7,
    "train.weak_forward": "cat",
    "method.rsmatch.individual_models": True,
}
WINDOW_STEPS = {"cpu": 1, "gpu": 100}
WINDOWS = {"cpu": 3, "gpu": 1}  # of a GPU half a million events each
LARGEST = 10  # single kernels to name


def main(argv: list[str]):
    """Measures, shows tables, and writes --out=FILE.json."""
    asked = request.parse(argv)
    content = measure(asked)
    results.show([_shown(row) for row in content["rows"]])
    names = {row["row"]: row for row in content["rows"]}
    results.show(_class_table(names))
    for label, row in names.items():
        terminal.say(f"the largest of {label}:")
        results.show([_kernel_row(k) for k in row["largest"]])
    results.deliver(asked, content, LIMITS)


def measure(
    asked: request.Request,
    methods: Sequence[str] = METHODS,
    num_unlabeled: int = workload.NUM_CLASSES * workload.PER_CLASS,
    windows: int | None = None,
) -> dict[str, Any]:
    """The bench's JSON: each method's windows of steps, profiled in turns.

    num_unlabeled: images to draw from. Raises RunFailed where the profiler tells of no
    kernel.
    """
    on = "cpu" if asked.device.platform == "cpu" else "gpu"
    windows = windows or WINDOWS[on]
    experiments = {
        name: workload.build(asked.config, {"method.name": name}, asked.device)
        for name in methods
    }
    c, steps = asked.config, WINDOW_STEPS[on]
    terminal.say(
        f"{windows} profiled windows of {steps} step(s), {c.train.batch_size} labelled "
        f"+ {c.train.batch_size * c.train.unlabeled_ratio} unlabelled images a step, "
        f"{c.model.classifier}, {c.model.dtype}, on {asked.device.device_kind}"
    )
    if on == "cpu":
        terminal.say(
            "  convolutions run out of a CPU profiler's sight: no idle share, and "
            "classes of the rest alone"
        )
    profiles = {name: Profile(exp, num_unlabeled) for name, exp in experiments.items()}
    for name, profile in profiles.items():
        profile.run(steps)
        terminal.say(f"  {name}: compiled in {profile.compile_seconds:.1f} s")
    seen, seconds = {name: [] for name in methods}, {name: [] for name in methods}
    for _ in range(windows):
        for name, profile in profiles.items():
            begin = time.perf_counter()
            profile.run(steps)
            seconds[name].append((time.perf_counter() - begin) / steps)
            seen[name].append(profile.traced(steps))
    table = [
        {
            "row": name,
            "steps": steps,
            "steps_per_dispatch": profiles[name].feed.most,
            "compile_seconds": profiles[name].compile_seconds,
            **columns(seen[name], profiles[name].program, steps),
            **_without_profiler(seconds[name]),
        }
        | ({"idle_gap": None, "idle_gap_quartiles": None} if on == "cpu" else {})
        for name in methods
    ]
    return results.document(asked, "profile", figures(table, asked), table)


class Profile:
    """The resident step of one method, compiled, with its state."""

    def __init__(self, exp: Experiment, num_unlabeled: int):
        self._exp, self._done = exp, 0
        self.feed = workload.resident_feed(exp, num_unlabeled)
        self._state = jax.block_until_ready(exp.init_state())
        begin = time.perf_counter()
        # A cached program may be one from before its scopes had these names.
        key = "jax_compilation_cache_include_metadata_in_key"
        before = getattr(jax.config, key)
        jax.config.update(key, True)
        try:
            compiled = self.feed.compile(self._state)
        finally:
            jax.config.update(key, before)
        self.compile_seconds = time.perf_counter() - begin
        self.program: dict[str, Instruction] = kernel_trace.instructions(
            compiled.as_text()
        )

    def run(self, steps: int):
        """So many steps, as a run dispatches them; waits for the last."""
        end = self._done + steps
        while self._done < end:
            self._state, dispatched = self.feed.run(
                self._state, self._done, end - self._done
            )
            self._done += dispatched.count
        jax.block_until_ready(self._state)

    def traced(self, steps: int) -> list[Kernel]:
        """The kernels of so many steps."""
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # it would slow the host down
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder, profiler_options=options):
                self.run(steps)
            kernels = kernel_trace.read(folder, self._exp.devices[0].platform)
        if not kernels:
            raise RunFailed(
                "the profiler saw no kernel on "
                f"{self._exp.devices[0].device_kind}; on a GPU it needs CUPTI, and the "
                "right to use performance counters"
            )
        return kernels


def columns(
    windows: Sequence[Sequence[Kernel]],
    program: Mapping[str, Instruction],
    steps: int,
) -> dict[str, Any]:
    """A row's columns from the kernels of windows of `steps` steps each.

    Time in milliseconds a step. That of classes and kernels is their own, summed over
    streams or threads, its medians over windows; so classes may add up to more than
    busy_ms, the time in which any kernel ran.
    """
    gaps = timing.spread(
        np.array([kernel_trace.idle_gap(kernels) for kernels in windows])
    )
    count = np.median([len(kernels) for kernels in windows]) / steps
    by_class = [dict.fromkeys(kernel_trace.CLASSES, 0.0) for _ in windows]
    by_kernel = [collections.Counter() for _ in windows]
    launches, classes = collections.Counter(), {}
    for i, kernels in enumerate(windows):
        for kernel, nanoseconds in kernel_trace.own_times(kernels):
            name = (kernel.name, kernel.op)
            if name not in classes:
                classes[name] = kernel_trace.classify(kernel, program)
            by_class[i][classes[name]] += nanoseconds
            by_kernel[i][name] += nanoseconds
            launches[name] += 1

    def a_step(nanoseconds):
        return float(np.median(nanoseconds)) / 1e6 / steps

    times = {name: a_step([w[name] for w in by_kernel]) for name in classes}
    largest = sorted(times, key=times.__getitem__, reverse=True)[:LARGEST]
    class_times = {
        name: a_step([w[name] for w in by_class]) for name in kernel_trace.CLASSES
    }
    total = math.fsum(class_times.values())
    return {
        "window_ms": a_step([kernel_trace.window(kernels) for kernels in windows]),
        "busy_ms": a_step([kernel_trace.busy(kernels) for kernels in windows]),
        "idle_gap": gaps.median,
        "idle_gap_quartiles": [gaps.low, gaps.high],
        "kernels_per_step": float(count),
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
            for name in largest
        ],
    }


def figures(
    table: Sequence[Mapping[str, Any]], asked: request.Request
) -> dict[str, dict[str, Any]]:
    """{ID: figure}: on a GPU and at the sizes that the limit was set for alone."""
    gpu = asked.preset == "gpu" and asked.device.platform == "gpu"
    if not gpu or not workload.holds(asked.config, MEASURED_AT):
        return {}
    for row in table:
        if row["row"] == "rsmatch":
            # Of a step that nobody watches: under the profiler XLA launches kernels
            # one by one that it otherwise launches together.
            idle = [max(0.0, 1 - row["busy_ms"] / ms) for ms in row["ms_quartiles"]]
            value = max(0.0, 1 - row["busy_ms"] / row["ms"])
            spread = timing.Spread(value, *idle)
            return {"G10": LIMITS["G10"].figure(value, spread)}
    return {}


def _without_profiler(seconds: Sequence[float]) -> dict[str, Any]:
    """ms: of a step that nobody watches. A profiler holds the host up, and then the
    device may wait for it more than it does in a run."""
    return results.wall(timing.spread(np.array(seconds)))


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    idle, spread = row["idle_gap"], row["idle_gap_quartiles"]
    return {
        "method": row["row"],
        "ms/step, not profiled": number(row["ms"]),
        "quartiles": interval(row["ms_quartiles"]),
        "profiled": number(row["window_ms"]),
        "of that busy": number(row["busy_ms"]),
        "idle, %": number(idle and 100 * idle, 1),
        "its quartiles": interval(spread and [100 * x for x in spread], 1),
        "kernels/step": number(row["kernels_per_step"], 0),
        "steps/dispatch": str(row["steps_per_dispatch"]),
    }


def _class_table(rows: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    lines = []
    for name in kernel_trace.CLASSES:
        line = {"class of kernel": name}
        for label, row in rows.items():
            ms, total = row["classes"][name], math.fsum(row["classes"].values())
            line[f"{label}, ms/step"] = number(ms, 3)
            line[f"{label}, %"] = number(100 * ms / total, 1)
        lines.append(line)
    return lines


def _kernel_row(kernel: Mapping[str, Any]) -> dict[str, str]:
    short = kernel["kernel"]
    return {
        "kernel": short if len(short) <= 48 else f"{short[:45]}...",
        "class": kernel["class"],
        "ms/step": number(kernel["ms"], 3),
        "%": number(100 * kernel["share"], 1),
        "a step": number(kernel["launches_per_step"], 1),
    }
