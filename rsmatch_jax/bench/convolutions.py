"""The convolutions of the networks, one by one, against the rate of matrix products."""

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rsmatch_jax import step, terminal
from rsmatch_jax.bench.harness import results, timing, workload
from rsmatch_jax.bench.harness.results import interval, number
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.runtime import compilation

DTYPES = ("float32", "bfloat16")  # the first is what the second is compared with
# Largest error of a bfloat16 result, of the largest value: rounding it takes 2^-9.
ERROR_BOUND = 1e-2
SECONDS = 40.0  # to compile convolutions in; the smallest are left out then


@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolution as a network asks for it; operands without dtype. network: the one
    that has it (the first, if several). count: how often it runs in a train step."""

    network: str = dataclasses.field(compare=False)
    lhs: tuple[int, ...]
    rhs: tuple[int, ...]
    out: tuple[int, ...]
    options: tuple[tuple[str, Any], ...]
    count: int = 1

    @property
    def flops(self) -> float:
        """Operations of the forward pass, padding counted as if it were pixels."""
        spec = dict(self.options)["dimension_numbers"].rhs_spec
        taps = math.prod(self.rhs) // self.rhs[spec[0]]
        return 2.0 * math.prod(self.out) * taps

    def apply(self, x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, w, **dict(self.options))

    def __str__(self):
        return (
            f"{self.network} {'x'.join(map(str, self.lhs))} * "
            f"{'x'.join(map(str, self.rhs))} "
            f"/{dict(self.options)['window_strides'][0]}"
        )


def of_step(exp: Experiment) -> list[Conv]:
    """The distinct convolutions of a train step's forward passes, largest first.

    Found by tracing the step for the images that each network sees, then the networks
    for what they do with them.
    """
    counts: dict[Conv, int] = {}
    for name, shapes in _seen(exp).items():
        net = exp.nets[name]
        for shape in shapes:
            images = jax.ShapeDtypeStruct(shape, jnp.uint8)
            variables = jax.eval_shape(net.init, jax.random.key(0), images)
            jaxpr = jax.make_jaxpr(lambda v, x, net=net: net.apply(*v, x, False))(
                variables, images
            )
            for eqn in _equations(jaxpr.jaxpr):
                if eqn.primitive.name == "conv_general_dilated":
                    conv = _conv(name, eqn)
                    counts[conv] = counts.get(conv, 0) + 1
    found = [dataclasses.replace(conv, count=n) for conv, n in counts.items()]
    return sorted(found, key=lambda conv: -conv.flops)


def measure(
    convs: Sequence[Conv],
    limits: Mapping[str, Any],
    least_seconds: float,
    rounds: int,
    clock: timing.Clock = time.perf_counter,
) -> list[dict[str, Any]]:
    """A row a convolution and dtype: forward, input and weight gradient in one program
    (of the first layer, too, whose input needs no gradient in training).

    limits: of `roofline.ceilings`. A program that fails, or whose error is above
    ERROR_BOUND, is a row with the reason as "failed". Errors are the largest difference
    to float32's result, from the same bfloat16 numbers, over its largest value.
    """
    rows, runs, begin = [], {}, clock()
    most = max(max(math.prod(c.lhs), math.prod(c.out)) for c in convs)
    numbers = np.random.default_rng(0).standard_normal(most, np.float32)
    numbers = numbers.astype(jnp.bfloat16)
    for i, conv in enumerate(convs):
        if clock() - begin > SECONDS:
            left = ", ".join(map(str, convs[i:]))
            terminal.say(f"left out after {SECONDS:.0f} s: {left}")
            break
        reference = None
        for dtype in DTYPES:
            label, failed, error = f"{conv} {dtype}", None, None
            try:
                run, got = _three_passes(conv, dtype, numbers)
                runs[label] = run
                if dtype == DTYPES[0]:
                    reference = got
                elif reference is None:
                    failed = f"nothing to compare with: {DTYPES[0]} failed"
                else:
                    error = _error(got, reference)
                    if not error <= ERROR_BOUND:  # nan, too
                        failed = f"error {error:.2g}, more than {ERROR_BOUND:g}"
            # Whatever the compiler or a kernel raises is an answer.
            except Exception as e:
                failed = f"{type(e).__name__}: {' '.join(str(e).split())[:200]}"
            rows.append(_conv_row(conv, dtype, label, error, failed))
    seconds = workload.in_turns(runs, least_seconds, rounds) if runs else {}
    rates = limits["matmul_flops_per_second"]
    return [{**row, **timed_columns(row, seconds, rates)} for row in rows]


def timed_columns(
    row: Mapping[str, Any],
    seconds: Mapping[str, np.ndarray],
    rates: Mapping[str, float],
) -> dict[str, Any]:
    """The timed columns of a row of `measure`; seconds: {label: [rounds]}; rates:
    FLOP/s of matrix products of each dtype. None for what did not run."""
    if row["row"] not in seconds:
        columns = ("ms", "ms_quartiles", "flops_per_second", "matmul_share")
        return dict.fromkeys(columns)
    wall = timing.spread(seconds[row["row"]])
    speed = 1e9 * row["gflop"] / wall.median
    return {
        **results.wall(wall),
        "flops_per_second": speed,
        "matmul_share": speed / rates[row["dtype"]],
    }


def _three_passes(conv: Conv, dtype: str, numbers: np.ndarray):
    """(run, results) of forward, input and weight gradient, compiled and run once."""

    def passes(x, w, dy):
        y, backward = jax.vjp(conv.apply, x, w)
        return (y, *backward(dy))

    def some(shape, values):
        return jax.device_put(values[: math.prod(shape)].reshape(shape).astype(dtype))

    # The gradient's numbers come from the other end: two tensors, not one twice.
    args = (
        some(conv.lhs, numbers),
        some(conv.rhs, numbers),
        some(conv.out, numbers[::-1]),
    )
    platform = jax.local_devices()[0].platform
    compiled = compilation.compiled(jax.jit(passes).lower(*args), platform)
    # Compared on the host: on the device it would be one more program a shape.
    got = [np.asarray(x).astype(np.float32, copy=False) for x in compiled(*args)]
    return timing.repeat(compiled, *args), got


def _error(got: Sequence[np.ndarray], want: Sequence[np.ndarray]) -> float:
    """Largest difference over largest value, of the worst of several arrays."""
    pairs = zip(got, want, strict=True)
    errors = [np.abs(a - b).max() / np.abs(b).max() for a, b in pairs]
    return float(np.max(errors))  # nan if one is


def _conv_row(
    conv: Conv, dtype: str, label: str, error: float | None, failed: str | None
) -> dict[str, Any]:
    return {
        "row": label,
        "part": "conv",
        "network": conv.network,
        "dtype": dtype,
        "lhs": list(conv.lhs),
        "rhs": list(conv.rhs),
        "count": conv.count,
        "gflop": 3 * conv.flops / 1e9,  # each gradient is as much as the forward pass
        "error": error,
        "failed": failed,
    }


def _seen(exp: Experiment) -> dict[str, list[tuple[int, ...]]]:
    """{network: shapes of the images that one train step shows it}."""
    seen: dict[str, list[tuple[int, ...]]] = {name: [] for name in exp.nets}

    def spied(name, net):
        def apply(params, stats, images, train):
            seen[name].append(images.shape)
            return net.apply(params, stats, images, train)

        return net._replace(apply=apply)

    nets = {name: spied(name, net) for name, net in exp.nets.items()}
    state = jax.eval_shape(
        lambda: step.init_state(exp.method, exp.nets, exp.tx, exp.dims, 0)
    )
    batch = jax.tree.map(lambda x: x[None], workload.random_batch(exp))
    jax.eval_shape(dataclasses.replace(exp, nets=nets).train_step(), state, batch)
    return seen


def _equations(jaxpr: Any) -> Iterator[Any]:
    """Of a jaxpr and of all that it calls."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                yield from _equations(getattr(inner, "jaxpr", inner))


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns")  # closed or not


def _conv(network: str, eqn: Any) -> Conv:
    lhs, rhs = (tuple(v.aval.shape) for v in eqn.invars)
    keys = ("window_strides", "padding", "lhs_dilation", "rhs_dilation")
    keys += ("dimension_numbers", "feature_group_count", "batch_group_count")
    options = tuple((key, eqn.params[key]) for key in keys)
    return Conv(network, lhs, rhs, tuple(eqn.outvars[0].aval.shape), options)


def shown(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "convolution": row["row"],
        "a step": str(row["count"]),
        "ms": number(row["ms"], 3),
        "quartiles": interval(row["ms_quartiles"], 3),
        "TFLOP/s": results.scaled(row["flops_per_second"], 1e12),
        "of matmul's": number(row["matmul_share"]),
        "error": number(row["error"], 5),
        "failed": row["failed"] or "",
    }
