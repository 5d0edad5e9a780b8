"""Times pushes to and draws from the class-wise queue.

The cost of a push should depend on the number of classes it writes to, not on the
number of classes in the queue.
"""

import itertools
from typing import Any

import jax
import numpy as np

from rsmatch_jax import terminal
from rsmatch_jax.bench.harness import command_line, frame, timing, workload
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.methods import csqueue
from rsmatch_jax.runtime import parallel

CLASSES = (10, 100, 1000)
MEASURED_AT = {
    **workload.PAPER,
    "method.rsmatch.queue_length": 16,
    "method.rsmatch.queue_classes": 10,
    "method.rsmatch.queue_push": 1,
}
_AT = {"row": "push K=1000", "at": {"cpu": MEASURED_AT}}
LIMITS = {"C5": frame.Limit("push K=1000 / K=10 time", 4, 2, **_AT)}
LEAST_SECONDS = 0.05  # of one program's turn: a single call is too noisy
ROUNDS = 21


def measure(request: frame.Request) -> frame.Measured:
    """Times a push and a draw for every number of classes."""
    r = request.config.method.rsmatch
    values = {
        "method.name": "rsmatch",
        "method.rsmatch.classwise_queue": True,
        "method.rsmatch.queue_classes": min(r.queue_classes, CLASSES[0]),
    }
    exp = workload.build(request.config, values, request.device)
    terminal.say(
        f"N_q = {r.queue_length}, P = min({r.queue_classes}, K), Q = {r.queue_push}, "
        f"{exp.dims.unlabeled_batch} candidates, {exp.dims.batch_size} drawn "
        f"({r.queue_sample}), on {request.device.device_kind}"
    )
    table, runs = [], {}
    for make, classes in itertools.product((_push, _sample), CLASSES):
        label = f"{make.__name__[1:]} K={classes}"
        program = make(exp, r, classes)
        queue, cost = jax.tree.leaves(program.state[0]), program.cost()
        row = {"row": label, "classes": classes}
        row["queue_bytes"] = sum(x.nbytes for x in queue)
        row |= {key: cost[key] for key in ("state_leaves", "aliased_leaves")}
        runs[label] = program.run
        table.append(row)
    seconds = timing.in_turns(runs, LEAST_SECONDS, ROUNDS)
    for row in table:  # the ratio is to the same operation at the fewest classes
        reference = f"{row['row'].split()[0]} K={CLASSES[0]}"
        row |= timing.timed(seconds, row["row"], reference)
    return table, {}


def _push(exp: Experiment, r: Any, classes: int) -> workload.Program:
    """Pushes into one donated queue, as in a train step."""

    def push(state, batch):
        queue, step = state
        select = min(r.queue_classes, classes)
        queue = csqueue.push(queue, _key(step), *batch, select=select, top=r.queue_push)
        return (queue, step + 1), {}

    mapped = parallel.map_step(push, exp.devices)
    state, batch = _state(exp, r, classes), _candidates(exp, classes)
    return workload.Program(mapped, state, batch)


def _sample(exp: Experiment, r: Any, classes: int) -> workload.Program:
    """Draws a batch of images from a full queue."""
    draw = csqueue.SAMPLERS[r.queue_sample]

    def sample(state, unused):
        del unused
        queue, step = state
        slots, _ = draw(queue, _key(step), exp.dims.batch_size)
        return (queue, step + 1), csqueue.take(queue, slots)

    mapped = parallel.map_step(sample, exp.devices)
    ranks = parallel.ranks(exp.devices)
    return workload.Program(mapped, _state(exp, r, classes), ranks)


def _key(step: jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.key(0), step)


def _state(exp: Experiment, r: Any, classes: int):
    """(a full queue, step 0) on the device, in buffers that can be donated."""
    empty = csqueue.create(classes, r.queue_length, exp.dims.image_shape)
    queue = empty.replace(
        count=np.full(empty.count.shape, r.queue_length, np.int32),
        indices=np.arange(empty.capacity, dtype=np.int32).reshape(empty.indices.shape),
    )
    return parallel.replicate((queue, np.int32(0)), exp.devices)


def _candidates(exp: Experiment, classes: int):
    """Images, indices, classes and scores of a global batch, on the device."""
    rng, count = np.random.default_rng(0), exp.dims.unlabeled_batch
    rows = (
        rng.integers(0, 256, (count, *exp.dims.image_shape), dtype=np.uint8),
        rng.integers(0, exp.dims.num_unlabeled, count, dtype=np.int32),
        rng.integers(0, classes, count, dtype=np.int32),
        rng.random(count, dtype=np.float32),
    )
    return parallel.shard_rows(rows, exp.devices)


TABLE = {
    "operation": "row",
    "ms": frame.Column("ms", 3),
    f"/ K={CLASSES[0]}": frame.Column("ratio"),
    "queue MB": frame.Column("queue_bytes", 1, 1e6),
    "aliased": frame.aliased,
}
BENCH = frame.Bench("queue", measure, TABLE, LIMITS, presets=command_line.AS_CONFIGURED)
