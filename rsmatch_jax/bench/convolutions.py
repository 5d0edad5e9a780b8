"""Times the convolutions of the networks one by one, for `bench roofline`."""

import collections
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rsmatch_jax.bench.harness import frame, timing, workload
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.runtime import compilation

DTYPES = ("float32", "bfloat16")  # the second is compared with the first
# Largest error of a bfloat16 result, relative to the largest value: rounding alone
# makes 2^-9.
ERROR_BOUND = 1e-2
ROUNDS = 7
SECONDS = 40.0  # for compiling; the smallest convolutions are left out after that
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


def of_step(exp: Experiment) -> list[Conv]:
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


def measure(
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
    for conv in timing.within(SECONDS, convs):
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
    seconds = timing.in_turns(runs, least_seconds, ROUNDS) if runs else {}
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


def _equations(jaxpr: Any) -> Iterator[Any]:
    """Equations of a jaxpr and of all that it calls."""

    def is_jaxpr(value):
        return hasattr(value, "eqns")  # closed or not

    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=is_jaxpr):
            if is_jaxpr(inner):
                yield from _equations(getattr(inner, "jaxpr", inner))


TABLE = ("row", "count", "ms", "flops_per_second", "matmul_share", "error", "failed")
