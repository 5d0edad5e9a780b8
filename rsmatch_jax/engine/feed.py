"""The two ways in which steps get their images: from the device, or from tf.data.

The loop says how many steps a dispatch may take, the feed says how many it took.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from rsmatch_jax import step
from rsmatch_jax.data import resident, rs_ssl, sampler
from rsmatch_jax.data.stores import dataset_folder
from rsmatch_jax.engine import memory
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.errors import RequestError
from rsmatch_jax.runs.history import Dispatched
from rsmatch_jax.runtime import compilation, parallel
from rsmatch_jax.state import Batch, TrainState

GIB = 2**30


class Feed:
    """The mapped train step, which is compiled once, and its images. most: the maximum
    number of steps in one dispatch."""

    most = 1

    def __init__(self, exp: Experiment, mapped: jax.stages.Wrapped):
        self._exp, self._mapped = exp, mapped
        self._program: jax.stages.Compiled | None = None

    def inputs(self, done: int, room: int) -> tuple[tuple[Any, ...], int]:
        """Returns the step's inputs after the state, for up to `room` of the steps
        after `done`, and how many steps they are for."""
        raise NotImplementedError

    def lower(self, state: TrainState, done: int = 0) -> jax.stages.Lowered:
        """Returns the program of the step after `done`, not compiled."""
        inputs, _ = self.inputs(done, self.most)
        return self._mapped.lower(state, *inputs)

    def compile(self, state: TrainState, done: int = 0) -> jax.stages.Compiled:
        """Compiles the step after `done` before its `run`; returns the program."""
        platform = self._exp.devices[0].platform
        self._program = compilation.compiled(self.lower(state, done), platform)
        return self._program

    def run(
        self, state: TrainState, done: int, room: int
    ) -> tuple[TrainState, Dispatched]:
        """Dispatches 1 to `room` of the steps after `done`, without waiting for them;
        donates the state."""
        program = self._program or self.compile(state, done)
        inputs, count = self.inputs(done, room)
        state, metrics = program(state, *inputs)
        return state, Dispatched(metrics, count)


def make(exp: Experiment, task: rs_ssl.Task) -> tuple[Feed, str]:
    """Returns the feed of a run, and lines about its memory and its input; raises
    RequestError if the run, or its images with input.mode=resident, do not fit."""
    options, on_device = exp.config.input, resident_bytes(exp, task)
    num_bytes = resident.num_bytes(task, unlabelled=exp.method.uses_unlabeled)
    size = f"{num_bytes / 2**20:.0f} MiB of images"
    budget = options.resident_budget_gb
    too_large = f"{size} are more than input.resident_budget_gb={budget}"
    memory_line = memory.check(exp, on_device)
    if options.mode == "resident" and not on_device:
        raise RequestError(
            f"input.mode=resident: {too_large}; raise it, or use input.mode=tfdata"
        )
    if on_device:
        feed_line, steps = f"resident, {size} on each device", None
        if exp.devices[0].platform != "cpu":
            steps = exp.config.train.steps_per_dispatch
        else:
            feed_line += "; one step a dispatch, because a CPU is slow at convolutions "
            feed_line += "in loops"
        feed = ResidentFeed(exp, task, steps)
    else:
        feed, feed_line = TfDataFeed(exp, task), "tf.data on the host"
        if task.encoded:
            feed_line += "; images are decoded at every step (data.image_size), "
            feed_line += f"{size} in all"
        elif options.mode != "tfdata":
            feed_line += f"; {too_large}"
    return feed, f"{memory_line}\ninput: {feed_line}"


def resident_bytes(exp: Experiment, task: rs_ssl.Task) -> int:
    """Returns the bytes of images on each device; 0 if the host makes the views."""
    options = exp.config.input
    if options.mode == "tfdata" or task.encoded:
        return 0
    num_bytes = resident.num_bytes(task, unlabelled=exp.method.uses_unlabeled)
    return num_bytes if num_bytes <= options.resident_budget_gb * GIB else 0


class ResidentFeed(Feed):
    """Images and views on the device, several steps a dispatch. All lengths have one
    program, so that they change no bit."""

    def __init__(self, exp: Experiment, task: rs_ssl.Task, loop: int | None):
        """loop: maximum of steps a dispatch; None = a program of one step, no loop."""
        train_step, method = exp.one_step(), exp.method

        def one(state, inputs):
            data, orders = inputs
            batch = resident.make_batch(
                data,
                orders,
                exp.views,
                state.key,
                state.step,
                weak_views=method.weak_views,
            )
            return train_step(state, batch)

        program = step.repeat(one, loop) if loop else one
        mapped = parallel.map_resident_step(program, 2 if loop else 1, exp.devices)
        super().__init__(exp, mapped)
        self.most, self._loop = loop or 1, loop is not None
        images = resident.gather(
            task, exp.views, oracle=method.needs_truth, unlabelled=method.uses_unlabeled
        )
        self._images = parallel.replicate(images, exp.devices)
        self._ranks = parallel.ranks(exp.devices)
        self._epoch, self._orders = -1, None

    def inputs(self, done, room):
        self.prepare(done)
        into_epoch = done % sampler.STEPS_PER_EPOCH
        count = min(room, self.most, sampler.STEPS_PER_EPOCH - into_epoch)
        counts = [np.int32(count)] if self._loop else []
        return ((self._images, self._orders), *counts, self._ranks), count

    def prepare(self, done: int):
        """Makes the orders of images for the epoch of the step after `done`."""
        epoch = done // sampler.STEPS_PER_EPOCH
        if epoch != self._epoch:
            orders = resident.epoch_orders(
                self._exp.config.seed,
                epoch,
                self._exp.dims,
                unlabelled=self._exp.method.uses_unlabeled,
            )
            self._orders = parallel.replicate(orders, self._exp.devices)
            self._epoch = epoch


class TfDataFeed(Feed):
    """Views that tf.data makes on the host, one step a dispatch."""

    def __init__(self, exp: Experiment, task: rs_ssl.Task):
        otherwise = ", or use input.mode=resident"
        with dataset_folder.needs_tensorflow("input.mode=tfdata", otherwise):
            from rsmatch_jax.data import tf_pipeline  # lazy: TensorFlow
        super().__init__(exp, exp.train_step())
        config, method = exp.config, exp.method
        ratio = config.train.unlabeled_ratio if method.uses_unlabeled else 0
        self._batches: Iterator[Batch] | None = None
        self._read: Batch | None = None  # read to compile, not yet trained on
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
            weak_views=method.weak_views,
            synthetic=task.unl_synthetic if method.needs_truth else None,
            own_rows=functools.partial(parallel.own_rows, devices=exp.devices),
        )

    def inputs(self, done, room):
        del room
        if self._read is not None:
            batch, self._read = self._read, None
            return (batch,), 1
        if self._batches is None:  # from here on the stream counts steps
            self._batches = self._open(start_step=done)
        return (parallel.shard_rows(next(self._batches), self._exp.devices),), 1

    def lower(self, state, done=0):
        (self._read,), _ = self.inputs(done, 1)  # the first `run` takes it
        return self._mapped.lower(state, self._read)
