"""The cost of the CSQueue: a push should depend on the queues it writes to, not on how
many there are."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from rsmatch_jax import terminal
from rsmatch_jax.bench.harness import hlo as hlo_text
from rsmatch_jax.bench.harness import request, results, timing, workload
from rsmatch_jax.bench.harness.results import Limit, interval, number
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.methods import csqueue
from rsmatch_jax.runtime import parallel

CLASSES = (10, 100, 1000)
COPIED = CLASSES[-1:]  # numbers of classes at which a push without donation is shown
LIMITS = {"C5": Limit("push K=1000 / K=10 time", 4, 2)}
MEASURED_AT = {
    "train.batch_size": 64,
    "train.unlabeled_ratio": 7,
    "method.rsmatch.queue_length": 16,
    "method.rsmatch.queue_classes": 10,
    "method.rsmatch.queue_push": 1,
}
LEAST_SECONDS = 0.05  # of one program's turn in a round: a single call says nothing
ROUNDS = 21


def main(argv: list[str]):
    """Measures, shows two tables, and writes --out=FILE.json."""
    asked = request.parse(argv, request.AS_CONFIGURED)
    content = measure(asked)
    results.show([_shown(row) for row in content["rows"]])
    results.deliver(asked, content, LIMITS)


def measure(
    asked: request.Request, least_seconds: float = LEAST_SECONDS, rounds: int = ROUNDS
) -> dict[str, Any]:
    """The bench's JSON."""
    r = asked.config.method.rsmatch
    smallest = {"method.rsmatch.queue_classes": min(r.queue_classes, CLASSES[0])}
    exp = workload.build(
        asked.config,
        {"method.name": "rsmatch", "method.rsmatch.classwise_queue": True, **smallest},
        asked.device,
    )
    terminal.say(
        f"N_q = {r.queue_length}, P = min({r.queue_classes}, K), Q = {r.queue_push}, "
        f"{exp.dims.unlabeled_batch} candidates, {exp.dims.batch_size} drawn "
        f"({r.queue_sample}), on {asked.device.device_kind}"
    )
    rows, runs = [], {}
    for classes in CLASSES:
        make = {f"push K={classes}": _push, f"sample K={classes}": _sample}
        if classes in COPIED:
            make[f"push K={classes}, not donated"] = _push_to_a_copy
        for label, maker in make.items():
            runs[label], columns = maker(exp, r, classes)
            rows.append({"row": label, "classes": classes, **columns})
    rows.sort(key=lambda row: row["row"].split()[0])
    seconds = workload.in_turns(runs, least_seconds, rounds)
    table = [{**row, **timed_columns(seconds, row["row"])} for row in rows]
    found = figures(table, asked.config, asked.preset, asked.device.platform)
    return results.document(asked, "queue", found, table)


def timed_columns(seconds: Mapping[str, np.ndarray], label: str) -> dict[str, Any]:
    """A row's columns from seconds a call, {label: float [rounds]}; the ratio is to the
    same operation at the fewest classes."""
    return results.timed(seconds, label, f"{label.split()[0]} K={CLASSES[0]}")


def figures(
    table: list[dict[str, Any]], config: Any, preset: str, platform: str
) -> dict[str, dict[str, Any]]:
    """{ID: figure}: on a CPU and at the sizes that the limit was set for alone."""
    if preset != "cpu" or platform != "cpu" or not workload.holds(config, MEASURED_AT):
        return {}
    for row in table:
        if row["row"] == "push K=1000":
            quartiles = timing.Spread(row["ratio"], *row["ratio_quartiles"])
            return {"C5": LIMITS["C5"].figure(row["ratio"], quartiles)}
    return {}


