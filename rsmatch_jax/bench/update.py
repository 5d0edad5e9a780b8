"""Times the update of all weights: SGD with momentum and weight decay, then EMA.

optax on trees, as in training, runs beside one vector each of weights, momentum and
EMA.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rsmatch_jax import optim, terminal
from rsmatch_jax.bench.harness import frame, timing, workload
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.methods.base import StepInputs
from rsmatch_jax.runtime import parallel
from rsmatch_jax.state import PyTree, TrainState

LIMITS = {
    "update_equal": frame.Limit(
        "flat / optax difference after 3 steps", 1e-6, any_device=True
    )
}
METHODS = {
    "fixmatch": {"method.name": "fixmatch"},
    "rsmatch": {"method.name": "rsmatch", "method.rsmatch.individual_models": True},
}
TREE, FLAT, JOINED = "optax on trees", "vectors", "vectors, gradients joined"
STEP = "fixmatch step"
WEIGHTS = ("params", "ema")
COMPARED_STEPS = 3
LEAST_SECONDS = {"cpu": 0.05, "gpu": 0.1}  # of one update's turn in a round
STEP_SECONDS = {"cpu": 0.0, "gpu": 0.1}  # of one step's turn
ROUNDS, STEP_ROUNDS = 15, {"cpu": 5, "gpu": 15}


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the tensors of a tree lie in one vector.

    Tensors under weight decay come first, so that the mask of weight decay is a
    comparison of positions. leaves: (position in the tree, offset, shape) in the
    vector's order. ends: (network, whether decayed, end) of each section.
    """

    treedef: Any
    leaves: tuple[tuple[int, int, tuple[int, ...]], ...]
    ends: tuple[tuple[str, bool, int], ...]

    @classmethod
    def of(cls, params: PyTree) -> "Layout":
        """The layout of {network name: tree of arrays or of their shapes}."""
        masks = jax.tree.leaves(optim.decayed(params))
        flat, treedef = jax.tree_util.tree_flatten_with_path(params)
        items = [
            (not mask, path[0].key, i, leaf.shape)
            for i, ((path, leaf), mask) in enumerate(zip(flat, masks, strict=True))
        ]
        leaves, ends, offset = [], {}, 0
        for exempt, network, i, shape in sorted(items):
            leaves.append((i, offset, shape))
            offset += math.prod(shape)
            ends[network, not exempt] = offset
        return cls(treedef, tuple(leaves), tuple((*k, end) for k, end in ends.items()))

    def join(self, tree: PyTree) -> jax.Array:
        """The tree's tensors as one vector."""
        flat = jax.tree.leaves(tree)
        return jnp.concatenate([flat[i].reshape(-1) for i, _, _ in self.leaves])

    def split(self, vector: jax.Array) -> PyTree:
        """The tree of a vector, by slices at fixed offsets."""
        flat: list[Any] = [None] * len(self.leaves)
        for i, offset, shape in self.leaves:
            flat[i] = vector[offset : offset + math.prod(shape)].reshape(shape)
        return jax.tree.unflatten(self.treedef, flat)

    def values(self, of: Callable[[str, bool], float]) -> jax.Array | float:
        """`of(network, decayed)` for every position; a number if all are equal."""
        values = [of(network, decayed) for network, decayed, _ in self.ends]
        if len(set(values)) == 1:
            return values[0]
        position = jax.lax.iota(jnp.int32, self.ends[-1][-1])
        result = jnp.float32(values[-1])
        for value, (*_, end) in reversed(list(zip(values, self.ends, strict=True))):
            result = jnp.where(position < end, jnp.float32(value), result)
        return result


class Program(workload.Program):
    """A mapped (state, fixed) -> (state, output) on a copy of a state.

    weights: state -> {"params": tree, "ema": tree}, for comparisons.
    """

    def __init__(
        self, one_step: Callable, exp: Experiment, state: PyTree, fixed: PyTree, weights
    ):
        mapped = parallel.map_step(one_step, exp.devices)
        state = jax.device_put(state, may_alias=False)
        super().__init__(mapped, state, parallel.shard_rows(fixed, exp.devices))
        self._weights = weights

    def weights(self) -> PyTree:
        """Current params and EMA, numpy."""
        return jax.device_get(self._weights(self.state))


