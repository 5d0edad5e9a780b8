"""Measures the ceilings of a machine: memory, matrix products, launches.

The convolutions of the networks are timed beside them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rsmatch_jax import terminal
from rsmatch_jax.bench import convolutions
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
ROUNDS = 7


def measure(request: frame.Request) -> frame.Measured:
    """Rows of the parts copy, matmul, launch and conv."""
    rsmatch = {"method.name": "rsmatch", "method.rsmatch.individual_models": True}
    exp = workload.build(request.config, rsmatch, request.device)
    convs = convolutions.of_step(exp)
    terminal.say(
        f"memory, matrix products and {len(convs)} convolutions of "
        f"{request.config.model.classifier} and {request.config.model.detector}, each "
        f"forward, input and weight gradient, on {request.device.device_kind}"
    )
    with jax.default_device(request.device):
        table = _time_machine(request.preset)
        rates = ceilings({"rows": table})["matmul_flops_per_second"]
        table += convolutions.measure(
            convs, rates, LEAST_SECONDS[request.preset], ROUNDS
        )
    failed = [row["row"] for row in table if row.get("failed")]
    if failed:
        terminal.say(f"failed or not exact enough: {', '.join(failed)}")
    return table, {}


def ceilings(content: Mapping[str, Any]) -> dict[str, Any]:
    """The machine's ceilings from the bench's JSON, in medians.

    copy_bytes_per_second: bytes read and written, the best of the large sizes.
    matmul_flops_per_second: {dtype: the best of all sizes}, with "float32_highest"
    where the default precision is lower.
    """
    rows, products = content["rows"], {}
    for r in rows:
        if r["part"] == "matmul":
            best = products.get(r["dtype"], 0.0)
            products[r["dtype"]] = max(best, r["flops_per_second"])
    return {
        "copy_bytes_per_second": max(
            r["bytes_per_second"] for r in rows if r.get("large")
        ),
        "matmul_flops_per_second": products,
    }


def _time_machine(preset: str) -> list[frame.Row]:
    """Rows of copies, products and launches, timed in turns."""
    rows, runs = [], {}
    sizes = COPIED_MIB[preset]
    for mib in sizes:
        label = f"copy {mib} MiB"
        # Negated in place: one kernel reads and writes every byte.
        negate = jax.jit(lambda x: -x, donate_argnums=0)
        runs[label] = _chain(negate, jnp.ones(mib * 2**18, jnp.float32))
        row = {"row": label, "part": "copy", "bytes": 2 * mib * 2**20}
        rows.append({**row, "large": mib in sizes[-LARGE:]})
    for name, (dtype, precision) in PRODUCTS[preset].items():
        for n in MULTIPLIED[preset]:
            label = f"matmul {n} {name}"
            multiply = jax.jit(lambda x, p=precision: jnp.matmul(x, x, precision=p))
            # Random numbers: some chips are faster on ones or zeros.
            x = jax.random.normal(jax.random.key(0), (n, n)).astype(dtype)
            runs[label] = timing.repeat(multiply, x)
            rows.append({"row": label, "part": "matmul", "dtype": name, "n": n})
    increment = jax.jit(lambda x: x + 1, donate_argnums=0)
    runs["launch"] = _chain(increment, jnp.zeros((), jnp.int32))
    runs["launch and wait"] = _chain(increment, jnp.zeros((), jnp.int32), wait=True)
    rows += [{"row": r, "part": "launch"} for r in ("launch", "launch and wait")]
    seconds = timing.in_turns(runs, LEAST_SECONDS[preset], ROUNDS)
    for row in rows:
        row |= timing.columns("ms", 1e3 * seconds[row["row"]])
        if row["part"] == "copy":
            row["bytes_per_second"] = 1e3 * row["bytes"] / row["ms"]
        if row["part"] == "matmul":
            row["flops_per_second"] = 2e3 * row["n"] ** 3 / row["ms"]
    return rows


def _chain(program: Callable, x: jax.Array, wait: bool = False) -> timing.Run:
    """Each step runs on the result of the step before, which is donated."""

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


TABLE = {
    "ceiling": "row",
    "ms": frame.Column("ms", 4),
    "GB/s": frame.Column("bytes_per_second", 3, 1e9),
    "TFLOP/s": frame.Column("flops_per_second", 3, 1e12),
}
BENCH = frame.Bench("roofline", measure, _show, presets=PRESETS)
