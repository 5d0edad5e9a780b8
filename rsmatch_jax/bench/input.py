"""Times the input alone: finding images and making views, without training."""

import itertools

import jax
import numpy as np

from rsmatch_jax import terminal
from rsmatch_jax.bench.harness import command_line, frame, timing, workload
from rsmatch_jax.data import resident, sampler
from rsmatch_jax.engine import feed
from rsmatch_jax.errors import RequestError
from rsmatch_jax.runtime import parallel

RESIDENT, ORDERS, TFDATA = "resident, on the device", "its epoch orders", "tf.data"
# FixMatch takes a weak and a strong view of each unlabelled image. The stream of
# tf.data does not end within so many steps.
VALUES = {"method.name": "fixmatch", "train.num_steps": 2**40}
LEAST_SECONDS = 0.5  # of one program's turn in a round
ROUNDS = 9
FIRST_STEPS = 16  # of tf.data, not timed: more than its buffers hold


def measure(request: frame.Request) -> frame.Measured:
    """Times batches made on the device and, if TensorFlow is installed, on the host."""
    exp = workload.build(request.config, VALUES, request.device)
    task = workload.random_task(exp)
    source, epochs = feed.ResidentFeed(exp, task, 1), itertools.count(1)

    def next_orders():
        return source.inputs(next(epochs) * sampler.STEPS_PER_EPOCH)

    def one(step, inputs):
        key = jax.random.key(exp.config.seed)
        return step + 1, resident.make_batch(*inputs, exp.views, key, step)

    mapped = parallel.map_resident_step(one, 1, exp.devices)
    step = parallel.replicate(np.int32(0), exp.devices)
    batches = workload.program(mapped, step, *source.inputs(0))
    # A step of the second program is an epoch.
    runs = {RESIDENT: batches.run, ORDERS: timing.repeat(next_orders)}
    seconds = timing.in_turns(runs, LEAST_SECONDS, ROUNDS)
    seconds[ORDERS] = seconds[ORDERS] / sampler.STEPS_PER_EPOCH
    # tf.data reads ahead in background threads. In turns with others it would slow them
    # down and have batches ready before its turn, so it runs last and alone.
    try:
        host = timing.repeat(feed.TfDataFeed(exp, task).inputs, 0)
    except RequestError:
        terminal.say("tf.data: not measured because TensorFlow is not installed")
    else:
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


TABLE = ("row", "ms", "pairs_per_second", "steps_per_second")
BENCH = frame.Bench("input", measure, TABLE, presets=command_line.AS_CONFIGURED)
