"""Times the update of all weights: SGD with momentum and weight decay, then EMA.

optax on trees, as in training, runs beside the same rule on vectors: each network's
kernels are one vector and its other tensors a second one.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from rsmatch_jax import optim
from rsmatch_jax.bench import step
from rsmatch_jax.bench.harness import frame, timing, workload
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.runtime import parallel
from rsmatch_jax.state import PyTree, TrainState

LIMITS = {
    "update_equal": frame.Limit(
        "flat / optax difference after 3 steps", 1e-6, any_device=True
    )
}
METHODS = ("fixmatch", "rsmatch")
TREE, FLAT = "optax on trees", "vectors"
STEP = "fixmatch step"
COMPARED_STEPS = 3
LEAST_SECONDS = {"cpu": 0.05, "gpu": 0.1}  # of one update's turn in a round
STEP_SECONDS = {"cpu": 0.0, "gpu": 0.1}  # of one step's turn
ROUNDS, STEP_ROUNDS = 15, {"cpu": 5, "gpu": 15}

Form = tuple[Experiment, TrainState]


def vectors(tree: PyTree) -> tuple[dict[str, Any], Callable[[Mapping], PyTree]]:
    """A network's tensors as two vectors, and the function that undoes it.

    {"kernels": [1, n], those under weight decay, "others": [m]}. As in the tree, weight
    decay acts where there are two dimensions.
    """
    decays = optim.decayed(tree)

    def part(of_kernels):  # None in place of the other tensors
        return jax.tree.map(lambda x, d: x if d == of_kernels else None, tree, decays)

    kernels, split_kernels = ravel_pytree(part(True))
    others, split_others = ravel_pytree(part(False))

    def split(joined):
        parts = split_kernels(joined["kernels"][0]), split_others(joined["others"])
        return jax.tree.map(lambda d, x, y: x if d else y, decays, *parts)

    return {"kernels": kernels[None], "others": others}, split


def on_vectors(exp: Experiment, start: TrainState) -> Form:
    """The experiment and its state with vectors in place of the networks' trees."""
    nets = {}
    for name, net in exp.nets.items():
        _, split = vectors(start.params[name])

        def apply(joined, *args, apply=net.apply, split=split):
            return apply(split(joined), *args)

        nets[name] = net._replace(apply=apply)
    params, ema = (
        {name: vectors(tree)[0] for name, tree in trees.items()}
        for trees in (start.params, start.ema)
    )
    opt_state = exp.tx.init(params)
    state = dataclasses.replace(start, params=params, ema=ema, opt_state=opt_state)
    state = parallel.replicate(state, exp.devices)
    return dataclasses.replace(exp, nets=nets), state


def weights(state: TrainState, like: PyTree) -> PyTree:
    """Parameters and EMA as trees with the shapes of `like`, numpy."""

    def tree(name, part):
        return vectors(like[name])[1](part) if "kernels" in part else part

    return jax.device_get(
        [
            {name: tree(name, part) for name, part in networks.items()}
            for networks in (state.params, state.ema)
        ]
    )


def update(exp: Experiment, start: TrainState) -> workload.Program:
    """The update alone, as in `step.make_train_step`, with fixed gradients."""
    o = exp.config.optim
    # The same numbers in all forms, none of them zero.
    grads = jax.tree.map(lambda p: 1e-2 * (2 - np.asarray(p)), start.params)

    def one_step(state, grads):
        updates, opt_state = exp.tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = optim.ema_update(
            state.ema, params, state.step, decay=o.ema_decay, warmup=o.ema_warmup
        )
        state = state.replace(params=params, ema=ema, opt_state=opt_state)
        return state.replace(step=state.step + 1), ()

    return _program(one_step, exp, start, grads)


def train_step(exp: Experiment, start: TrainState) -> workload.Program:
    """The train step on a fixed batch."""
    return _program(exp.one_step(), exp, start, workload.random_batch(exp))


def _program(one_step, exp: Experiment, start: TrainState, fixed: PyTree):
    mapped = parallel.map_resident_step(one_step, 1, exp.devices)
    state = jax.device_put(start, may_alias=False)  # a copy, which is donated
    inputs = parallel.replicate(fixed, exp.devices), parallel.ranks(exp.devices)
    return workload.program(mapped, state, *inputs)


def measure(request: frame.Request) -> frame.Measured:
    """Compares and times both forms of the update, then both of the train step."""
    preset, forms, table = request.preset, {}, []
    for name in METHODS:
        exp = workload.build(request.config, step.ROWS[name], request.device)
        start = exp.init_state()
        forms[name] = {TREE: (exp, start), FLAT: on_vectors(exp, start)}
    for name in METHODS:
        table += _rows(name, forms[name], update, LEAST_SECONDS[preset], ROUNDS)
    # Not of steps: their gradients also differ by the order of sums.
    worst = float(np.max([row["difference"] for row in table]))
    turns = STEP_SECONDS[preset], STEP_ROUNDS[preset]
    table += _rows(STEP, forms["fixmatch"], train_step, *turns)
    return table, {"update_equal": worst}


def _rows(
    name: str,
    forms: Mapping[str, Form],
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
        worst = workload.difference(after, reference)
        rows.append({"row": label, **cost, "difference": worst})
    seconds = timing.in_turns(runs, least_seconds, rounds)
    tree = seconds[f"{name}: {TREE}"]
    return [row | timing.timed(seconds[row["row"]], tree) for row in rows]


TABLE = (
    *("row", "ms", "ratio", "fusions", "kernels", "bytes_accessed"),
    *("aliased_leaves", "state_leaves", "difference"),
)
BENCH = frame.Bench("update", measure, TABLE, LIMITS)
