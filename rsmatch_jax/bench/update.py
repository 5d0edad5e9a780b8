"""Times the update of all weights: SGD with momentum and weight decay, then EMA.

optax on vectors (`flat.pack`), as in training, runs beside optax on trees.
"""

from collections.abc import Callable, Mapping

import jax
import numpy as np
import optax

from rsmatch_jax import flat, optim
from rsmatch_jax.bench import step
from rsmatch_jax.bench.harness import frame, timing, workload
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.runtime import parallel
from rsmatch_jax.state import PyTree, TrainState

LIMITS = {
    "update_equal": frame.Limit(
        "vectors / trees difference after 3 steps", 1e-6, any_device=True
    )
}
METHODS = ("fixmatch", "rsmatch")
TREE, FLAT = "trees", "vectors"
STEP = "fixmatch step"
COMPARED_STEPS = 3
LEAST_SECONDS = {"cpu": 0.05, "gpu": 0.1}  # of one update's turn in a round
STEP_SECONDS = {"cpu": 0.0, "gpu": 0.1}  # of one step's turn
ROUNDS, STEP_ROUNDS = 15, {"cpu": 5, "gpu": 15}


def weights(exp: Experiment, state: TrainState) -> PyTree:
    """Parameters and EMA as trees, numpy."""
    trees = exp.unpack(state)
    return jax.device_get([trees.params, trees.ema])


def update(exp: Experiment, start: TrainState) -> workload.Program:
    """The update alone, as in `step.make_train_step`, with fixed gradients."""
    o = exp.config.optim
    # The same numbers in both forms, none of them zero.
    params = flat.trees(start.params)
    grads = jax.tree.map(lambda p: 1e-2 * (2 - np.asarray(p)), params)

    def one_step(state, grads):
        grads = flat.joined(grads, state.params)
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
        forms[name] = exp, {TREE: start, FLAT: exp.pack(start)}
    for name in METHODS:
        table += _rows(name, *forms[name], update, LEAST_SECONDS[preset], ROUNDS)
    # Not of steps: their gradients also differ by the order of sums.
    worst = float(np.max([row["difference"] for row in table]))
    turns = STEP_SECONDS[preset], STEP_ROUNDS[preset]
    table += _rows(STEP, *forms["fixmatch"], train_step, *turns)
    return table, {"update_equal": worst}


def _rows(
    name: str,
    exp: Experiment,
    forms: Mapping[str, TrainState],
    make: Callable[[Experiment, TrainState], workload.Program],
    least_seconds: float,
    rounds: int,
) -> list[frame.Row]:
    """A row per form, compared and timed with that of trees."""
    rows, runs, reference = [], {}, None
    for form, state in forms.items():
        label, program = f"{name}: {form}", make(exp, state)
        runs[label], cost = program.run, program.cost()
        program.run(COMPARED_STEPS)
        after = weights(exp, program.state)
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