def measure(
    request: frame.Request,
    least_seconds: float | None = None,
    rounds: int = ROUNDS,
    step_rounds: int | None = None,
) -> frame.Measured:
    """Compares and times all forms of the update, then two of the train step.

    least_seconds: of an update's turn in a round. None = the preset's.
    """
    preset = request.preset
    least = LEAST_SECONDS[preset] if least_seconds is None else least_seconds
    experiments = {
        name: workload.build(request.config, values, request.device)
        for name, values in METHODS.items()
    }
    exp = experiments["fixmatch"]
    terminal.say(
        "SGD, weight decay and EMA of all weights, alone and in a train step of "
        f"{workload.describe(exp)}"
    )
    starts = {name: exp.init_state() for name, exp in experiments.items()}
    table = []
    for name, each in experiments.items():
        programs = {
            f"{name}: {TREE}": tree_update(each, starts[name]),
            f"{name}: {FLAT}": flat_update(each, starts[name], joined=False),
            f"{name}: {JOINED}": flat_update(each, starts[name], joined=True),
        }
        table += _rows(programs, least, rounds)
    # Not of steps: their gradients also differ by the order of sums.
    worst = float(np.max([row["difference"] for row in table]))
    steps = {
        f"{STEP}: {TREE}": tree_step(exp, starts["fixmatch"]),
        f"{STEP}: {FLAT}": flat_step(exp, starts["fixmatch"]),
    }
    step_rounds = STEP_ROUNDS[preset] if step_rounds is None else step_rounds
    table += _rows(steps, STEP_SECONDS[preset], step_rounds)
    return table, {"update_equal": worst}


def tree_update(exp: Experiment, start: TrainState) -> Program:
    """The update alone, as in `step.make_train_step`, with fixed gradients."""
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
    """The same update on vectors.

    joined: the gradients come as a tree, as a network returns them, and the program
    joins them.
    """
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
    """The same train step on a state of vectors.

    Gradients are taken with respect to the tree. With respect to the vector, each
    would be padded to the vector's length before they are summed.
    """
    layout = Layout.of(start.params)
    rule = make_flat_rule(exp, layout)

    def train_step(state, batch):
        other, vectors = state
        inputs = StepInputs(
            nets=exp.nets,
            stats=other["stats"],
            extra=other["extra"],
            batch=batch,
            key=jax.random.fold_in(other["key"], vectors["step"]),
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
        other = {"key": other["key"], "stats": stats, "extra": extra}
        return (other, rule(vectors, grads)), metrics

    other = {"key": start.key, "stats": start.stats, "extra": start.extra}
    state = (other, _vectors(start, layout, exp))

    def weights(state):
        return _trees(layout, state[1])

    return Program(train_step, exp, state, workload.random_batch(exp), weights)


def make_flat_rule(exp: Experiment, layout: Layout) -> Callable[..., PyTree]:
    """The recursion of `optim.make` and `optim.ema_update` on vectors.

    Returns (state, gradients float32 [n]) -> state, where a state is {"params",
    "momentum", "ema": float32 [n], "step": int32}.
    """
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


def difference(tree: PyTree, reference: PyTree) -> float:
    """The largest difference of two trees of arrays, relative to each tensor's scale.

    The scale is the reference's largest absolute value. inf where that is 0 and the
    tree's is not; nan where one is nan.
    """
    worst = [0.0]
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(reference), strict=True)
    for a, b in pairs:
        distance, scale = np.abs(a - b).max(), np.abs(b).max()
        if distance != 0:  # nan, too
            worst.append(distance / scale if scale != 0 else np.inf)
    return float(np.max(worst))


def _rows(
    programs: Mapping[str, Program], least_seconds: float, rounds: int
) -> list[dict[str, Any]]:
    """A row per program, compared and timed with the first one."""
    first, costs, differences, reference = next(iter(programs)), {}, {}, None
    for label, program in programs.items():
        costs[label] = program.cost()
        program.run(COMPARED_STEPS)
        weights = program.weights()
        reference = weights if reference is None else reference
        differences[label] = difference(weights, reference)
    runs = {label: program.run for label, program in programs.items()}
    seconds = timing.in_turns(runs, least_seconds, rounds)
    return [
        {
            "row": label,
            **timing.timed(seconds, label, first),
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


TABLE = {
    "update": "row",
    "ms": frame.Column("ms", 3),
    "/ optax": frame.Column("ratio"),
    "fusions": frame.Column("fusions", 0),
    "kernels": frame.Column("kernels", 0),
    "MB": frame.Column("bytes_accessed", 1, 1e6),
    "aliased": frame.aliased,
    "difference": frame.Column("difference", 6),
}
BENCH = frame.Bench("update", measure, TABLE, LIMITS)
