"""Whole steps as a run takes them: images found and views made inside the step, several
steps a dispatch; beside the same steps on one batch, which cost no input."""

import math
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import flags

from rsmatch_jax import terminal
from rsmatch_jax.bench import step
from rsmatch_jax.bench.harness import request, results, timing, workload
from rsmatch_jax.bench.harness.results import Limit, interval, number
from rsmatch_jax.engine import feed
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.runs.history import Dispatched
from rsmatch_jax.runtime import compilation, parallel
from rsmatch_jax.step import repeat

MEASURED_AT = {**step.TIMED_AT["gpu"], **workload.VIEWS}
FULL = 2**20  # steps of a run of the paper's length
LIMITS = {
    "G1": Limit("FixMatch steps/s", 100, 160, at_least=True),
    "G2": Limit("FixMatch TFLOP/s", 114, 182, at_least=True),
    "G4": Limit("RSMatch / FixMatch steps/s", 0.75, 0.83, at_least=True),
    "G5": Limit("share of input in a step", 0.10, 0.04),
    "G9_fixmatch": Limit("hours for 2^20 steps", 2.9, 1.8),
    "G9_rsmatch": Limit("hours for 2^20 steps", 3.9, 2.2),
}
DISPATCH = (16, 1, 64)  # steps; the first is what everything else takes
LEAST_SECONDS = 0.3  # of one row's turn in a round
DISPATCHES = 4  # of such a turn at least, where there are several steps in each
ROUNDS = 9


class Program:
    """A feed's compiled steps with their state."""

    def __init__(self, exp: Experiment, source: feed.Feed):
        self._feed, self._done = source, 0
        self._state = jax.block_until_ready(exp.init_state())
        self.compiled = source.compile(self._state)
        self.cost = workload.cost(self.compiled, self._state)

    def turns(self, most: int) -> timing.Run:
        """Steps in dispatches of at most so many."""

        def run(steps):
            end = self._done + steps
            while self._done < end:
                room = min(most, end - self._done)
                self._state, made = self._feed.run(self._state, self._done, room)
                self._done += made.count
            jax.block_until_ready((self._state, made.metrics))

        return run


class OneBatch:
    """A Feed of always the same batch, which lies on the device."""

    def __init__(self, exp: Experiment, loop: int | None):
        self.most = loop or 1
        self._loop, self._platform = loop is not None, exp.devices[0].platform
        train_step = exp.one_step()
        program = repeat(train_step, self.most) if self._loop else train_step
        self._step = parallel.map_resident_step(
            program, 2 if self._loop else 1, exp.devices
        )
        self._batch = parallel.replicate(workload.random_batch(exp), exp.devices)
        self._ranks = parallel.ranks(exp.devices)

    def run(self, state, done, room):
        del done
        count = min(room, self.most)
        state, metrics = self._step(state, *self._arguments(count))
        return state, Dispatched(metrics, count)

    def compile(self, state):
        lowered = self._step.lower(state, *self._arguments(1))
        self._step = compilation.compiled(lowered, self._platform)
        return self._step

    def _arguments(self, count):
        if self._loop:
            return self._batch, np.int32(count), self._ranks
        return self._batch, self._ranks


def main(argv: list[str]):
    """Measures, shows two tables, and writes --out=FILE.json."""
    asked = request.parse(argv, define=_define)
    content = measure(asked, seconds_to_compile=asked.values.seconds)
    results.show([_shown(row) for row in content["rows"]])
    results.deliver(asked, content, LIMITS)


