"""What the input alone can deliver: images found and views made, and nobody trains.

Random images in the number and size of CIFAR-10's training set.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from rsmatch_jax import terminal
from rsmatch_jax.augment import on_device
from rsmatch_jax.bench.harness import request, results, timing, workload
from rsmatch_jax.bench.harness.results import interval, number
from rsmatch_jax.data import resident, sampler
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.runtime import parallel

RESIDENT, ORDERS, TFDATA = "resident, on the device", "its epoch orders", "tf.data"
LEAST_SECONDS = 0.5  # of one program's turn in a round
ROUNDS = 9
FIRST_STEPS = 16  # of tf.data, uncounted: more than its buffers hold


def main(argv: list[str]):
    """Measures, shows a table, and writes --out=FILE.json."""
    asked = request.parse(argv, request.AS_CONFIGURED)
    content = measure(asked)
    results.show([_shown(row) for row in content["rows"]])
    results.deliver(asked, content, {})


def measure(
    asked: request.Request,
    num_unlabeled: int = workload.NUM_CLASSES * workload.PER_CLASS,
    least_seconds: float = LEAST_SECONDS,
    rounds: int = ROUNDS,
) -> dict[str, Any]:
    """The bench's JSON; num_unlabeled: images to draw from."""
    exp = workload.build(asked.config, {}, asked.device)
    dims = exp.dims
    terminal.say(
        f"{dims.batch_size} labelled + {dims.unlabeled_batch} unlabelled images a "
        f"step, weak and strong (n = {exp.views.randaugment_ops}), of "
        f"{dims.num_labeled} and {num_unlabeled}; device: {asked.device.device_kind}, "
        f"host: {results.cores()} cores"
    )
    rng, shape = np.random.default_rng(asked.config.seed), dims.image_shape
    lab = rng.integers(0, 256, (dims.num_labeled, *shape), dtype=np.uint8)
    labels = rng.integers(0, dims.num_classes, dims.num_labeled, dtype=np.int32)
    unl = rng.integers(0, 256, (num_unlabeled, *shape), dtype=np.uint8)

    runs = {
        RESIDENT: _resident(exp, lab, labels, unl),
        ORDERS: _orders(exp, num_unlabeled),
    }
    seconds = workload.in_turns(runs, least_seconds, rounds)
    seconds[ORDERS] = seconds[ORDERS] / sampler.STEPS_PER_EPOCH
    # tf.data reads ahead in threads of its own: in turns with others it would slow them
    # down and be ready before its time begins. So it comes last, in one stretch.
    host = _tf_data(exp, lab, labels, unl)
    if host is not None:
        host(FIRST_STEPS)
        seconds |= workload.in_turns({TFDATA: host}, least_seconds, rounds)
    table = [
        {"row": name, **timed_columns(s, dims.unlabeled_batch)}
        for name, s in seconds.items()
    ]
    return results.document(asked, "input", {}, table)


def timed_columns(seconds: np.ndarray, pairs: int) -> dict[str, Any]:
    """A row's columns from seconds a step, float [rounds]; a pair is the weak and the
    strong view of one unlabelled image."""
    wall = timing.spread(seconds)
    return {
        **results.wall(wall),
        "pairs_per_second": pairs / wall.median,
        "steps_per_second": 1 / wall.median,
    }


def _resident(exp: Experiment, lab, labels, unl) -> timing.Run:
    """Batches made on the device, one a dispatch."""
    d = exp.dims
    data = resident.Resident(
        lab, labels, unl, None, on_device.make_tables(d.image_shape[0], exp.views)
    )
    inputs = parallel.replicate((data, _epoch(exp, 0, len(unl))), exp.devices)

    def one(step, inputs):
        key = jax.random.key(exp.config.seed)
        return step + 1, resident.make_batch(*inputs, exp.views, key, step)

    mapped = parallel.map_resident_step(one, 1, exp.devices)
    step = parallel.replicate(np.int32(0), exp.devices)
    ranks = parallel.ranks(exp.devices)

    def run(steps):
        nonlocal step
        for _ in range(steps):
            step, batch = mapped(step, inputs, ranks)
        jax.block_until_ready(batch)

    return run


def _orders(exp: Experiment, num_unlabeled: int) -> timing.Run:
    """Which images the steps of an epoch take; one of its steps is an epoch."""
    epoch = 0

    def run(epochs):
        nonlocal epoch
        for _ in range(epochs):
            epoch += 1
            orders = _epoch(exp, epoch, num_unlabeled)
        jax.block_until_ready(orders)

    return run


def _epoch(exp: Experiment, epoch: int, num_unlabeled: int) -> resident.Orders:
    d = exp.dims
    with jax.default_device(exp.devices[0]):
        return resident.epoch_orders(
            exp.config.seed,
            epoch,
            num_labelled=d.num_labeled,
            num_unlabelled=num_unlabeled,
            batch=d.batch_size,
            unlabelled_batch=d.unlabeled_batch,
        )


def _tf_data(exp: Experiment, lab, labels, unl) -> timing.Run | None:
    """Batches made by tf.data on the host and placed on the device; None without
    TensorFlow."""
    try:
        from rsmatch_jax.data import tf_pipeline  # lazy: TensorFlow
    except ImportError:
        terminal.say("tf.data: not measured, for there is no TensorFlow")
        return None
    config = exp.config
    stream = tf_pipeline.batches(
        lab,
        labels,
        unl,
        exp.views,
        seed=config.seed,
        batch_size=config.train.batch_size,
        unlabeled_ratio=config.train.unlabeled_ratio,
        start_step=0,
        num_steps=2**40,
        prefetch=config.input.prefetch,
    )

    def run(steps):
        for _ in range(steps):
            batch = parallel.shard_rows(next(stream), exp.devices)
        jax.block_until_ready(batch)

    return run


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "input": row["row"],
        "ms/step": number(row["ms"], 3),
        "quartiles": interval(row["ms_quartiles"], 3),
        "pairs/s": number(row["pairs_per_second"], 0),
        "steps/s at most": number(row["steps_per_second"], 1),
    }
