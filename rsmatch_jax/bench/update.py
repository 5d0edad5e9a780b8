"""The update of all weights, SGD with momentum and weight decay and then EMA: optax on
trees as in training, against one vector each of weights, momentum and EMA."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rsmatch_jax import optim, terminal
from rsmatch_jax.bench.harness import hlo as hlo_text
from rsmatch_jax.bench.harness import request, results, workload
from rsmatch_jax.bench.harness.results import Limit, interval, number
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.methods.base import StepInputs
from rsmatch_jax.runtime import compilation, parallel
from rsmatch_jax.state import PyTree, TrainState

LIMITS = {"update_equal": Limit("flat / optax difference after 3 steps", 1e-6)}
METHODS = {
    "fixmatch": {"method.name": "fixmatch"},
    "rsmatch": {"method.name": "rsmatch", "method.rsmatch.individual_models": True},
}
TREE, FLAT, JOINED = "optax on trees", "vectors", "vectors, gradients joined"
STEP = "fixmatch step"
WEIGHTS = ("params", "ema")
COMPARED_STEPS = 3
LEAST_SECONDS = {"cpu": 0.05, "gpu": 0.1}  # of one update's turn in a round
ROUNDS = {"update": 15, "step": {"cpu": 5, "gpu": 15}}


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the tensors of a tree lie in one vector. Those under weight decay come
    first, so that the mask of weight decay is a comparison of positions.

    leaves: (position in the tree, offset, shape) in the vector's order; ends: for each
    network, in a row, (its name, whether decayed, where it ends).
    """

    treedef: Any
    leaves: tuple[tuple[int, int, tuple[int, ...]], ...]
    ends: tuple[tuple[str, bool, int], ...]

    @classmethod
    def of(cls, params: PyTree) -> "Layout":
        """params: {network name: tree of arrays, or of their shapes}."""
        masks = jax.tree.leaves(optim.decayed(params))
        flat, treedef = jax.tree_util.tree_flatten_with_path(params)
        items = [
            (not mask, path[0].key, i, leaf.shape)
            for i, ((path, leaf), mask) in enumerate(zip(flat, masks, strict=True))
        ]
        leaves, ends, offset = [], {}, 0
        for rest, network, i, shape in sorted(items):
            leaves.append((i, offset, shape))
            offset += math.prod(shape)
            ends[network, not rest] = offset
        return cls(treedef, tuple(leaves), tuple((*k, end) for k, end in ends.items()))

    def join(self, tree: PyTree) -> jax.Array:
        """The tree's tensors as one vector."""
        flat = jax.tree.leaves(tree)
        return jnp.concatenate([flat[i].reshape(-1) for i, _, _ in self.leaves])

    def split(self, vector: jax.Array) -> PyTree:
        """The tree of a vector, by slices at fixed places."""
        flat: list[Any] = [None] * len(self.leaves)
        for i, offset, shape in self.leaves:
            flat[i] = vector[offset : offset + math.prod(shape)].reshape(shape)
        return jax.tree.unflatten(self.treedef, flat)

    def values(self, of: Callable[[str, bool], float]) -> jax.Array | float:
        """`of(network, decayed)` for every position: a number where all are equal."""
        values = [of(network, decayed) for network, decayed, _ in self.ends]
        if len(set(values)) == 1:
            return values[0]
        position = jax.lax.iota(jnp.int32, self.ends[-1][-1])
        result = jnp.float32(values[-1])
        for value, (*_, end) in reversed(list(zip(values, self.ends, strict=True))):
            result = jnp.where(position < end, jnp.float32(value), result)
        return result


def main(argv: list[str]):
    """Measures, shows a table, and writes --out=FILE.json."""
    asked = request.parse(argv)
    content = measure(asked)
    results.show([_shown(row) for row in content["rows"]])
    results.deliver(asked, content, LIMITS)


