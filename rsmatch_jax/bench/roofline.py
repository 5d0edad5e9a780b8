"""Measures the ceilings of a machine (memory, matrix products, launches), and the
networks' convolutions beside them, one by one."""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rsmatch_jax import terminal
from rsmatch_jax.bench import step
from rsmatch_jax.bench.harness import command_line, frame, timing, workload
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.runtime import compilation

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
DTYPES = ("float32", "bfloat16")  # of convolutions; the first is the second's reference
# Largest error of a bfloat16 result, relative to the largest value: rounding alone
# makes 2^-9.
ERROR_BOUND = 1e-2
LEAST_SECONDS = {"cpu": 0.02, "gpu": 0.03}  # of one program's turn in a round
ROUNDS = 7
SECONDS = 40.0  # to compile convolutions; the smallest ones are left out after that
_OPTIONS = (
    *("window_strides", "padding", "lhs_dilation", "rhs_dilation"),
    *("dimension_numbers", "feature_group_count", "batch_group_count"),
)


@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolution of a network, without dtype; network: the first one that has it.

    lhs, rhs, out: shapes of image, kernel and result. options: of
    `jax.lax.conv_general_dilated`. count: times per train step.
    """

    network: str = dataclasses.field(compare=False)
    lhs: tuple[int, ...]
    rhs: tuple[int, ...]
    out: tuple[int, ...]
    options: tuple[tuple[str, Any], ...]
    count: int = 1

    @property
    def flops(self) -> float:
        """Operations of the forward pass; padding counts as pixels."""
        spec = dict(self.options)["dimension_numbers"].rhs_spec
        taps = math.prod(self.rhs) // self.rhs[spec[0]]
        return 2.0 * math.prod(self.out) * taps

    def apply(self, x: jax.Array, w: jax.Array) -> jax.Array:
        """The forward pass."""
        return jax.lax.conv_general_dilated(x, w, **dict(self.options))

    def __str__(self):
        shapes = ("x".join(map(str, shape)) for shape in (self.lhs, self.rhs))
        stride = dict(self.options)["window_strides"][0]
        return f"{self.network} {' * '.join(shapes)} /{stride}"


def measure(request: frame.Request) -> frame.Measured:
    """Rows of the parts copy, matmul, launch and conv."""
    exp = workload.build(request.config, step.ROWS["rsmatch"], request.device)
    convs, least = convolutions(exp), LEAST_SECONDS[request.preset]
    with jax.default_device(request.device):
        table = _time_machine(request.preset)
        _, rates = ceilings(table)
        table += time_convolutions(convs, rates, least)
    failed = [row["row"] for row in table if row.get("failed")]
    if failed:
        terminal.say(f"failed or not exact enough: {', '.join(failed)}")
    return table, {}


def ceilings(rows: Sequence[frame.Row]) -> tuple[float, dict[str, float]]:
    """(bytes per second that the best of the large copies reads and writes, {dtype:
    FLOP/s of the best product})."""
    products: dict[str, float] = {}
    for r in rows:
        if r["part"] == "matmul":
            best = products.get(r["dtype"], 0.0)
            products[r["dtype"]] = max(best, r["flops_per_second"])
    return max(r["bytes_per_second"] for r in rows if r.get("large")), products


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
    seconds = timing.in_turns(runs, LEAST_SECONDS[preset], ROUNDS)
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


def convolutions(exp: Experiment) -> list[Conv]:
    """The distinct convolutions of a train step's forward passes, largest first."""
    counts = collections.Counter()

    def traced(name, net):
        def apply(params, stats, images, train):
            make = jax.make_jaxpr(net.apply, static_argnums=3)
            jaxpr = make(params, stats, images, train)
            for eqn in _equations(jaxpr.jaxpr):
                if eqn.primitive.name == "conv_general_dilated":
                    shapes = (v.aval.shape for v in (*eqn.invars, *eqn.outvars))
                    options = tuple((key, eqn.params[key]) for key in _OPTIONS)
                    counts[Conv(name, *shapes, options)] += 1
            return net.apply(params, stats, images, train)

        return net._replace(apply=apply)

    nets = {name: traced(name, net) for name, net in exp.nets.items()}
    batch = jax.tree.map(lambda x: x[None], workload.random_batch(exp))
    train_step = dataclasses.replace(exp, nets=nets).train_step()
    jax.eval_shape(train_step, exp.state_shapes(), batch)
    convs = [dataclasses.replace(conv, count=n) for conv, n in counts.items()]
    return sorted(convs, key=lambda conv: -conv.flops)


