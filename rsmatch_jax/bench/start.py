"""Times compiling the step at the first start, without a cache, and at the second."""

import functools
import os
import tempfile
import time
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from rsmatch_jax import files, terminal
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
    # No device is touched before the starts end: they may need all of its memory.
    cache = command_line.check(argv, BENCH.extra).cache
    starts = None if cache else _pairs(command_line.without(argv, "out"))
    request = BENCH.parse(argv)
    if starts is not None:
        BENCH.deliver(request, BENCH.content(request, starts=starts))
        return
    row = _start(request, cache)
    if request.out is not None:
        files.write_json(request.out, {"preset": request.preset, "rows": [row]})


def measure(
    request: frame.Request, starts: Mapping[str, Sequence[Mapping[str, float]]]
) -> frame.Measured:
    """Rows of starts, {COLD: seconds of first starts, WARM: those of second starts}."""
    del request
    cold = np.array([seconds["compile_seconds"] for seconds in starts[COLD]])
    table = []
    for label, rows in starts.items():
        init, trace, compiling = np.array([list(row.values()) for row in rows]).T
        table.append(
            {
                "row": label,
                "starts": len(rows),
                "init_seconds": float(np.median(init)),
                "trace_seconds": float(np.median(trace)),
                **timing.columns("compile_seconds", compiling),
                **timing.columns("ratio", compiling / cold),
            }
        )
    return table, {}


def _pairs(flags: Sequence[str]) -> dict[str, list[dict[str, float]]]:
    starts = {COLD: [], WARM: []}
    # Only the caches of this bench; a GPU's memory is allocated as it is needed.
    environment = {
        "JAX_COMPILATION_CACHE_DIR": "",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    with tempfile.TemporaryDirectory() as folder:
        out, pair, pairs = os.path.join(folder, "start.json"), 0, 1
        while pair < pairs:
            cache = os.path.join(folder, str(pair))
            words = [*flags, f"--cache={cache}", f"--out={out}"]
            for label in starts:
                code = child.run("start", words, environment=environment)
                child.require_success(code, "a start")
                content = files.read_json(out)
                starts[label] += content["rows"]
            pair, pairs = pair + 1, PAIRS[content["preset"]]
    return starts


def _start(request: frame.Request, cache: str) -> dict[str, float]:
    """Compiles RSMatch's step as a run does; returns the seconds of each part."""
    jax.config.update("jax_compilation_cache_dir", None)
    compilation.use_cache(cache)
    exp = workload.build(request.config, step.ROWS["rsmatch"], request.device)
    begin = time.perf_counter()
    state = jax.block_until_ready(exp.init_state())
    init = time.perf_counter() - begin
    source = workload.resident_feed(exp)
    source.prepare(0)
    begin = time.perf_counter()
    lowered = source.lower(state)
    trace = time.perf_counter() - begin
    begin = time.perf_counter()
    compilation.compiled(lowered, request.device.platform)
    seconds = time.perf_counter() - begin
    terminal.say(
        f"  started: first state {init:.1f} s, traced {trace:.1f} s, "
        f"compiled {seconds:.1f} s"
    )
    return {"init_seconds": init, "trace_seconds": trace, "compile_seconds": seconds}


TABLE = {
    "start": "row",
    "first state s": frame.Column("init_seconds"),
    "traced s": frame.Column("trace_seconds"),
    "compiled s": frame.Column("compile_seconds"),
    "/ first": frame.Column("ratio"),
}
# cache: compile once with this cache folder, as one start.
BENCH = frame.Bench("start", measure, TABLE, LIMITS, extra={"cache": None})
