"""Measures the memory of a run: its data on the device, and the host's peak.

A fresh process places random images in the number and size of CIFAR-10's, compiles
RSMatch's step and does a few steps, without TensorFlow.
"""

import resource
import sys
from collections.abc import Sequence
from typing import Any

import jax

from rsmatch_jax.bench.harness import command_line, frame, workload
from rsmatch_jax.engine import feed
from rsmatch_jax.engine.experiment import Experiment

MB = 1e6
PRESETS = {**command_line.PRESETS, "cpu": {"model.classifier": "wrn_10_1"}}
RESIDENT_AT = {**workload.PAPER, "data.labels_per_class": 25}
HOST_AT = {
    "model.detector": "wrn_10_1",
    "method.rsmatch.individual_models": True,
    **workload.PAPER,
    "train.weak_forward": "cat",
}
_ON_CPU = {**HOST_AT, **PRESETS["cpu"], "model.dtype": "float32"}
_BOTH = {"cpu": RESIDENT_AT, "gpu": RESIDENT_AT}
LIMITS = {
    "memory_resident_mb": frame.Limit(
        "MB of data on the device", 200, at=_BOTH, any_device=True
    ),
    "memory_host_mb": frame.Limit(  # on a GPU with any classifier
        "MB of the host at the peak", 2000, at={"cpu": _ON_CPU, "gpu": HOST_AT}
    ),
}
STEPS = 2  # dispatches


def measure(request: frame.Request) -> frame.Measured:
    """Measures this process: places the data, makes the state, and does STEPS."""
    stages = [stage("start, packages imported")]
    rsmatch = {"method.name": "rsmatch"}
    exp = workload.build(request.config, rsmatch, request.device)
    source, columns = place_data(exp)
    stages.append(stage("data placed"))
    state = jax.block_until_ready(exp.pack(exp.init_state()))
    stages.append(stage("state made"))
    program = source.compile(state)
    stages.append(stage("step compiled"))
    for i in range(STEPS):
        state, _ = source.run(state, i * source.most, source.most)
        jax.block_until_ready(state)
        stages.append(stage(f"dispatch {i + 1} done"))
    row = {"row": "rsmatch", **columns, "temp_bytes": workload.temp_bytes(program)}
    row |= {"stages": stages, "tensorflow": "tensorflow" in sys.modules}
    values = {"memory_resident_mb": columns["resident_bytes"] / MB}
    values["memory_host_mb"] = max(stage["peak_bytes"] for stage in stages) / MB
    return [row], values


def place_data(exp: Experiment) -> tuple[feed.ResidentFeed, frame.Row]:
    """A run's input and its memory on the device, beside the state and activations.

    arrays: {path: bytes}. resident_bytes: their sum. measured_bytes: what the device's
    allocator reports, None if it reports nothing.
    """

    def bytes_in_use():
        return (exp.devices[0].memory_stats() or {}).get("bytes_in_use")

    before = bytes_in_use()
    source = workload.resident_feed(exp)
    (data, orders), *_ = jax.block_until_ready(source.inputs(0))
    after = bytes_in_use()
    arrays = {
        jax.tree_util.keystr(path, simple=True, separator="."): int(x.nbytes)
        for path, x in jax.tree_util.tree_leaves_with_path(
            {"data": data, "orders": orders}
        )
    }
    return source, {
        "arrays": arrays,
        "resident_bytes": sum(arrays.values()),
        "measured_bytes": None if before is None else after - before,
    }


def stage(name: str) -> dict[str, Any]:
    """The host memory of this process at a stage of a run: {"stage", "bytes",
    "peak_bytes"}. Without Linux's account of it, bytes is None."""
    try:
        with open("/proc/self/status") as f:
            lines = dict(line.split(":", 1) for line in f)
        now, peak = (1024 * int(lines[k].split()[0]) for k in ("VmRSS", "VmHWM"))
        peak = max(peak, now)  # the kernel updates the peak with a delay
    except (OSError, KeyError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        now, peak = None, peak if sys.platform == "darwin" else 1024 * peak
    return {"stage": name, "bytes": now, "peak_bytes": peak}


def _show(rows: Sequence[frame.Row]):
    (row,) = rows
    arrays = [{"array": path, "bytes": n} for path, n in row["arrays"].items()]
    frame.show(("array", "bytes"), arrays)
    frame.show(("row", "resident_bytes", "measured_bytes", "temp_bytes"), rows)
    frame.show(("stage", "bytes", "peak_bytes"), row["stages"])


BENCH = frame.Bench(
    "memory",
    measure,
    _show,
    LIMITS,
    presets=PRESETS,
    # The device's report shows use only if memory is allocated when it is needed.
    rerun=lambda _: {"environment": {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}},
)
