"""Times compiling the step at the first start, without a cache, and at the second."""

import dataclasses
import functools
import os
import tempfile
import time
from collections.abc import Sequence

import jax
import numpy as np

from rsmatch_jax import files
from rsmatch_jax.bench import step
from rsmatch_jax.bench.harness import child, command_line, frame, timing, workload
from rsmatch_jax.runtime import compilation

COLD, WARM = "first start", "second start"
_limit = functools.partial(frame.Limit, "compiling, second start / first", row=WARM)
LIMITS = {
    "C11": _limit(0.5, 0.15, at={"cpu": {}}),
    "start_gpu": _limit(0.2, at={"gpu": {}}),
}
PAIRS = {"cpu": 5, "gpu": 1}  # of starts, each with a new cache


def main(argv: Sequence[str]):
    """Runs pairs of starts in child processes; with --cache=DIR, one start."""
    if command_line.check(argv, BENCH.extra).cache:
        dataclasses.replace(BENCH, limits={}).main(argv)
        return
    # No device is touched before the starts end: they may need all of its memory.
    rows = _pairs(command_line.without(argv, "out"))
    dataclasses.replace(BENCH, measure=lambda _: (rows, {})).main(argv)


def measure(request: frame.Request) -> frame.Measured:
    """Compiles RSMatch's step as a run does; the row has the seconds of each part."""
    jax.config.update("jax_compilation_cache_dir", None)
    compilation.use_cache(request.flags["cache"])
    exp = workload.build(request.config, step.ROWS["rsmatch"], request.device)
    begin = time.perf_counter()
    state = jax.block_until_ready(exp.pack(exp.init_state()))
    init = time.perf_counter() - begin
    source = workload.resident_feed(exp)
    source.prepare(0)
    begin = time.perf_counter()
    lowered = source.lower(state)
    trace = time.perf_counter() - begin
    begin = time.perf_counter()
    compilation.all_compiled(lowered, request.device.platform)
    seconds = time.perf_counter() - begin
    row = {"row": "one start", "init_seconds": init, "trace_seconds": trace}
    return [{**row, "compile_seconds": seconds}], {}


def _pairs(flags: Sequence[str]) -> list[frame.Row]:
    """Rows of first and of second starts."""
    starts: dict[str, list[frame.Row]] = {COLD: [], WARM: []}
    # Only the caches of this bench; a GPU's memory is allocated as it is needed.
    environment = {
        "JAX_COMPILATION_CACHE_DIR": "",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "start.json")
        for pair in range(max(PAIRS.values())):
            words = [*flags, f"--cache={os.path.join(folder, str(pair))}"]
            for rows in starts.values():
                child.rerun("start", [*words, f"--out={out}"], environment=environment)
                content = files.read_json(out)
                assert content is not None, "the start has written it"
                rows += content["rows"]
            if pair + 1 == PAIRS[content["preset"]]:
                break

    def seconds(label, part):
        return np.array([row[f"{part}_seconds"] for row in starts[label]])

    cold = seconds(COLD, "compile")
    return [
        {
            "row": label,
            "starts": len(rows),
            "init_seconds": float(np.median(seconds(label, "init"))),
            "trace_seconds": float(np.median(seconds(label, "trace"))),
            **timing.columns("compile_seconds", seconds(label, "compile")),
            **timing.columns("ratio", seconds(label, "compile") / cold),
        }
        for label, rows in starts.items()
    ]


TABLE = ("row", "init_seconds", "trace_seconds", "compile_seconds", "ratio")
# cache: compile once with this cache folder, as one start.
BENCH = frame.Bench("start", measure, TABLE, LIMITS, extra={"cache": None})