def _push(exp: Experiment, r: Any, classes: int):
    """(run, columns) of pushes into one donated queue, as in a train step."""
    mapped = parallel.map_step(_pusher(r, classes), exp.devices)
    state, batch = _state(exp, r, classes), _candidates(exp, classes)
    columns = _columns(mapped, state, batch)

    def run(steps):
        nonlocal state
        for _ in range(steps):
            state, _ = mapped(state, batch)
        jax.block_until_ready(state)

    return run, columns


def _push_to_a_copy(exp: Experiment, r: Any, classes: int):
    """As `_push`, but always into the same queue, which therefore is copied."""
    push = _pusher(r, classes)
    mapped = parallel.map_eval(lambda state, batch: push(state, batch)[0], exp.devices)
    state, batch = _state(exp, r, classes), _candidates(exp, classes)
    columns = _columns(mapped, state, batch)

    def run(steps):
        for _ in range(steps):
            jax.block_until_ready(mapped(state, batch))  # one copy in memory at a time

    return run, columns


def _sample(exp: Experiment, r: Any, classes: int):
    """(run, columns) of drawing a batch of images from a full queue."""
    draw = csqueue.SAMPLERS[r.queue_sample]

    def sample(state, unused):
        del unused
        queue, step = state
        slots, _ = draw(queue, _key(step), exp.dims.batch_size)
        return (queue, step + 1), csqueue.take(queue, slots)

    mapped = parallel.map_step(sample, exp.devices)
    state, batch = _state(exp, r, classes), parallel.ranks(exp.devices)
    columns = _columns(mapped, state, batch)

    def run(steps):
        nonlocal state
        for _ in range(steps):
            state, images = mapped(state, batch)
        jax.block_until_ready((state, images))

    return run, columns


def _pusher(r: Any, classes: int):
    def push(state, batch):
        queue, step = state
        images, indices, labels, scores = batch
        queue = csqueue.push(
            queue,
            _key(step),
            images,
            indices,
            labels,
            scores,
            select=min(r.queue_classes, classes),
            top=r.queue_push,
        )
        return (queue, step + 1), {}

    return push


def _key(step: jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.key(0), step)


def _state(exp: Experiment, r: Any, classes: int):
    """(a full queue, step 0) on the device, its buffers nobody else's."""
    empty = csqueue.create(classes, r.queue_length, exp.dims.image_shape)
    queue = empty.replace(
        count=np.full(empty.count.shape, r.queue_length, np.int32),
        indices=np.arange(empty.capacity, dtype=np.int32).reshape(empty.indices.shape),
    )
    return parallel.replicate((queue, np.int32(0)), exp.devices)


def _candidates(exp: Experiment, classes: int):
    """images, indices, classes and scores of a global batch, on the device."""
    rng, count = np.random.default_rng(0), exp.dims.unlabeled_batch
    rows = (
        rng.integers(0, 256, (count, *exp.dims.image_shape), dtype=np.uint8),
        rng.integers(0, exp.dims.num_unlabeled, count, dtype=np.int32),
        rng.integers(0, classes, count, dtype=np.int32),
        rng.random(count, dtype=np.float32),
    )
    return parallel.shard_rows(rows, exp.devices)


def _columns(mapped, state, batch) -> dict[str, Any]:
    hlo = mapped.lower(state, batch).compile().as_text()
    queue, _ = state
    return {
        "queue_bytes": sum(math.prod(x.shape) * x.itemsize for x in _leaves(queue)),
        "state_leaves": len(_leaves(state)),
        "aliased_leaves": hlo_text.aliased_leaves(hlo),
    }


def _leaves(tree):
    return jax.tree.leaves(tree)


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "operation": row["row"],
        "ms": number(row["ms"], 3),
        "quartiles": interval(row["ms_quartiles"], 3),
        f"/ K={CLASSES[0]}": number(row["ratio"]),
        "its quartiles": interval(row["ratio_quartiles"]),
        "queue MB": number(row["queue_bytes"] / 1e6, 1),
        "aliased": f"{row['aliased_leaves']}/{row['state_leaves']}",
    }