def _equations(jaxpr: Any) -> Iterator[Any]:
    """Equations of a jaxpr and of all that it calls."""

    def is_jaxpr(value):
        return hasattr(value, "eqns")  # closed or not

    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=is_jaxpr):
            if is_jaxpr(inner):
                yield from _equations(getattr(inner, "jaxpr", inner))


def time_convolutions(
    convs: Sequence[Conv], rates: Mapping[str, float], least_seconds: float
) -> list[frame.Row]:
    """A row per convolution and dtype: forward, input and weight gradient together.

    The first layer has an input gradient here, which training does not need. A program
    that fails, or whose error is above ERROR_BOUND, has the reason as "failed". The
    error is the `workload.difference` from float32's result on the same bfloat16
    numbers. rates: FLOP/s of matrix products, {dtype: rate}.
    """
    rows, runs = [], {}
    most = max(max(math.prod(c.lhs), math.prod(c.out)) for c in convs)
    numbers = np.random.default_rng(0).standard_normal(most, np.float32)
    numbers = numbers.astype(jnp.bfloat16)
    for conv in timing.within(timing.budget_clock() + SECONDS, convs):
        reference = None
        for dtype in DTYPES:
            row: frame.Row = {"row": f"{conv} {dtype}", "part": "conv"}
            row |= {"network": conv.network, "dtype": dtype, "count": conv.count}
            row |= {"lhs": list(conv.lhs), "rhs": list(conv.rhs), "failed": None}
            row["gflop"] = 3 * conv.flops / 1e9  # each gradient costs as much
            rows.append(row)
            try:
                runs[row["row"]], passes = _three_passes(conv, dtype, numbers)
            # Whatever the compiler or a kernel raises is a result.
            except Exception as e:
                row["failed"] = frame.reason(e)
                continue
            if dtype == DTYPES[0]:
                reference = passes
            elif reference is None:
                row["failed"] = f"nothing to compare with: {DTYPES[0]} failed"
            else:
                row["error"] = workload.difference(passes, reference)
                if not row["error"] <= ERROR_BOUND:  # nan, too
                    row["failed"] = f"error {row['error']:.2g} is above {ERROR_BOUND:g}"
    seconds = timing.in_turns(runs, least_seconds, ROUNDS)
    for row in rows:
        if row["row"] in seconds:
            row |= timing.timed(seconds[row["row"]])
            row["flops_per_second"] = speed = 1e12 * row["gflop"] / row["ms"]
            row["matmul_share"] = speed / rates[row["dtype"]]
    return rows


def _three_passes(conv: Conv, dtype: str, numbers: np.ndarray):
    """(run, results) of forward, input and weight gradient, compiled and run once."""

    def passes(x, w, dy):
        y, backward = jax.vjp(conv.apply, x, w)
        return (y, *backward(dy))

    def operand(shape, values):
        return jax.device_put(values[: math.prod(shape)].reshape(shape).astype(dtype))

    args = [operand(shape, numbers) for shape in (conv.lhs, conv.rhs)]
    # The gradient takes its numbers from the other end, so that it differs from x.
    args.append(operand(conv.out, numbers[::-1]))
    platform = jax.local_devices()[0].platform
    compiled = compilation.compiled(jax.jit(passes).lower(*args), platform)
    # Compared on the host: on the device it would be one more program per shape.
    outputs = [np.asarray(x).astype(np.float32, copy=False) for x in compiled(*args)]
    return timing.repeat(compiled, *args), outputs


def _show(rows: Sequence[frame.Row]):
    frame.show(TABLE, [row for row in rows if row["part"] != "conv"])
    frame.show(CONV_TABLE, [row for row in rows if row["part"] == "conv"])


TABLE = ("row", "ms", "bytes_per_second", "flops_per_second")
CONV_TABLE = (
    *("row", "count", "ms", "flops_per_second"),
    *("matmul_share", "error", "failed"),
)
BENCH = frame.Bench("roofline", measure, _show, presets=PRESETS)
