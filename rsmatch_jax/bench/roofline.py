"""Measures the ceilings of a machine (memory, matrix products, launches), and the
networks' convolutions beside them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rsmatch_jax import terminal
from rsmatch_jax.bench import convolutions, step
from rsmatch_jax.bench.harness import command_line, frame, timing, workload

PRESETS = {
    **command_line.PRESETS,
    "cpu": {"train.batch_size": 2, "train.unlabeled_ratio": 7},
}
COPIED_MIB = {"cpu": (4, 16, 64, 256), "gpu": (64, 256, 1024, 2048)}
LARGE = 2  # number of sizes, from the largest down, that fit into no cache
MULTIPLIED = {"cpu": (1024, 2048), "gpu": (4096, 8192)}
# {name: (dtype, precision)}. XLA's default for float32 is TF32 on GPUs that have it.
_DEFAULT = {"bfloat16": ("bfloat16", None), "float32": ("float32", None)}
PRODUCTS = {
    "cpu": _DEFAULT,
    "gpu": {**_DEFAULT, "float32_highest": ("float32", "highest")},
}
LEAST_SECONDS = {"cpu": 0.02, "gpu": 0.03}  # of one program's turn in a round


def measure(request: frame.Request) -> frame.Measured:
    """Rows of the parts copy, matmul, launch and conv."""
    exp = workload.build(request.config, step.ROWS["rsmatch"], request.device)
    convs = convolutions.of_step(exp)
    least = LEAST_SECONDS[request.preset]
    with jax.default_device(request.device):
        table = _time_machine(request.preset)
        rates = ceilings({"rows": table})["matmul_flops_per_second"]
        table += convolutions.measure(convs, rates, least)
    failed = [row["row"] for row in table if row.get("failed")]
    if failed:
        terminal.say(f"failed or not exact enough: {', '.join(failed)}")
    return table, {}


def ceilings(content: Mapping[str, Any]) -> dict[str, Any]:
    """The machine's ceilings from the bench's JSON: bytes that the best of the large
    copies reads and writes, and {dtype: FLOP/s of the best product}."""
    rows, products = content["rows"], {}
    for r in rows:
        if r["part"] == "matmul":
            best = products.get(r["dtype"], 0.0)
            products[r["dtype"]] = max(best, r["flops_per_second"])
    copies = [r["bytes_per_second"] for r in rows if r.get("large")]
    return {
        "copy_bytes_per_second": max(copies),
        "matmul_flops_per_second": products,
    }


def _time_machine(preset: str) -> list[frame.Row]:
    """Rows of copies, products and launches, timed in turns."""
    rows, runs = [], {}

    def add(label, run, **columns):
        runs[label] = run
        rows.append({"row": label, **columns})

    sizes = COPIED_MIB[preset]
    for mib in sizes:
        # Negated in place: one kernel reads and writes every byte.
        run = _chain(lambda x: -x, jnp.ones(mib * 2**18, jnp.float32))
        columns = {"bytes": 2 * mib * 2**20, "large": mib in sizes[-LARGE:]}
        add(f"copy {mib} MiB", run, part="copy", **columns)
    for name, (dtype, precision) in PRODUCTS[preset].items():
        for n in MULTIPLIED[preset]:
            multiply = jax.jit(lambda x, p=precision: jnp.matmul(x, x, precision=p))
            # Random numbers: some chips are faster on ones or zeros.
            x = jax.random.normal(jax.random.key(0), (n, n)).astype(dtype)
            run = timing.repeat(multiply, x)
            add(f"matmul {n} {name}", run, part="matmul", dtype=name, n=n)
    for label, wait in (("launch", False), ("launch and wait", True)):
        run = _chain(lambda x: x + 1, jnp.zeros((), jnp.int32), wait)
        add(label, run, part="launch")
    seconds = timing.in_turns(runs, LEAST_SECONDS[preset], convolutions.ROUNDS)
    for row in rows:
        row |= timing.timed(seconds[row["row"]])
        if row["part"] == "copy":
            row["bytes_per_second"] = 1e3 * row["bytes"] / row["ms"]
        if row["part"] == "matmul":
            row["flops_per_second"] = 2e3 * row["n"] ** 3 / row["ms"]
    return rows


def _chain(function: Callable, x: jax.Array, wait: bool = False) -> timing.Run:
    """Each step runs on the result of the step before, which is donated."""
    program = jax.jit(function, donate_argnums=0)

    def run(steps):
        nonlocal x
        for _ in range(steps):
            x = program(x)
            if wait:
                jax.block_until_ready(x)
        jax.block_until_ready(x)

    return run


def _show(rows: Sequence[frame.Row]):
    frame.show(TABLE, [row for row in rows if row["part"] != "conv"])
    frame.show(convolutions.TABLE, [row for row in rows if row["part"] == "conv"])


TABLE = ("row", "ms", "bytes_per_second", "flops_per_second")
BENCH = frame.Bench("roofline", measure, _show, presets=PRESETS)
