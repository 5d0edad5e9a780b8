"""The two ways in which steps get their images, behind one interface.

A feed holds the mapped train step and the images. The loop says how many steps a
dispatch may take, the feed says how many it took.
"""

import functools
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from rsmatch_jax import step
from rsmatch_jax.data import resident, rs_ssl, sampler
from rsmatch_jax.engine import memory
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.errors import RequestError
from rsmatch_jax.runs.history import Dispatched
from rsmatch_jax.runtime import compilation, parallel
from rsmatch_jax.state import Batch, TrainState

GIB = 2**30


class Feed(Protocol):
    """most: the maximum number of steps in one dispatch."""

    most: int

    def run(
        self, state: TrainState, done: int, room: int
    ) -> tuple[TrainState, Dispatched]:
        """Dispatches 1 to `room` of the steps after `done`, without waiting for them.

        The state is donated.
        """
        ...

    def compile(self, state: TrainState, done: int = 0) -> Any:
        """Compiles the step after `done` before its `run`; returns the program."""
        ...


def make(exp: Experiment, task: rs_ssl.Task) -> tuple[Feed, str]:
    """Returns the feed of a run, and lines about its memory and its input.

    Raises:
        RequestError: a device cannot hold the run, or the images do not fit
            input.mode=resident.
    """
    config = exp.config
    mode = config.input.mode
    num_bytes = resident.num_bytes(task, unlabelled=exp.method.uses_unlabeled)
    size = f"{num_bytes / 2**20:.0f} MiB of images"
    limit = f"input.resident_budget_gb={config.input.resident_budget_gb}"
    on_device = resident_bytes(exp, task)
    parts, device_bytes = memory.parts(exp, on_device), memory.limit(exp.devices)
    memory.check(parts, device_bytes, exp.method.memory_keys)
    lines = "\n".join([*memory.describe(parts, device_bytes), "input: "])
    if mode == "resident" and not on_device:
        raise RequestError(
            f"input.mode=resident: {size} are more than {limit}; raise it, or use "
            "input.mode=tfdata"
        )
    if on_device:
        lines += f"resident, {size} on each device"
        if exp.devices[0].platform != "cpu":
            return ResidentFeed(exp, task, config.train.steps_per_dispatch), lines
        lines += "; one step a dispatch, because a CPU is slow at convolutions in loops"
        return ResidentFeed(exp, task, None), lines
    lines += "tf.data on the host"
    if task.encoded:
        lines += "; images are decoded at every step (data.image_size), "
        lines += f"{size} in all"
    elif mode != "tfdata":
        lines += f"; {size} are more than {limit}"
    return TfDataFeed(exp, task), lines


def resident_bytes(exp: Experiment, task: rs_ssl.Task) -> int:
    """Returns the bytes of images on each device; 0 if the host makes the views."""
    options = exp.config.input
    if options.mode == "tfdata" or task.encoded:
        return 0
    num_bytes = resident.num_bytes(task, unlabelled=exp.method.uses_unlabeled)
    return num_bytes if num_bytes <= options.resident_budget_gb * GIB else 0


