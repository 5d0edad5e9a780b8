"""What a run takes of memory: its data on the device, and all of it in the host.

Measured in a process of its own, which holds nothing else: it places random images in
the number and size of CIFAR-10's, compiles RSMatch's step, and does a few of them,
without TensorFlow.
"""

import json
import resource
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from rsmatch_jax import terminal
from rsmatch_jax.bench.harness import child as children
from rsmatch_jax.bench.harness import request, results, workload
from rsmatch_jax.bench.harness.results import Limit, number
from rsmatch_jax.data import resident
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.errors import exit_code
from rsmatch_jax.runtime import child as child_process
from rsmatch_jax.runtime import parallel

MB = 1e6
LIMITS = {
    "memory_resident_mb": Limit("MB of data on the device", 200),
    "memory_host_mb": Limit("MB of the host at the peak", 2000),
}
PRESETS = {
    "cpu": {"model.classifier": "wrn_10_1"},
    "gpu": request.PRESETS["gpu"],
}
# The limits were set for these.
RESIDENT_AT = {
    "train.batch_size": 64,
    "train.unlabeled_ratio": 7,
    "data.labels_per_class": 25,
}
HOST_AT = {
    "model.detector": "wrn_10_1",
    "method.rsmatch.individual_models": True,
    "train.batch_size": 64,
    "train.unlabeled_ratio": 7,
    "train.weak_forward": "cat",
}
STEPS = 2  # dispatches
_RSMATCH = {"method.name": "rsmatch"}
CHILD = "import sys; from rsmatch_jax.bench import memory; memory.child(sys.argv)"


def main(argv: list[str]):
    """Measures, shows two tables, and writes --out=FILE.json."""
    content = measure(argv)
    (row,) = content["rows"]
    results.show([_array_row(*item) for item in row["arrays"].items()])
    terminal.say(f"in all {number(row['resident_bytes'] / MB, 1)} MB on the device")
    if row["measured_bytes"] is not None:
        terminal.say(f"the device gave out {number(row['measured_bytes'] / MB, 1)} MB")
    terminal.say(f"buffers within a step: {_megabytes(row['temp_bytes'])} MB")
    results.show([_stage_row(stage) for stage in row["stages"]])
    results.deliver(request.parse(argv, PRESETS), content, LIMITS)


