"""Times one train step of every method, relative to FixMatch's."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rsmatch_jax import terminal
from rsmatch_jax.bench.harness import frame, timing, workload

REFERENCE = "fixmatch"
# {method: its step's time at most, in those of FixMatch}
AT_MOST = {
    "FlexMatch": 1.25,
    "FreeMatch": 1.25,
    "SoftMatch": 1.1,
    "AdaMatch": 1.1,
    "SimMatch": 1.35,
    "OpenMatch": 1.8,
    "IOMatch": 1.4,
    "SCOMatch": 1.4,
}
_RSMATCH = {
    "method.name": "rsmatch",
    "method.rsmatch.pseudo_label": "fixmatch",
    "method.rsmatch.individual_models": True,
}
ROWS = {
    **{
        name: {"method.name": name}
        for name in (REFERENCE, "supervised", *map(str.lower, AT_MOST))
    },
    "rsmatch": _RSMATCH,
    "rsmatch+flexmatch": {**_RSMATCH, "method.rsmatch.pseudo_label": "flexmatch"},
    "rsmatch+freematch": {**_RSMATCH, "method.rsmatch.pseudo_label": "freematch"},
    "rsmatch individual_models=False": {
        **_RSMATCH,
        "method.rsmatch.individual_models": False,
        "method.rsmatch.detector_learning_rate": None,  # the classifier's optimiser
        "method.rsmatch.detector_weight_decay": None,
    },
}
# Limits were set at these sizes; at other sizes ratios differ.
NETWORKS = {
    "model.classifier": "wrn_28_2",
    "model.detector": "wrn_10_1",
    "train.unlabeled_ratio": 7,
    "train.weak_forward": "cat",
}
TIMED_AT = {
    "cpu": {**NETWORKS, "train.batch_size": 4, "model.dtype": "float32"},
    "gpu": {**NETWORKS, "train.batch_size": 64, "model.dtype": "bfloat16"},
}
COUNTED_AT = {"train.batch_size": 64, "model.dtype": "float32"}  # and NETWORKS
_COUNTED = {"at": {"cpu": NETWORKS}, "any_device": True}
_C4 = {"row": "rsmatch", "at": {"cpu": TIMED_AT["cpu"]}}
_C6 = {"at_least": True, "at": {"cpu": {}}, "any_device": True}
_C7_FIXMATCH = "GFLOP of a FixMatch step of 64 + 448"
LIMITS = {
    "C4": frame.Limit("RSMatch / FixMatch time", 1.25, 1.10, **_C4),
    "C6": frame.Limit("share of state leaves aliased", 1.0, 1.0, **_C6),
    "C7_fixmatch": frame.Limit(_C7_FIXMATCH, 1150, 1136, **_COUNTED),
    "C7": frame.Limit("RSMatch / FixMatch GFLOP", 1.10, 1.063, **_COUNTED),
    **{
        f"step_{name.lower()}": frame.Limit(
            f"{name} / FixMatch time", must, row=name.lower(), at=TIMED_AT
        )
        for name, must in AT_MOST.items()
    },
}
LEAST_SECONDS = {"cpu": 0.0, "gpu": 0.2}  # of one method's turn in a round
ROUNDS = (5, 25)  # at least, at most
TARGET_SECONDS = 120.0  # for all rounds, within these bounds


def measure(request: frame.Request) -> frame.Measured:
    """Times the steps of ROWS, in as many rounds as fit into TARGET_SECONDS."""
    experiments = {
        label: workload.build(request.config, values, request.device)
        for label, values in ROWS.items()
    }
    table, runs, steps, turn = [], {}, {}, 0.0
    for label, exp in experiments.items():
        program = workload.step_program(exp)
        runs[label] = program.run
        steps[label], seconds = timing.warm_up(program.run, LEAST_SECONDS[request.kind])
        turn += steps[label] * seconds
        row: frame.Row = {"row": label, "config": dict(ROWS[label])}
        row["images_per_step"] = workload.images_per_step(exp)
        table.append({**row, **program.cost()})
        terminal.say(f"  {label}: compiled in {program.compile_seconds:.1f} s")
    rounds = int(np.clip(TARGET_SECONDS / turn, *ROUNDS))
    terminal.say(f"{rounds} rounds, about {rounds * turn:.0f} s")
    seconds = timing.interleave(runs, steps, rounds)
    for row in table:
        times, reference = seconds[row["row"]], seconds[REFERENCE]
        row |= timing.timed(times, reference, row["images_per_step"])
        row |= timing.columns("speed_ratio", reference / times)
        row["steps"] = steps[row["row"]] * rounds
    return table, figures(table, counted(request))


def counted(request: frame.Request) -> dict[str, float]:
    """{label: GFLOP} of FixMatch and RSMatch at the paper's batch, without running it;
    empty for networks for which the limits were not set."""
    if request.preset != "cpu" or not request.holds(NETWORKS):
        return {}
    counts: dict[str, Any] = {}
    for label in (REFERENCE, "rsmatch"):
        values = {**ROWS[label], **COUNTED_AT}
        exp = workload.build(request.config, values, request.device)
        counts[label] = workload.gflop(exp)
    return {} if None in counts.values() else counts


def figures(table: list[frame.Row], gflop: Mapping[str, float]) -> frame.Values:
    """{figure ID: value} of the rows and of the GFLOP that `counted` returns."""
    aliased = sum(row["aliased_leaves"] for row in table)
    values = {"C6": aliased / sum(row["state_leaves"] for row in table)}
    if gflop:
        values["C7_fixmatch"] = gflop[REFERENCE]
        values["C7"] = gflop["rsmatch"] / gflop[REFERENCE]
    return values


TABLE = (
    *("row", "ms", "ratio", "steps_per_second", "images_per_second", "gflop"),
    *("bytes_accessed", "temp_bytes", "compile_seconds"),
    *("aliased_leaves", "state_leaves"),
)
_FIXED = {key for values in ROWS.values() for key in values}
BENCH = frame.Bench("step", measure, TABLE, LIMITS, fixed=_FIXED)