def measure(
    asked: request.Request,
    least_seconds: float | None = None,
    rounds: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """The bench's JSON.

    least_seconds: of an update's turn in a round; rounds: {"update": n, "step": n}.
    None for the preset's.
    """
    least = LEAST_SECONDS[asked.preset] if least_seconds is None else least_seconds
    rounds = rounds or {**ROUNDS, "step": ROUNDS["step"][asked.preset]}
    experiments = {
        name: workload.build(asked.config, values, asked.device)
        for name, values in METHODS.items()
    }
    terminal.say(
        "SGD, weight decay and EMA of all weights, alone and in a train step of "
        f"{asked.config.train.batch_size} labelled + "
        f"{experiments['fixmatch'].dims.unlabeled_batch} unlabelled images, "
        f"on {asked.device.device_kind}"
    )
    starts = {name: exp.init_state() for name, exp in experiments.items()}
    table = []
    for name, exp in experiments.items():
        programs = {
            f"{name}: {TREE}": tree_update(exp, starts[name]),
            f"{name}: {FLAT}": flat_update(exp, starts[name], joined=False),
            f"{name}: {JOINED}": flat_update(exp, starts[name], joined=True),
        }
        table += _rows(programs, least, rounds["update"])
    # In whole steps the gradients differ in the order of their sums, too.
    worst = float(np.max([row["difference"] for row in table]))
    found = {"update_equal": LIMITS["update_equal"].figure(worst)}
    steps = {
        f"{STEP}: {TREE}": tree_step(experiments["fixmatch"], starts["fixmatch"]),
        f"{STEP}: {FLAT}": flat_step(experiments["fixmatch"], starts["fixmatch"]),
    }
    table += _rows(steps, 0.0 if asked.preset == "cpu" else least, rounds["step"])
    return results.document(asked, "update", found, table)


class Program:
    """A compiled, donating (state, fixed) -> (state, anything), with a state that is
    nobody else's. weights: state -> {"params": tree, "ema": tree}, for comparisons."""

    def __init__(
        self, one_step: Callable, exp: Experiment, state: PyTree, fixed: PyTree, weights
    ):
        self._state = jax.device_put(state, may_alias=False)
        self._fixed, self._weights = parallel.shard_rows(fixed, exp.devices), weights
        mapped = parallel.map_step(one_step, exp.devices)
        begin = time.perf_counter()
        lowered = mapped.lower(self._state, self._fixed)
        self._compiled = compilation.compiled(lowered, exp.devices[0].platform)
        self._compile_seconds = time.perf_counter() - begin

    def run(self, steps: int):
        for _ in range(steps):
            self._state, rest = self._compiled(self._state, self._fixed)
        jax.block_until_ready((self._state, rest))

    def weights(self) -> PyTree:
        """Params and EMA as they are now, numpy."""
        return jax.device_get(self._weights(self._state))

    def cost(self) -> dict[str, Any]:
        hlo, cost = self._compiled.as_text(), self._compiled.cost_analysis() or {}
        return {
            "compile_seconds": self._compile_seconds,
            **hlo_text.count_kernels(hlo),
            "bytes_accessed": cost.get("bytes accessed"),
            "state_leaves": len(jax.tree.leaves(self._state)),
            "aliased_leaves": hlo_text.aliased_leaves(hlo),
        }


def tree_update(exp: Experiment, start: TrainState) -> Program:
    """The update alone, as `step.make_train_step` does it; fixed gradients."""
    o = exp.config.optim

    def update(state, grads):
        grads = _unstacked(grads)
        updates, opt_state = exp.tx.update(grads, state["opt"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        decay = optim.ema_decay(o.ema_decay, o.ema_warmup, state["step"])
        ema = optim.ema_update(state["ema"], params, decay)
        new = {"params": params, "ema": ema, "opt": opt_state}
        return {**new, "step": state["step"] + 1}, ()

    state = {"params": start.params, "ema": start.ema, "opt": start.opt_state}
    state["step"] = start.step
    grads = _gradients(start.params)
    return Program(
        update, exp, state, grads, lambda state: {k: state[k] for k in WEIGHTS}
    )


def flat_update(exp: Experiment, start: TrainState, joined: bool) -> Program:
    """The same on vectors. joined: gradients come as a tree, as a network gives them,
    and are put into a vector in the program."""
    layout = Layout.of(start.params)
    rule = make_flat_rule(exp, layout)

    def update(state, grads):
        grads = _unstacked(grads)
        return rule(state, layout.join(grads) if joined else grads), ()

    grads = _gradients(start.params)
    if not joined:
        grads = np.asarray(layout.join(_unstacked(grads)))[None]
    state = _vectors(start, layout, exp)
    return Program(update, exp, state, grads, functools.partial(_trees, layout))


def tree_step(exp: Experiment, start: TrainState) -> Program:
    """The train step of `exp` on a fixed batch."""

    def weights(state):
        return {k: getattr(state, k) for k in WEIGHTS}

    return Program(exp.one_step(), exp, start, workload.random_batch(exp), weights)


def flat_step(exp: Experiment, start: TrainState) -> Program:
    """The same train step on a state of vectors. Gradients are taken with respect to
    the tree: with respect to the vector, each would be padded to the vector's length
    and all be summed."""
    layout = Layout.of(start.params)
    rule = make_flat_rule(exp, layout)

    def train_step(state, batch):
        rest, vectors = state
        inputs = StepInputs(
            nets=exp.nets,
            stats=rest["stats"],
            extra=rest["extra"],
            batch=batch,
            key=jax.random.fold_in(rest["key"], vectors["step"]),
            step=vectors["step"],
            axis=parallel.AXIS,
            ema=layout.split(vectors["ema"]) if exp.method.reads_ema else None,
        )
        loss = jax.value_and_grad(
            lambda params: exp.method.loss(params, inputs), has_aux=True
        )
        (_, (stats, extra, metrics)), grads = loss(layout.split(vectors["params"]))
        grads, metrics = parallel.mean((layout.join(grads), metrics))
        if not exp.config.model.sync_bn:
            stats = parallel.mean(stats)
        rest = {"key": rest["key"], "stats": stats, "extra": extra}
        return (rest, rule(vectors, grads)), metrics

    rest = {"key": start.key, "stats": start.stats, "extra": start.extra}
    state = (rest, _vectors(start, layout, exp))

    def weights(state):
        return _trees(layout, state[1])

    return Program(train_step, exp, state, workload.random_batch(exp), weights)


def make_flat_rule(exp: Experiment, layout: Layout) -> Callable[..., PyTree]:
    """(state, gradients float32 [n]) -> state, the recursion of `optim.make` and
    `optim.ema_update` for {"params", "momentum", "ema": float32 [n], "step": int32}."""
    o, overrides = exp.config.optim, exp.method.optimiser()
    rates, decays = {}, {}
    for name in exp.nets:
        options = overrides.get(name, {})
        rates[name] = options.get("learning_rate", o.learning_rate)
        decays[name] = options.get("weight_decay", o.weight_decay)

    def rule(state, grads):
        p, count = state["params"], state["step"]
        wd = layout.values(lambda name, decayed: decays[name] if decayed else 0.0)
        g = grads + wd * p
        momentum = g + o.momentum * state["momentum"]
        direction = g + o.momentum * momentum if o.nesterov else momentum
        factor = optim.cosine_7_16(1.0, exp.config.train.num_steps, o.warmup_steps)
        rate = layout.values(lambda name, _: rates[name]) * factor(count)
        p = p - rate * direction
        decay = optim.ema_decay(o.ema_decay, o.ema_warmup, count)
        return {
            "params": p,
            "momentum": momentum,
            "ema": optim.ema_update(state["ema"], p, decay),
            "step": count + 1,
        }

    return rule


def difference(got: PyTree, want: PyTree) -> float:
    """The largest difference of two trees of arrays, each tensor's over its scale: the
    largest absolute value that it should have. inf where that is 0 and should stay 0;
    nan where one is nan."""
    worst = [0.0]
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        apart, scale = np.abs(a - b).max(), np.abs(b).max()
        if apart != 0:  # nan, too
            worst.append(apart / scale if scale != 0 else np.inf)
    return float(np.max(worst))


def _rows(
    programs: Mapping[str, Program], least_seconds: float, rounds: int
) -> list[dict[str, Any]]:
    """A row a program, compared and timed with the first one."""
    first, costs, differences = next(iter(programs)), {}, {}
    want = None
    for label, program in programs.items():
        costs[label] = program.cost()
        program.run(COMPARED_STEPS)
        got = program.weights()
        want = got if want is None else want
        differences[label] = difference(got, want)
    runs = {label: program.run for label, program in programs.items()}
    seconds = workload.in_turns(runs, least_seconds, rounds)
    return [
        {
            "row": label,
            **results.timed(seconds, label, first),
            **costs[label],
            "difference": differences[label],
        }
        for label in programs
    ]


def _vectors(start: TrainState, layout: Layout, exp: Experiment) -> PyTree:
    params = layout.join(start.params)
    state = {"params": params, "ema": layout.join(start.ema), "step": start.step}
    state["momentum"] = jnp.zeros_like(params)
    return parallel.replicate(state, exp.devices)


def _trees(layout: Layout, state: PyTree) -> PyTree:
    return {name: layout.split(state[name]) for name in WEIGHTS}


def _gradients(params: PyTree) -> PyTree:
    """Noise in the tree's shapes, stacked for one device: numpy [1, ...]."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda p: 1e-2 * rng.standard_normal((1, *p.shape), np.float32), params
    )


def _unstacked(grads: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x[0], grads)


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    moved = row["bytes_accessed"]
    return {
        "update": row["row"],
        "ms": number(row["ms"], 3),
        "quartiles": interval(row["ms_quartiles"], 3),
        "/ optax": number(row["ratio"]),
        "its quartiles": interval(row["ratio_quartiles"]),
        "fusions": str(row["fusions"]),
        "kernels": str(row["kernels"]),
        "MB": number(None if moved is None else moved / 1e6, 1),
        "aliased": f"{row['aliased_leaves']}/{row['state_leaves']}",
        "difference": f"{row['difference']:.1e}",
    }
