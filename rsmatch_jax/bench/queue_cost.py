"""Times pushes to and draws from the class-wise queue.

The cost of a push should depend on the number of classes it writes to, not on the
number of classes in the queue.
"""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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
    table, runs = [], {}
    for operation, classes in itertools.product(("push", "sample"), CLASSES):
        label = f"{operation} K={classes}"
        program = _program(exp, r, classes, operation)
        runs[label], cost = program.run, program.cost()
        row = {key: cost[key] for key in ("state_leaves", "aliased_leaves")}
        queue = jax.tree.leaves(program.state[0])
        row["queue_bytes"] = sum(x.nbytes for x in queue)
        table.append({"row": label, "classes": classes, **row})
    seconds = timing.in_turns(runs, LEAST_SECONDS, ROUNDS)
    for row in table:  # the ratio is to the same operation at the fewest classes
        reference = f"{row['row'].split()[0]} K={CLASSES[0]}"
        row |= timing.timed(seconds[row["row"]], seconds[reference])
    return table, {}


def _program(exp: Experiment, r: Any, classes: int, operation: str) -> workload.Program:
    """Pushes candidates into a full, donated queue, as in a train step; or draws a
    batch of images from it. r: the block method.rsmatch."""

    def one_step(state, batch):
        queue, step = state
        key, images = jax.random.fold_in(jax.random.key(0), step), {}
        if operation == "push":
            select = min(r.queue_classes, classes)
            queue = csqueue.push(queue, key, *batch, select=select, top=r.queue_push)
        else:
            draw = csqueue.SAMPLERS[r.queue_sample]
            images = csqueue.take(queue, draw(queue, key, exp.dims.batch_size)[0])
        return (queue, step + 1), images

    mapped = parallel.map_step(one_step, exp.devices)
    empty = csqueue.create(classes, r.queue_length, exp.dims.image_shape)
    full = dataclasses.replace(
        empty,
        count=jnp.full(empty.count.shape, r.queue_length, jnp.int32),
        indices=jnp.arange(empty.capacity, dtype=jnp.int32).reshape(classes, -1),
    )
    state = parallel.replicate((full, np.int32(0)), exp.devices)
    rng, count = np.random.default_rng(0), exp.dims.unlabeled_batch
    candidates = (
        rng.integers(0, 256, (count, *exp.dims.image_shape), dtype=np.uint8),
        rng.integers(0, exp.dims.num_unlabeled, count, dtype=np.int32),
        rng.integers(0, classes, count, dtype=np.int32),
        rng.random(count, dtype=np.float32),  # scores
    )
    batch = parallel.shard_rows(candidates, exp.devices)
    return workload.program(mapped, state, batch)


TABLE = ("row", "ms", "ratio", "queue_bytes", "aliased_leaves", "state_leaves")
BENCH = frame.Bench("queue", measure, TABLE, LIMITS, presets=command_line.AS_CONFIGURED)