def measure(
    asked: request.Request,
    least_seconds: float = LEAST_SECONDS,
    rounds: int = ROUNDS,
    seconds_to_compile: float = math.inf,
    clock: timing.Clock = time.perf_counter,
) -> dict[str, Any]:
    """The bench's JSON. On a CPU one step a dispatch, as in a run.

    seconds_to_compile: after which nothing more is compiled; the rows left out are
    named, the most important ones come first.
    """
    begin = clock()
    c, device = asked.config, asked.device
    on_cpu = device.platform == "cpu"
    loop = None if on_cpu else max(DISPATCH)
    other = "float32" if c.model.dtype == "bfloat16" else "bfloat16"
    terminal.say(
        f"{c.train.batch_size} labelled + "
        f"{c.train.batch_size * c.train.unlabeled_ratio} unlabelled images a step of "
        f"{workload.NUM_CLASSES * workload.PER_CLASS}, {c.model.classifier}, "
        f"{c.model.dtype}, on {device.device_kind}"
    )
    fixmatch, rsmatch = step.ROWS[step.REFERENCE], step.ROWS["rsmatch"]
    programs = {
        "fixmatch": ("fixmatch", c.model.dtype, fixmatch, True),
        "fixmatch, one batch": ("fixmatch", c.model.dtype, fixmatch, False),
        "rsmatch": ("rsmatch", c.model.dtype, rsmatch, True),
        f"fixmatch, {other}": ("fixmatch", other, fixmatch, True),
        "rsmatch, one batch": ("rsmatch", c.model.dtype, rsmatch, False),
    }
    rows, runs, units = [], {}, {}
    for label, (method, dtype, values, with_input) in programs.items():
        if runs and clock() - begin > seconds_to_compile:
            terminal.say(f"  {label}: left out, no time was left to compile it")
            continue
        exp = workload.build(c, {**values, "model.dtype": dtype}, device)
        if with_input:
            source = feed.ResidentFeed(exp, workload.random_task(exp), loop)
        else:
            source = OneBatch(exp, loop)
        program = Program(exp, source)
        columns = {
            "method": method,
            "precision": dtype,
            "input": with_input,
            "images_per_step": exp.dims.batch_size + 2 * exp.dims.unlabeled_batch,
            **program.cost,
            # Of the step alone, and not as a backend has rewritten it.
            "gflop": workload.gflop(exp),
        }
        # One program for all of them: how many steps it does is an argument.
        sizes = (1,) if on_cpu else DISPATCH if label == "fixmatch" else DISPATCH[:1]
        for size in sizes:
            name = label if size == sizes[0] else f"{label}, {size} a dispatch"
            runs[name] = program.turns(size)
            units[name] = size if size == 1 else DISPATCHES * size
            rows.append({"row": name, "steps_per_dispatch": size, **columns})
        terminal.say(f"  {label}: compiled")
    seconds = workload.in_turns(runs, least_seconds, rounds, units)
    table = [{**row, **timed_columns(seconds, row)} for row in rows]
    return results.document(asked, "loop", figures(seconds, table, asked), table)


def timed_columns(
    seconds: Mapping[str, np.ndarray], row: Mapping[str, Any]
) -> dict[str, Any]:
    """A row's columns from seconds a step, {label: float [rounds]}."""
    columns = results.timed(seconds, row["row"], "fixmatch")
    rate = 1e3 / columns["ms"]
    return {
        **columns,
        "steps_per_second": rate,
        "images_per_second": row["images_per_step"] * rate,
        "tflops": row["gflop"] and row["gflop"] / 1e3 * rate,
    }


def figures(
    seconds: Mapping[str, np.ndarray],
    table: list[dict[str, Any]],
    asked: request.Request,
) -> dict[str, dict[str, Any]]:
    """{ID: figure}: on a GPU and at the sizes that the limits were set for alone.

    Ratios are of a round's own times.
    """
    on_gpu = asked.preset == "gpu" and asked.device.platform == "gpu"
    if not on_gpu or not workload.holds(asked.config, MEASURED_AT):
        return {}
    gflop = {row["row"]: row["gflop"] for row in table}
    fix = seconds["fixmatch"]
    found = {"G1": 1 / fix, "G9_fixmatch": FULL * fix / 3600}
    if gflop["fixmatch"] is not None:
        found["G2"] = gflop["fixmatch"] / 1e3 / fix
    if "fixmatch, one batch" in seconds:
        found["G5"] = 1 - seconds["fixmatch, one batch"] / fix
    if "rsmatch" in seconds:
        found["G4"] = fix / seconds["rsmatch"]
        found["G9_rsmatch"] = FULL * seconds["rsmatch"] / 3600
    spreads = {name: timing.spread(values) for name, values in found.items()}
    return {name: LIMITS[name].figure(s.median, s) for name, s in spreads.items()}


def _define(values: flags.FlagValues):
    flags.DEFINE_float(
        "seconds", math.inf, "After which no row is begun.", flag_values=values
    )


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "steps": row["row"],
        "a dispatch": str(row["steps_per_dispatch"]),
        "ms/step": number(row["ms"]),
        "quartiles": interval(row["ms_quartiles"]),
        "/ FixMatch": number(row["ratio"]),
        "its quartiles": interval(row["ratio_quartiles"]),
        "steps/s": number(row["steps_per_second"]),
        "images/s": number(row["images_per_second"], 0),
        "TFLOP/s": number(row["tflops"]),
        "aliased": f"{row['aliased_leaves']}/{row['state_leaves']}",
    }
