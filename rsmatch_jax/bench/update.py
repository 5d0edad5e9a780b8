"""Times the update of all weights: SGD with momentum and weight decay, then EMA.

optax on trees, as in training, runs beside the same rule on vectors: each network's
kernels are one vector and its other tensors a second one.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rsmatch_jax import optim, terminal
from rsmatch_jax.bench.harness import frame, timing, workload
from rsmatch_jax.engine.experiment import Experiment
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
TREE, FLAT = "optax on trees", "vectors"
STEP = "fixmatch step"
COMPARED_STEPS = 3
LEAST_SECONDS = {"cpu": 0.05, "gpu": 0.1}  # of one update's turn in a round
STEP_SECONDS = {"cpu": 0.0, "gpu": 0.1}  # of one step's turn
ROUNDS, STEP_ROUNDS = 15, {"cpu": 5, "gpu": 15}


def join(tree: PyTree) -> dict[str, jax.Array]:
    """A network's tensors as vectors: those under weight decay, "kernels" [1, n], and
    "others" [m]. As in the tree, weight decay acts where there are two dimensions."""
    tensors = {True: [], False: []}
    for x, decays in zip(
        jax.tree.leaves(tree), jax.tree.leaves(optim.decayed(tree)), strict=True
    ):
        tensors[decays].append(x.ravel())
    kernels, others = (jnp.concatenate(tensors[decays]) for decays in (True, False))
    return {"kernels": kernels[None], "others": others}


def splitter(like: PyTree) -> Callable[[Mapping[str, jax.Array]], PyTree]:
    """The inverse of `join` for trees with the shapes of `like`.

    Gradients are joined, too. JAX alone would pad each tensor's to the vector's length
    and sum these.
    """
    leaves, treedef = jax.tree.flatten(like)

    @jax.custom_vjp
    def split(vectors):
        ends, tensors = {"kernels": 0, "others": 0}, []
        for leaf in leaves:
            name = "kernels" if leaf.ndim > 1 else "others"
            begin, ends[name] = ends[name], ends[name] + math.prod(leaf.shape)
            part = vectors[name].ravel()[begin : ends[name]]
            tensors.append(part.reshape(leaf.shape))
        return jax.tree.unflatten(treedef, tensors)

    split.defvjp(lambda vectors: (split(vectors), None), lambda _, tree: (join(tree),))
    return split


def on_vectors(exp: Experiment, start: TrainState) -> tuple[Experiment, TrainState]:
    """The experiment and its state with vectors in place of the networks' trees."""
    nets = {}
    for name, net in exp.nets.items():
        split = splitter(start.params[name])

        def apply(vectors, *args, apply=net.apply, split=split):
            return apply(split(vectors), *args)

        nets[name] = net._replace(apply=apply)
    params, ema = (
        {name: join(tree) for name, tree in trees.items()}
        for trees in (start.params, start.ema)
    )
    state = start.replace(params=params, ema=ema, opt_state=exp.tx.init(params))
    state = parallel.replicate(state, exp.devices)
    return dataclasses.replace(exp, nets=nets), state


def weights(state: TrainState, like: PyTree) -> PyTree:
    """Parameters and EMA as trees with the shapes of `like`, numpy."""

    def tree(name, part):
        return splitter(like[name])(part) if "kernels" in part else part

    return jax.device_get(
        [
            {name: tree(name, part) for name, part in networks.items()}
            for networks in (state.params, state.ema)
        ]
    )


def update(exp: Experiment, start: TrainState) -> workload.Program:
    """The update alone, as in `step.make_train_step`, with fixed gradients."""
    o = exp.config.optim
    # In all forms the same numbers, none of them zero.
    grads = jax.tree.map(lambda p: 1e-2 * (2 - np.asarray(p)), start.params)

    def one_step(state, grads):
        grads = jax.tree.map(lambda x: x[0], grads)
        updates, opt_state = exp.tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = optim.ema_update(
            state.ema, params, state.step, decay=o.ema_decay, warmup=o.ema_warmup
        )
        state = state.replace(params=params, ema=ema, opt_state=opt_state)
        return state.replace(step=state.step + 1), ()

    return _program(one_step, exp, start, jax.tree.map(lambda x: x[None], grads))


def train_step(exp: Experiment, start: TrainState) -> workload.Program:
    """The train step on a fixed batch."""
    return _program(exp.one_step(), exp, start, workload.random_batch(exp))


def _program(one_step, exp: Experiment, start: TrainState, fixed: PyTree):
    """The mapped (state, fixed) -> (state, output) on a copy of a state."""
    mapped = parallel.map_step(one_step, exp.devices)
    state = jax.device_put(start, may_alias=False)
    return workload.Program(mapped, state, parallel.shard_rows(fixed, exp.devices))


def measure(request: frame.Request) -> frame.Measured:
    """Compares and times both forms of the update, then both of the train step."""
    preset, forms, table = request.preset, {}, []
    for name, values in METHODS.items():
        exp = workload.build(request.config, values, request.device)
        forms[name] = {TREE: (exp, exp.init_state())}
        forms[name][FLAT] = on_vectors(*forms[name][TREE])
    exp, _ = forms["fixmatch"][TREE]
    terminal.say(
        "SGD, weight decay and EMA of all weights, alone and in a train step of "
        f"{workload.describe(exp)}"
    )
    for name in METHODS:
        table += _rows(name, forms[name], update, LEAST_SECONDS[preset], ROUNDS)
    # Not of steps: their gradients also differ by the order of sums.
    worst = float(np.max([row["difference"] for row in table]))
    turns = STEP_SECONDS[preset], STEP_ROUNDS[preset]
    table += _rows(STEP, forms["fixmatch"], train_step, *turns)
    return table, {"update_equal": worst}


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
    name: str,
    forms: Mapping[str, tuple[Experiment, TrainState]],
    make: Callable[[Experiment, TrainState], workload.Program],
    least_seconds: float,
    rounds: int,
) -> list[frame.Row]:
    """A row per form, compared and timed with optax on trees."""
    _, start = forms[TREE]
    rows, runs, reference = [], {}, None
    for form, (exp, state) in forms.items():
        label, program = f"{name}: {form}", make(exp, state)
        runs[label], cost = program.run, program.cost()
        program.run(COMPARED_STEPS)
        after = weights(program.state, start.params)
        reference = after if reference is None else reference
        rows.append({"row": label, **cost, "difference": difference(after, reference)})
    seconds = timing.in_turns(runs, least_seconds, rounds)
    reference = f"{name}: {TREE}"
    return [row | timing.timed(seconds, row["row"], reference) for row in rows]


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
