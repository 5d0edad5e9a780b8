"""The ceilings of a machine, measured: memory, matrix products, launches; and how far
the convolutions of the networks stay below them."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rsmatch_jax import terminal
from rsmatch_jax.bench import convolutions
from rsmatch_jax.bench.harness import request, results, timing, workload
from rsmatch_jax.bench.harness.results import interval, number

PRESETS = {
    **request.PRESETS,
    "cpu": {"train.batch_size": 2, "train.unlabeled_ratio": 7},
}
COPIED_MIB = {"cpu": (4, 16, 64, 256), "gpu": (64, 256, 1024, 2048)}
LARGE = 2  # sizes, from the largest down, that no cache holds
MULTIPLIED = {"cpu": (1024, 2048), "gpu": (4096, 8192)}
# Name: dtype and precision. XLA's default for float32 is TF32 on GPUs that have it.
PRODUCTS = {
    "cpu": {"bfloat16": ("bfloat16", None), "float32": ("float32", None)},
    "gpu": {
        "bfloat16": ("bfloat16", None),
        "float32": ("float32", None),
        "float32_highest": ("float32", "highest"),
    },
}
LEAST_SECONDS = {"cpu": 0.02, "gpu": 0.03}  # of one program's turn in a round
ROUNDS = 7
LIMITS: dict[str, results.Limit] = {}


def main(argv: list[str]):
    """Measures, shows two tables, and writes --out=FILE.json."""
    asked = request.parse(argv, PRESETS)
    content = measure(asked)
    for convs in (False, True):
        shown = convolutions.shown if convs else _shown
        rows = [r for r in content["rows"] if (r["part"] == "conv") == convs]
        results.show([shown(row) for row in rows])
    results.deliver(asked, content, LIMITS)


def measure(
    asked: request.Request,
    least_seconds: float | None = None,
    rounds: int = ROUNDS,
    clock: timing.Clock = time.perf_counter,
) -> dict[str, Any]:
    """The bench's JSON; its rows are of the parts copy, matmul, launch and conv.

    least_seconds: of one program's turn in a round, None for the preset's. clock: tells
    when convolutions.SECONDS are over, nothing else.
    """
    least = LEAST_SECONDS[asked.preset] if least_seconds is None else least_seconds
    rsmatch = {"method.name": "rsmatch", "method.rsmatch.individual_models": True}
    convs = convolutions.of_step(workload.build(asked.config, rsmatch, asked.device))
    terminal.say(
        f"memory, matrix products and {len(convs)} convolutions of "
        f"{asked.config.model.classifier} and {asked.config.model.detector}, each "
        f"forward, input and weight gradient, on {asked.device.device_kind}"
    )
    with jax.default_device(asked.device):
        table = _time_machine(asked.preset, least, rounds)
        rates = ceilings({"rows": table})
        table += convolutions.measure(convs, rates, least, rounds, clock)
    failed = [row["row"] for row in table if row.get("failed")]
    if failed:
        terminal.say(f"failed or not exact enough: {', '.join(failed)}")
    return results.document(asked, "roofline", {}, table)


def ceilings(content: Mapping[str, Any]) -> dict[str, Any]:
    """What the machine can do, from the bench's JSON, in medians.

    copy_bytes_per_second: read and written together, the best of the large sizes;
    matmul_flops_per_second: {dtype: the best of all sizes}, with "float32_highest"
    where the default precision is less; launch_seconds: of an empty program.
    """
    rows = content["rows"]
    copies = [r["bytes_per_second"] for r in rows if r["part"] == "copy" and r["large"]]
    products: dict[str, float] = {}
    for r in rows:
        if r["part"] == "matmul":
            best = products.get(r["dtype"], 0.0)
            products[r["dtype"]] = max(best, r["flops_per_second"])
    launch = next(r["ms"] for r in rows if r["row"] == "launch")
    return {
        "copy_bytes_per_second": max(copies),
        "matmul_flops_per_second": products,
        "launch_seconds": launch / 1e3,
    }


def _time_machine(
    preset: str, least_seconds: float, rounds: int
) -> list[dict[str, Any]]:
    """Rows of copies, products and launches, all in turns."""
    rows, runs = [], {}
    sizes = COPIED_MIB[preset]
    for mib in sizes:
        label = f"copy {mib} MiB"
        # Negated in place: a read and a write of every byte, in one kernel.
        negate = jax.jit(lambda x: -x, donate_argnums=0)
        runs[label] = _chain(negate, jnp.ones(mib * 2**18, jnp.float32))
        row = {"row": label, "part": "copy", "bytes": 2 * mib * 2**20}
        rows.append({**row, "large": mib in sizes[-LARGE:]})
    for name, (dtype, precision) in PRODUCTS[preset].items():
        for n in MULTIPLIED[preset]:
            label = f"matmul {n} {name}"
            multiply = jax.jit(lambda x, p=precision: jnp.matmul(x, x, precision=p))
            # Of no ones or zeros: some chips are faster on what switches few bits.
            x = jax.random.normal(jax.random.key(0), (n, n)).astype(dtype)
            runs[label] = timing.repeat(multiply, x)
            rows.append({"row": label, "part": "matmul", "dtype": name, "n": n})
    increment = jax.jit(lambda x: x + 1, donate_argnums=0)
    runs["launch"] = _chain(increment, jnp.zeros((), jnp.int32))
    runs["launch and wait"] = _chain(increment, jnp.zeros((), jnp.int32), wait=True)
    rows += [{"row": r, "part": "launch"} for r in ("launch", "launch and wait")]
    seconds = workload.in_turns(runs, least_seconds, rounds)
    return [{**row, **_machine_columns(row, seconds)} for row in rows]


def _machine_columns(row: Mapping[str, Any], seconds: Mapping[str, np.ndarray]):
    wall = timing.spread(seconds[row["row"]])
    columns = results.wall(wall)
    if row["part"] == "copy":
        columns["bytes_per_second"] = row["bytes"] / wall.median
    if row["part"] == "matmul":
        columns["flops_per_second"] = 2 * row["n"] ** 3 / wall.median
    return columns


def _chain(program: Callable, x: jax.Array, wait: bool = False) -> timing.Run:
    """Each step works on the one before's result, which it is donated."""

    def run(steps):
        nonlocal x
        for _ in range(steps):
            x = program(x)
            if wait:
                jax.block_until_ready(x)
        jax.block_until_ready(x)

    return run


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "ceiling": row["row"],
        "ms": number(row["ms"], 4),
        "quartiles": interval(row["ms_quartiles"], 4),
        "GB/s": results.scaled(row.get("bytes_per_second"), 1e9),
        "TFLOP/s": results.scaled(row.get("flops_per_second"), 1e12),
    }
