"""Times whole steps as a run takes them, with several steps per dispatch.

The step finds its images and makes its views on the device. Beside it runs the same
step on one fixed batch, which has no input to prepare.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from rsmatch_jax import terminal
from rsmatch_jax.bench import step
from rsmatch_jax.bench.harness import frame, timing, workload
from rsmatch_jax.engine import feed
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.runtime import parallel

FULL = 2**20  # steps of a run of the paper's length
_AT = {"at": {"gpu": {**step.TIMED_AT["gpu"], **workload.VIEWS}}}
_FASTER = {**_AT, "at_least": True}
LIMITS = {
    "G1": frame.Limit("FixMatch steps/s", 100, 160, **_FASTER),
    "G2": frame.Limit("FixMatch TFLOP/s", 114, 182, **_FASTER),
    "G4": frame.Limit("RSMatch / FixMatch steps/s", 0.75, 0.83, **_FASTER),
    "G5": frame.Limit("share of input in a step", 0.10, 0.04, **_AT),
    "G9_fixmatch": frame.Limit("hours for 2^20 steps", 2.9, 1.8, **_AT),
    "G9_rsmatch": frame.Limit("hours for 2^20 steps", 3.9, 2.2, **_AT),
}
DISPATCH, OTHERS = 16, (1, 64)  # steps; FixMatch has rows of the others, too
LEAST_SECONDS = 0.3  # of one row's turn in a round
DISPATCHES = 4  # at least, in a turn, where a dispatch has several steps
ROUNDS = 9


class OneBatch(feed.Feed):
    """Repeats one batch, which lies on the device."""

    def __init__(self, exp: Experiment, most: int):
        super().__init__(exp, feed.repeated(exp.one_step(), most, exp.devices))
        self._batch = parallel.replicate(workload.random_batch(exp), exp.devices)
        self._ranks = parallel.ranks(exp.devices)

    def inputs(self, done):
        return self._batch, self._ranks


def measure(request: frame.Request) -> frame.Measured:
    """Times the programs that compile within --seconds, the most important first."""
    dtype = request.config.model.dtype
    other = "float32" if dtype == "bfloat16" else "bfloat16"
    most, others = (1, ()) if request.kind == "cpu" else (DISPATCH, OTHERS)
    # {label: (row of bench step, dtype, whether it has input, steps a dispatch)}
    programs = {
        "fixmatch": ("fixmatch", dtype, True, most),
        "fixmatch, one batch": ("fixmatch", dtype, False, most),
        "rsmatch": ("rsmatch", dtype, True, most),
        f"fixmatch, {other}": ("fixmatch", other, True, most),
        "rsmatch, one batch": ("rsmatch", dtype, False, most),
        **{f"fixmatch, {n} a dispatch": ("fixmatch", dtype, True, n) for n in others},
    }
    end = timing.budget_clock() + request.flags["seconds"]
    table, runs, units = [], {}, {}
    for label in timing.within(end, list(programs), always=1):
        method, dtype, with_input, size = programs[label]
        values = {**step.ROWS[method], "model.dtype": dtype}
        exp = workload.build(request.config, values, request.device)
        if with_input:
            source = feed.ResidentFeed(exp, workload.random_task(exp), size)
        else:
            source = OneBatch(exp, size)
        program = workload.FeedProgram(exp, source)
        columns = {"method": method, "precision": dtype, "input": with_input}
        columns["images_per_step"] = workload.images_per_step(exp)
        # The operations are of the step alone, before a backend rewrites it.
        columns |= {**program.cost(), "gflop": workload.gflop(exp)}
        runs[label] = program.run
        units[label] = size if size == 1 else DISPATCHES * size
        table.append({"row": label, "steps_per_dispatch": size, **columns})
        terminal.say(f"  {label}: compiled")
    seconds = timing.in_turns(runs, LEAST_SECONDS, ROUNDS, units)
    for row in table:
        times, reference = seconds[row["row"]], seconds["fixmatch"]
        row |= timing.timed(times, reference, row["images_per_step"])
        row["tflops"] = row["gflop"] and row["gflop"] / row["ms"]
    return table, figures(seconds, table)


def figures(
    seconds: Mapping[str, np.ndarray], table: Sequence[frame.Row]
) -> frame.Values:
    """{figure ID: value}; ratios are taken within a round."""
    fix = seconds["fixmatch"]
    values = {"G1": 1 / fix, "G9_fixmatch": FULL * fix / 3600}
    gflop = next(row["gflop"] for row in table if row["row"] == "fixmatch")
    if gflop is not None:
        values["G2"] = gflop / 1e3 / fix
    if "fixmatch, one batch" in seconds:
        values["G5"] = 1 - seconds["fixmatch, one batch"] / fix
    if "rsmatch" in seconds:
        values["G4"] = fix / seconds["rsmatch"]
        values["G9_rsmatch"] = FULL * seconds["rsmatch"] / 3600
    return {name: timing.spread(value) for name, value in values.items()}


TABLE = (
    *("row", "steps_per_dispatch", "ms", "ratio", "steps_per_second"),
    *("images_per_second", "tflops", "aliased_leaves", "state_leaves"),
)
# seconds: after which no program is compiled.
BENCH = frame.Bench("loop", measure, TABLE, LIMITS, extra={"seconds": math.inf})
