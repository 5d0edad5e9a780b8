"""Times the input alone: finding images and making views, without training."""

import itertools

import jax
import numpy as np

from rsmatch_jax import terminal
from rsmatch_jax.bench.harness import command_line, frame, timing, workload
from rsmatch_jax.data import resident, rs_ssl, sampler
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.runtime import parallel

RESIDENT, ORDERS, TFDATA = "resident, on the device", "its epoch orders", "tf.data"
LEAST_SECONDS = 0.5  # of one program's turn in a round
ROUNDS = 9
FIRST_STEPS = 16  # of tf.data, not timed: more than its buffers hold


def measure(request: frame.Request) -> frame.Measured:
    """Times batches made on the device and, if TensorFlow is installed, on the host."""
    exp = workload.build(request.config, {}, request.device)
    task = workload.random_task(exp)
    epochs = itertools.count(1)
    runs = {
        RESIDENT: _resident(exp, task),
        # One of its steps is an epoch.
        ORDERS: timing.repeat(lambda: workload.epoch_orders(exp, next(epochs))),
    }
    seconds = timing.in_turns(runs, LEAST_SECONDS, ROUNDS)
    seconds[ORDERS] = seconds[ORDERS] / sampler.STEPS_PER_EPOCH
    # tf.data reads ahead in background threads. In turns with others it would slow them
    # down and have batches ready before its turn, so it runs last and alone.
    host = _tf_data(exp, task)
    if host is not None:
        host(FIRST_STEPS)
        seconds |= timing.in_turns({TFDATA: host}, LEAST_SECONDS, ROUNDS)
    table = []
    for name, times in seconds.items():
        row: frame.Row = {"row": name, **timing.timed(times)}
        rate = 1e3 / row["ms"]
        # A pair is the weak and the strong view of one unlabelled image.
        pairs = exp.dims.unlabeled_batch * rate
        table.append({**row, "steps_per_second": rate, "pairs_per_second": pairs})
    return table, {}


def _resident(exp: Experiment, task: rs_ssl.Task) -> timing.Run:
    """Batches made on the device, one per dispatch."""
    data = resident.gather(task, exp.views, oracle=False, unlabelled=True)
    orders = workload.epoch_orders(exp, 0)
    inputs = parallel.replicate((data, orders), exp.devices)

    def one(step, inputs):
        key = jax.random.key(exp.config.seed)
        return step + 1, resident.make_batch(*inputs, exp.views, key, step)

    mapped = parallel.map_resident_step(one, 1, exp.devices)
    step = parallel.replicate(np.int32(0), exp.devices)
    return workload.program(mapped, step, inputs, parallel.ranks(exp.devices)).run


def _tf_data(exp: Experiment, task: rs_ssl.Task) -> timing.Run | None:
    """Batches made by tf.data on the host and placed on the device; None without
    TensorFlow."""
    try:
        from rsmatch_jax.data import tf_pipeline  # lazy: TensorFlow
    except ImportError:
        terminal.say("tf.data: not measured because TensorFlow is not installed")
        return None
    config = exp.config
    stream = tf_pipeline.batches(
        task.lab_images,
        task.lab_labels,
        task.unl_images,
        exp.views,
        seed=config.seed,
        batch_size=config.train.batch_size,
        unlabeled_ratio=config.train.unlabeled_ratio,
        start_step=0,
        num_steps=2**40,
        prefetch=config.input.prefetch,
    )
    return timing.repeat(lambda: parallel.shard_rows(next(stream), exp.devices))


TABLE = ("row", "ms", "pairs_per_second", "steps_per_second")
BENCH = frame.Bench("input", measure, TABLE, presets=command_line.AS_CONFIGURED)
