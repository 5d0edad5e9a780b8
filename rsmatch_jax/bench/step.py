"""The cost of one train step of every method, relative to FixMatch's.

All methods are compiled first and then run in turns.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from rsmatch_jax import terminal
from rsmatch_jax.bench.harness import request, results, timing, workload
from rsmatch_jax.bench.harness.results import Limit, interval, number
from rsmatch_jax.engine import config_file
from rsmatch_jax.errors import RequestError

REFERENCE = "fixmatch"
_RSMATCH = {
    "method.name": "rsmatch",
    "method.rsmatch.pseudo_label": "fixmatch",
    "method.rsmatch.individual_models": True,
}
ROWS = {
    REFERENCE: {"method.name": "fixmatch"},
    "supervised": {"method.name": "supervised"},
    "flexmatch": {"method.name": "flexmatch"},
    "freematch": {"method.name": "freematch"},
    "simmatch": {"method.name": "simmatch"},
    "rsmatch": _RSMATCH,
    "rsmatch+flexmatch": {**_RSMATCH, "method.rsmatch.pseudo_label": "flexmatch"},
    "rsmatch+freematch": {**_RSMATCH, "method.rsmatch.pseudo_label": "freematch"},
    "rsmatch individual_models=False": {
        **_RSMATCH,
        "method.rsmatch.individual_models": False,
        "method.rsmatch.detector_learning_rate": None,  # no optimiser of its own
        "method.rsmatch.detector_weight_decay": None,
    },
}
LIMITS = {
    "C4": Limit("RSMatch / FixMatch time", 1.25, 1.10),
    "C6": Limit("share of state leaves aliased", 1.0, 1.0, at_least=True),
    "C7": Limit("RSMatch / FixMatch GFLOP", 1.10, 1.063),
    "C7_fixmatch": Limit("GFLOP of a FixMatch step of 64 + 448", 1150, 1136),
    "step_flexmatch": Limit("FlexMatch / FixMatch time", 1.25),
    "step_freematch": Limit("FreeMatch / FixMatch time", 1.25),
    "step_simmatch": Limit("SimMatch / FixMatch time", 1.35),
}
# Limits were set for these; at other sizes a ratio says something else.
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

LEAST_SECONDS = {"cpu": 0.0, "gpu": 0.2}  # of one method's turn in a round
ROUNDS = (5, 25)  # at least, at most
TARGET_SECONDS = 120.0  # for all rounds, within these bounds


def main(argv: list[str]):
    """Measures, shows two tables, and writes --out=FILE.json."""
    asked = request.parse(argv)
    own = {key for values in ROWS.values() for key in values} & set(
        config_file.override_keys(argv)
    )
    if own:
        raise RequestError(
            f"--config.{min(own)}: the rows of this bench set it; leave it out"
        )
    content = measure(asked, ROWS)
    results.show([_shown(row) for row in content["rows"]])
    results.deliver(asked, content, LIMITS)


def measure(
    asked: request.Request, rows: Mapping[str, Mapping[str, Any]], rounds: int = 0
) -> dict[str, Any]:
    """The bench's JSON for `rows`, {label: config values}, which hold REFERENCE.

    rounds: 0 for as many as fit into TARGET_SECONDS, within ROUNDS.
    """
    experiments = {
        label: workload.build(asked.config, values, asked.device)
        for label, values in rows.items()
    }
    c, device = asked.config, asked.device
    terminal.say(
        f"{c.train.batch_size} labelled + "
        f"{c.train.batch_size * c.train.unlabeled_ratio} unlabelled images a step, "
        f"{c.model.classifier}, {c.model.dtype}, on one of "
        f"{jax.local_device_count()} visible {device.device_kind} device(s)"
    )
    programs, costs, steps, turn = {}, {}, {}, 0.0
    for label, exp in experiments.items():
        programs[label] = workload.Program(exp)
        costs[label] = programs[label].cost()
        least = LEAST_SECONDS["cpu" if device.platform == "cpu" else "gpu"]
        steps[label], seconds = timing.warm_up(programs[label].run, least)
        turn += steps[label] * seconds
        compiled = costs[label]["compile_seconds"]
        terminal.say(f"  {label}: compiled in {compiled:.1f} s")
    rounds = rounds or int(np.clip(TARGET_SECONDS / turn, *ROUNDS))
    terminal.say(f"{rounds} rounds, about {rounds * turn:.0f} s")
    seconds = timing.interleave(
        {label: program.run for label, program in programs.items()}, steps, rounds
    )
    table = [
        {
            "row": label,
            "config": dict(rows[label]),
            "images_per_step": programs[label].images,
            **timed_columns(seconds, label, programs[label].images),
            "steps": steps[label] * rounds,
            **costs[label],
        }
        for label in rows
    ]
    found = figures(table, c, asked.preset, device.platform, counted(asked, rows))
    return results.document(asked, "step", found, table)


def counted(
    asked: request.Request, rows: Mapping[str, Mapping[str, Any]]
) -> dict[str, float]:
    """{label: GFLOP} of FixMatch and RSMatch at the paper's batch, which nothing runs
    here; empty for other networks than the limits are for."""
    if asked.preset != "cpu" or not workload.holds(asked.config, NETWORKS):
        return {}
    found = {
        label: workload.gflop(
            workload.build(asked.config, {**rows[label], **COUNTED_AT}, asked.device)
        )
        for label in (REFERENCE, "rsmatch")
        if label in rows
    }
    return {label: count for label, count in found.items() if count is not None}


def timed_columns(
    seconds: Mapping[str, np.ndarray], label: str, images: int
) -> dict[str, Any]:
    """A row's columns from seconds a step, {label: float [rounds]}: medians over
    rounds with quartiles [low, high]; ratios are taken within a round."""
    columns = results.timed(seconds, label, REFERENCE)
    _, speed = timing.ratios(seconds, REFERENCE)[label]
    rate = 1e3 / columns["ms"]
    return {
        **columns,
        "speed_ratio": speed.median,
        "speed_ratio_quartiles": [speed.low, speed.high],
        "steps_per_second": rate,
        "images_per_second": images * rate,
    }


def figures(
    table: list[dict[str, Any]],
    config: Any,
    preset: str,
    platform: str,
    gflop: Mapping[str, float],
) -> dict[str, dict[str, Any]]:
    """{ID: figure} of what was measured: timed ones on the preset's kind of device and
    at its sizes alone, aliasing at any size. gflop: of `counted`."""
    rows, found = {row["row"]: row for row in table}, {}

    def add(name: str, label: str, column: str):
        if label in rows:
            low_high = rows[label].get(f"{column}_quartiles")
            value = rows[label][column]
            quartiles = low_high and timing.Spread(value, *low_high)
            found[name] = LIMITS[name].figure(value, quartiles)

    on_cpu = platform == "cpu"
    timed = on_cpu == (preset == "cpu") and workload.holds(config, TIMED_AT[preset])
    if preset == "cpu":
        if timed:
            add("C4", "rsmatch", "ratio")
        aliased = sum(row["aliased_leaves"] for row in table)
        share = aliased / sum(row["state_leaves"] for row in table)
        found["C6"] = LIMITS["C6"].figure(share)
        if REFERENCE in gflop:
            found["C7_fixmatch"] = LIMITS["C7_fixmatch"].figure(gflop[REFERENCE])
        if "rsmatch" in gflop:
            share = gflop["rsmatch"] / gflop[REFERENCE]
            found["C7"] = LIMITS["C7"].figure(share)
    if timed:
        for label in ("flexmatch", "freematch", "simmatch"):
            add(f"step_{label}", label, "ratio")
    return found


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    def scaled(key, unit):
        return None if row[key] is None else row[key] / unit

    return {
        "method": row["row"],
        "ms/step": number(row["ms"], 1),
        "quartiles": interval(row["ms_quartiles"], 1),
        "/ FixMatch": number(row["ratio"]),
        "its quartiles": interval(row["ratio_quartiles"]),
        "steps/s": number(row["steps_per_second"]),
        "images/s": number(row["images_per_second"], 0),
        "GFLOP": number(row["gflop"]),
        "GB": number(scaled("bytes_accessed", 1e9)),
        "temp MiB": number(scaled("temp_bytes", 2**20), 0),
        "compile s": number(row["compile_seconds"], 1),
        "aliased": f"{row['aliased_leaves']}/{row['state_leaves']}",
        "collectives": str(row["collectives"]),
    }
