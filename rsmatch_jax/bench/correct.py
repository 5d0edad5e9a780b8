"""Checks a device's training against the CPU's, and the bits of a run.

A step of every method by both, from the same state and images, in float32 with exact
products. And RSMatch at the config's sizes: whether the device repeats itself, whether
a run goes on from a checkpoint with the same bits, and whether it takes several steps
in one dispatch as it takes them one by one.
"""

import contextlib
import functools
import math
import os
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from rsmatch_jax import terminal
from rsmatch_jax.bench import step
from rsmatch_jax.bench.harness import frame, timing, workload
from rsmatch_jax.engine import feed
from rsmatch_jax.errors import RunFailed
from rsmatch_jax.methods.catalogue import METHODS
from rsmatch_jax.runtime import cores, parallel
from rsmatch_jax.state import TrainState

SMALL = {"model.classifier": "wrn_10_1", "model.detector": "wrn_10_1"}
COMPARED_AT = {
    **SMALL,
    "model.dtype": "float32",
    "train.batch_size": 8,
    "train.unlabeled_ratio": 7,
    # Every loss counts in the first step, and no image is near a threshold.
    "method.threshold": 0.0,
    "method.rsmatch.detector_threshold": 0.5,
    "method.simmatch.warmup_steps": 0,
    "method.openmatch.start_fix": 0.0,
}
REPEAT, RESUME, DISPATCH = "repeated", "restored", "in one dispatch"
# A CPU is slow at convolutions in loops, where they are other programs than outside.
BITS_AT = {"cpu": {**SMALL, "train.batch_size": 4, "train.unlabeled_ratio": 2}}
STEPS = {"cpu": 2, "gpu": 16}  # in one dispatch
# One program at a time: a CPU's threads may wait for one another for ever if several
# mapped ones run side by side.
_RUNNING = threading.Lock()
_limit = functools.partial(frame.Limit, any_device=True)
_equal = functools.partial(_limit, must=1, goal=1, at_least=True)
_BITS = "share of RSMatch's arrays with equal bits"
LIMITS = {
    # Two algorithms of convolutions on a CPU differ by 2e-5 and 0.015: some activations
    # lie so near the kink of the leaky ReLU that rounding decides their slope.
    "correct_forward": _limit("difference from the CPU's losses", 1e-3, 1e-4),
    "correct_update": _limit("difference from the CPU's update", 0.1, 0.03),
    "correct_repeat": _equal(f"{_BITS}, {REPEAT}"),
    "correct_resume": _equal(f"{_BITS}, {RESUME}"),
    "correct_dispatch": _equal(f"{_BITS}, {DISPATCH}", at={"gpu": {}}),
    "correct_dispatch_cpu": _limit(
        f"difference of RSMatch's weights {DISPATCH}", 1e-3, at={"cpu": {}}
    ),
}


def measure(request: frame.Request) -> frame.Measured:
    """Compares; what fails is a row with the reason as "failed". Raises RunFailed if
    JAX may not use the CPU beside the device."""
    try:
        pair = (request.device, jax.local_devices(backend="cpu")[-1])
    except RuntimeError as e:
        way_out = "leaves out the CPU to compare with; add ,cpu"
        raise RunFailed(f"JAX_PLATFORMS={os.environ['JAX_PLATFORMS']} {way_out}") from e
    jobs = {"bits": lambda: _bits(request)}
    if pair[0] == pair[1]:
        terminal.say("  the device is the only CPU, so there is none to compare with")
    else:
        jobs |= {n: functools.partial(_step, request, pair, n) for n in METHODS}
    end = timing.budget_clock() + request.flags["seconds"]

    def rows(name: str) -> list[frame.Row]:
        made: list[frame.Row] = []
        try:
            if timing.budget_clock() > end:
                raise RunFailed("left out: no time was left")
            for row in jobs[name]():
                made.append(row)
        except Exception as e:  # whatever it is, the others say something, too
            made.append({"row": name, "failed": frame.reason(e)})
        terminal.say(f"  {name}: {made[-1].get('failed', 'done')}")
        return made

    # Side by side, because nearly all of the time is compiling.
    with ThreadPoolExecutor(cores.count()) as pool:
        table = [row for made in pool.map(rows, jobs) for row in made]
    by_name = {row["row"]: row for row in table if "failed" not in row}
    values = {}
    for column in ("forward", "update"):
        if compared := [r[column] for r in by_name.values() if column in r]:
            values[f"correct_{column}"] = float(np.max(compared))  # nan, too
    for name, row in ((n, r) for n, r in by_name.items() if n not in METHODS):
        figure = {REPEAT: "repeat", RESUME: "resume", DISPATCH: "dispatch"}[name]
        values[f"correct_{figure}"] = row["equal"]
        values[f"correct_{figure}_cpu"] = row["difference"]
    return table, values


