"""What a start costs: the step compiled by a process that finds no compilation cache,
and by one that finds its."""

import json
import os
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import flags

from rsmatch_jax import files, terminal
from rsmatch_jax.bench import step
from rsmatch_jax.bench.harness import child, request, results, timing, workload
from rsmatch_jax.bench.harness.results import Limit, interval, number
from rsmatch_jax.runtime import compilation

COLD, WARM = "first start", "second start"
LIMITS = {
    "C11": Limit("compiling, second start / first", 0.5, 0.15),
    "start_gpu": Limit("compiling, second start / first", 0.2),
}
PAIRS = {"cpu": 5, "gpu": 1}  # of starts, each with a cache of its own


def main(argv: list[str]):
    """Measures, shows two tables, and writes --out=FILE.json. With --cache=DIR it is
    one of the starts that are measured."""
    # Not a word to the device before the starts are over: it may be theirs alone.
    _, values = request.check(argv, _define)
    if values.cache is not None:
        _start(request.parse(argv, define=_define), values.cache)
        return
    own = request.without(argv[1:], "out")
    starts = {COLD: [], WARM: []}
    with tempfile.TemporaryDirectory() as folder:
        pair, pairs = 0, 1
        while pair < pairs:
            for label in (COLD, WARM):
                made = _measured(own, folder, pair)
                starts[label].append(made["rows"][0])
            pair, pairs = pair + 1, PAIRS[made["preset"]]
    asked = request.parse(argv, define=_define)
    table = [_row(label, rows, starts[COLD]) for label, rows in starts.items()]
    content = results.document(asked, "start", figures(table, asked), table)
    results.show([_shown(row) for row in table])
    results.deliver(asked, content, LIMITS)


def figures(
    table: list[dict[str, Any]], asked: request.Request
) -> dict[str, dict[str, Any]]:
    """{ID: figure}, on the preset's kind of device alone, at any sizes."""
    if asked.device.platform != asked.preset:
        return {}
    row = next(row for row in table if row["row"] == WARM)
    quartiles = timing.Spread(row["ratio"], *row["ratio_quartiles"])
    name = "C11" if asked.preset == "cpu" else "start_gpu"
    return {name: LIMITS[name].figure(row["ratio"], quartiles)}


def _measured(own: list[str], folder: str, pair: int) -> dict[str, Any]:
    out, cache = os.path.join(folder, "start.json"), os.path.join(folder, str(pair))
    flags_ = [*own, f"--cache={cache}", f"--out={out}"]
    # The place that this bench names and no other; a GPU's memory as it is needed.
    environment = {
        "JAX_COMPILATION_CACHE_DIR": "",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    child.require_success(
        child.run("start", flags_, environment=environment), "a start"
    )
    with open(out) as f:
        return json.load(f)


def _start(asked: request.Request, cache: str):
    """Compiles RSMatch's step as a run does, once, and writes how long it took."""
    jax.config.update("jax_compilation_cache_dir", None)
    compilation.use_cache(cache)
    exp = workload.build(asked.config, step.ROWS["rsmatch"], asked.device)
    begin = time.perf_counter()
    state = jax.block_until_ready(exp.init_state())
    init = time.perf_counter() - begin
    source = workload.resident_feed(exp)
    source.prepare(0)
    begin = time.perf_counter()
    lowered = source.lower(state)
    trace = time.perf_counter() - begin
    begin = time.perf_counter()
    compilation.compiled(lowered, asked.device.platform)
    compiling = time.perf_counter() - begin
    row = {"init_seconds": init, "trace_seconds": trace, "compile_seconds": compiling}
    terminal.say(
        f"  started: first state {init:.1f} s, traced {trace:.1f} s, "
        f"compiled {compiling:.1f} s"
    )
    if asked.out is not None:
        files.write_json(asked.out, results.document(asked, "start", {}, [row]))


def _row(
    label: str, rows: list[Mapping[str, float]], cold: list[Mapping[str, float]]
) -> dict[str, Any]:
    def of(column):
        return np.array([row[column] for row in rows])

    compiling = timing.spread(of("compile_seconds"))
    ratio = timing.spread(
        of("compile_seconds") / np.array([row["compile_seconds"] for row in cold])
    )
    return {
        "row": label,
        "starts": len(rows),
        "init_seconds": float(np.median(of("init_seconds"))),
        "trace_seconds": float(np.median(of("trace_seconds"))),
        "compile_seconds": compiling.median,
        "compile_seconds_quartiles": [compiling.low, compiling.high],
        "ratio": ratio.median,
        "ratio_quartiles": [ratio.low, ratio.high],
    }


def _define(values: flags.FlagValues):
    flags.DEFINE_string(
        "cache", None, "Compile once against this cache folder.", flag_values=values
    )


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "start": row["row"],
        "first state s": number(row["init_seconds"]),
        "traced s": number(row["trace_seconds"]),
        "compiled s": number(row["compile_seconds"]),
        "quartiles": interval(row["compile_seconds_quartiles"]),
        "/ first": number(row["ratio"]),
        "its quartiles": interval(row["ratio_quartiles"]),
    }