def measure(argv: Sequence[str]) -> dict[str, Any]:
    """The bench's JSON; argv: as of `main`. Raises RequestError or RunFailed where the
    process that measures ends so; it has said why."""
    # Nothing is asked of the device before that process has ended: this one would keep
    # most of a GPU's memory from it.
    request.check(argv, lambda values: None)
    code, text = child_process.output(
        [sys.executable, "-c", CHILD, *request.without(argv[1:], "out")],
        environment={"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},  # so that use shows
    )
    children.require_success(code, "the process that measures")
    row = {"row": "rsmatch", **json.loads(text.splitlines()[-1])}
    asked = request.parse(argv, PRESETS)
    exp = workload.build(asked.config, _RSMATCH, asked.device)
    c, d = asked.config, exp.dims
    terminal.say(
        f"{d.num_labeled} labelled and {d.num_unlabeled} unlabelled images, {STEPS} "
        f"dispatches of RSMatch steps of {d.batch_size} + {d.unlabeled_batch}, "
        f"{c.model.classifier}, {c.model.dtype}, on {asked.device.device_kind}"
    )
    return results.document(asked, "memory", figures(row, asked), [row])


def child(argv: Sequence[str]):
    """Measures this process, and writes one line of JSON to the terminal."""
    stages = [stage("start, packages imported")]

    def measured():
        asked = request.parse(argv, PRESETS)
        exp = workload.build(asked.config, _RSMATCH, asked.device)
        terminal.say(json.dumps(run(exp, stages)))

    sys.exit(exit_code(measured, "nothing was written"))


def run(
    exp: Experiment,
    stages: Sequence[Mapping[str, Any]] = (),
    num_unlabeled: int | None = None,
) -> dict[str, Any]:
    """The row of this process: it places the data, makes the state, and does STEPS.

    stages: those before; num_unlabeled: images instead of as many as the dims say.
    """
    stages = list(stages)
    count = exp.dims.num_unlabeled if num_unlabeled is None else num_unlabeled
    found = resident_columns(exp, count)
    stages.append(stage("data placed, twice, and once let go"))
    feed = workload.resident_feed(exp, count)
    state = jax.block_until_ready(exp.init_state())
    stages.append(stage("state made"))
    memory = feed.compile(state).memory_analysis()
    stages.append(stage("step compiled"))
    for i in range(STEPS):
        state, _ = feed.run(state, i * feed.most, feed.most)
        jax.block_until_ready(state)
        stages.append(stage(f"dispatch {i + 1} done"))
    return {
        **found,
        "temp_bytes": None if memory is None else memory.temp_size_in_bytes,
        "stages": stages,
        "tensorflow": "tensorflow" in sys.modules,
    }


def resident_columns(exp: Experiment, num_unlabeled: int) -> dict[str, Any]:
    """What a run holds on each device beside its state and activations: bytes of each
    array, their sum, and what the device says it gave out (None if it does not say)."""
    d = exp.dims
    before = bytes_in_use(exp.devices[0])
    orders = resident.epoch_orders(
        exp.config.seed,
        0,
        num_labelled=d.num_labeled,
        num_unlabelled=num_unlabeled,
        batch=d.batch_size,
        unlabelled_batch=d.unlabeled_batch,
    )
    data = resident.gather(
        workload.random_task(exp, num_unlabeled),
        exp.views,
        oracle=exp.method.needs_truth,
        unlabelled=True,
    )
    placed = parallel.replicate({"data": data, "orders": orders}, exp.devices)
    del orders, data
    jax.block_until_ready(placed)
    after = bytes_in_use(exp.devices[0])
    arrays = sizes(placed)
    return {
        "arrays": arrays,
        "resident_bytes": sum(arrays.values()),
        "measured_bytes": None if before is None else after - before,
    }


def sizes(tree: Any) -> dict[str, int]:
    """{path: bytes} of the arrays of a tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): int(x.nbytes)
        for path, x in leaves
    }


def bytes_in_use(device: jax.Device) -> int | None:
    """What the device's allocator has given out, None where it does not say."""
    return (device.memory_stats() or {}).get("bytes_in_use")


def stage(name: str) -> dict[str, Any]:
    """{"stage", "bytes" in the host's memory now, "peak_bytes" until now}.

    From Linux's own account of this process: the peak that getrusage tells may be that
    of the process that started it. Elsewhere getrusage, and bytes is None.
    """
    try:
        with open("/proc/self/status") as f:
            lines = dict(line.split(":", 1) for line in f)
        now, peak = (1024 * int(lines[k].split()[0]) for k in ("VmRSS", "VmHWM"))
        peak = max(peak, now)  # the peak is brought up to date now and then
    except (OSError, KeyError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        now, peak = None, peak if sys.platform == "darwin" else 1024 * peak
    return {"stage": name, "bytes": now, "peak_bytes": peak}


def figures(
    row: Mapping[str, Any], asked: request.Request
) -> dict[str, dict[str, Any]]:
    """{ID: figure}: of the data at the batch and labels that the limit was set for, on
    any device; of the host also at its networks: on a CPU those of the preset, on a
    GPU any."""
    found = {}
    if workload.holds(asked.config, RESIDENT_AT):
        value = row["resident_bytes"] / MB
        found["memory_resident_mb"] = LIMITS["memory_resident_mb"].figure(value)
    on_cpu = asked.device.platform == "cpu"
    at = {**HOST_AT, **PRESETS["cpu"], "model.dtype": "float32"} if on_cpu else HOST_AT
    if on_cpu == (asked.preset == "cpu") and workload.holds(asked.config, at):
        peak = max(stage["peak_bytes"] for stage in row["stages"])
        found["memory_host_mb"] = LIMITS["memory_host_mb"].figure(peak / MB)
    return found


def _megabytes(count: int | None) -> str:
    return number(None if count is None else count / MB, 1)


def _array_row(path: str, count: int) -> dict[str, str]:
    return {"on the device": path, "MB": number(count / MB, 3)}


def _stage_row(stage: Mapping[str, Any]) -> dict[str, str]:
    return {
        "the host after": stage["stage"],
        "MB": _megabytes(stage["bytes"]),
        "peak, MB": _megabytes(stage["peak_bytes"]),
    }