Pair = tuple[jax.Device, jax.Device]  # the device, and the CPU


def _step(request: frame.Request, pair: Pair, name: str) -> Iterator[frame.Row]:
    """One step of a method by each device, from the state that the first makes."""
    start, forward, update = None, [], []
    for device in pair:
        with jax.default_matmul_precision("highest"):  # in this thread alone
            values = {**COMPARED_AT, "method.name": name}
            exp = workload.build(request.config, values, device)
            with _RUNNING:
                source = feed.ResidentFeed(exp, workload.random_task(exp), 1)
                source.prepare(0)
            source.compile(exp.state_shapes(packed=True))
        with _RUNNING:
            start = exp.init_state() if start is None else start
            state, done = source.run(exp.pack(_copy(start, exp)), 0, 1)
            state = exp.unpack(state)
            forward.append(jax.device_get((state.stats, state.extra, done.metrics)))
            params = jax.device_get((state.params, start.params))
        update.append(jax.tree.map(np.subtract, *params))
    row: frame.Row = {"row": name, "forward": workload.difference(*forward)}
    yield row | {"update": workload.difference(*update)}


def _bits(request: frame.Request) -> Iterator[frame.Row]:
    """RSMatch's state after the same steps, done in several ways."""
    values = {**step.ROWS["rsmatch"], **BITS_AT.get(request.kind, {})}
    exp, most = workload.build(request.config, values, request.device), STEPS
    with _RUNNING:
        source = feed.ResidentFeed(exp, workload.random_task(exp), most[request.kind])
        start = jax.block_until_ready(exp.pack(exp.init_state()))
    source.compile(start)
    with _RUNNING:
        yield from _ways(exp, source, start)


def _ways(
    exp: workload.Experiment, source: feed.ResidentFeed, start: TrainState
) -> Iterator[frame.Row]:
    """The rows of `_bits`."""

    def after(rooms, state=None, done=0) -> TrainState:
        """rooms: of dispatches, in turn; each has 1 or `source.most` steps."""
        state = _copy(start, exp) if state is None else state
        for room in rooms:
            state, dispatched = source.run(state, done, room)
            done += dispatched.count
        return state

    def row(name, state, reference):
        a, b = (jax.device_get(x.replace(key=None)) for x in (state, reference))
        leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        equal = float(np.mean([np.array_equal(x, y) for x, y in leaves]))
        difference = workload.difference(a.params, b.params)
        return {"row": name, "equal": equal, "difference": difference}

    ones = [1] * source.most
    one_by_one = after(ones)
    yield row(REPEAT, after(ones), one_by_one)
    yield row(DISPATCH, after([source.most]), one_by_one)
    from rsmatch_jax.runs import checkpoint  # lazy: Orbax

    with tempfile.TemporaryDirectory() as folder:
        for keep in (1, None):
            with contextlib.closing(checkpoint.Checkpoints(folder, keep)) as saved:
                if keep:
                    saved.save(2, exp.unpack(after([1, 1])), {})
                else:
                    state = exp.pack(saved.restore(2, exp.unpack(start)).state)
    yield row(RESUME, after([1, 1], state, done=2), after([1, 1, 1, 1]))


def _copy(state: TrainState, exp: workload.Experiment) -> TrainState:
    """A state on the experiment's devices, to be donated."""
    return jax.device_put(state, parallel.replicated(exp.devices), may_alias=False)


TABLE = ("row", "forward", "update", "equal", "difference", "failed")
# seconds: after which no comparison is begun.
BENCH = frame.Bench("correct", measure, TABLE, LIMITS, extra={"seconds": math.inf})