class ResidentFeed:
    """Images and views on the device, several steps a dispatch.

    One program for any number of steps: the length of a dispatch changes no bit.
    """

    def __init__(self, exp: Experiment, task: rs_ssl.Task, loop: int | None):
        """loop: maximum of steps a dispatch; None = a program of one step, no loop."""
        self.most = loop or 1
        self._exp, self._loop, self._program = exp, loop is not None, None
        self._data = parallel.replicate(
            resident.gather(
                task,
                exp.views,
                oracle=exp.method.needs_truth,
                unlabelled=exp.method.uses_unlabeled,
            ),
            exp.devices,
        )
        self._ranks = parallel.ranks(exp.devices)
        self._epoch, self._orders = None, None

        train_step = exp.one_step()

        def one(state, inputs):
            data, orders = inputs
            batch = resident.make_batch(
                data,
                orders,
                exp.views,
                state.key,
                state.step,
                weak_views=exp.method.weak_views,
            )
            return train_step(state, batch)

        program = step.repeat(one, self.most) if self._loop else one
        self._step = parallel.map_resident_step(
            program, 2 if self._loop else 1, exp.devices
        )

    def run(self, state, done, room):
        into_epoch = done % sampler.STEPS_PER_EPOCH
        count = min(room, self.most, sampler.STEPS_PER_EPOCH - into_epoch)
        program = self._program or self.compile(state)
        state, metrics = program(state, *self._arguments(done, count))
        return state, Dispatched(metrics, count)

    def lower(self, state: TrainState) -> Any:
        """Returns the step's program before it is compiled, a jax.stages.Lowered."""
        return self._step.lower(state, *self._arguments(0, self.most))

    def compile(self, state, done=0) -> Any:
        del done  # all steps have one program
        platform = self._exp.devices[0].platform
        self._program = compilation.compiled(self.lower(state), platform)
        return self._program

    def prepare(self, done: int):
        """Makes the orders of images for the epoch of the step after `done`."""
        epoch = done // sampler.STEPS_PER_EPOCH
        if epoch != self._epoch:
            dims = self._exp.dims
            unlabelled = self._exp.method.uses_unlabeled
            orders = resident.epoch_orders(
                self._exp.config.seed,
                epoch,
                num_labelled=dims.num_labeled,
                num_unlabelled=dims.num_unlabeled,
                batch=dims.batch_size,
                unlabelled_batch=dims.unlabeled_batch if unlabelled else 0,
            )
            self._orders = parallel.replicate(orders, self._exp.devices)
            self._epoch = epoch

    def _arguments(self, done, count):
        self.prepare(done)
        inputs = (self._data, self._orders)
        if self._loop:
            return inputs, np.int32(count), self._ranks
        return inputs, self._ranks


class TfDataFeed:
    """Views that tf.data makes on the host, one step a dispatch."""

    most = 1

    def __init__(self, exp: Experiment, task: rs_ssl.Task):
        try:
            # lazy: TensorFlow
            from rsmatch_jax.data import tf_pipeline
        except ImportError as e:
            raise RequestError(
                f"input.mode=tfdata needs TensorFlow ({e}): pip install -r "
                "requirements.txt, or use input.mode=resident"
            ) from e
        config = exp.config
        ratio = config.train.unlabeled_ratio if exp.method.uses_unlabeled else 0
        self._exp, self._step, self._program = exp, exp.train_step(), None
        self._batches: Iterator[Batch] | None = None
        self._first: Batch | None = None  # read to compile, not yet trained on
        self._open = functools.partial(
            tf_pipeline.batches,
            task.lab_images,
            task.lab_labels,
            task.unl_images,
            exp.views,
            seed=config.seed,
            batch_size=config.train.batch_size,
            unlabeled_ratio=ratio,
            num_steps=config.train.num_steps,
            prefetch=config.input.prefetch,
            weak_views=exp.method.weak_views,
            synthetic=task.unl_synthetic if exp.method.needs_truth else None,
            own_rows=functools.partial(parallel.own_rows, devices=exp.devices),
        )

    def run(self, state, done, room):
        del room
        batch = self._next(done)
        program = self._program or self._compiled(state, batch)
        state, metrics = program(state, batch)
        return state, Dispatched(metrics, 1)

    def compile(self, state, done=0):
        self._first = self._next(done)
        return self._compiled(state, self._first)

    def _compiled(self, state, batch):
        platform = self._exp.devices[0].platform
        lowered = self._step.lower(state, batch)
        self._program = compilation.compiled(lowered, platform)
        return self._program

    def _next(self, done):
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if self._batches is None:  # from here on the stream counts steps
            self._batches = self._open(start_step=done)
        return parallel.shard_rows(next(self._batches), self._exp.devices)
