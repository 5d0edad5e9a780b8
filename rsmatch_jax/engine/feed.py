"""How steps get their images: two ways with one face.

A feed holds the mapped train step and what it reads. The loop says how far it may go,
the feed says how far it went.
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
    """most: the most steps of one dispatch; 1 on a CPU, see `make`."""

    most: int

    def run(
        self, state: TrainState, done: int, room: int
    ) -> tuple[TrainState, Dispatched]:
        """Dispatches one or more of the steps after `done`, at most `room`. The state
        is donated; nothing waits for the device."""
        ...

    def compile(self, state: TrainState, done: int = 0) -> Any:
        """Compiles the step after `done`, which its `run` does otherwise: the
        program."""
        ...


def make(exp: Experiment, task: rs_ssl.Task) -> tuple[Feed, str]:
    """The feed of a run, and a line that says which it is.

    Raises RequestError where the images cannot be had in the way asked for, or where a
    device cannot hold the run.
    """
    config = exp.config
    needed = resident.num_bytes(task, unlabelled=exp.method.uses_unlabeled)
    mode = config.input.mode
    size = f"{needed / 2**20:.0f} MiB of images"
    limit = f"input.resident_budget_gb={config.input.resident_budget_gb}"
    on_device = resident_bytes(exp, task)
    parts, limit_bytes = memory.parts(exp, on_device), memory.limit(exp.devices)
    memory.check(parts, limit_bytes, exp.method.memory_keys)
    if mode == "resident" and not on_device:
        raise RequestError(
            f"input.mode=resident: {size} are more than {limit}; raise it, or use "
            "input.mode=tfdata"
        )
    if on_device:
        line = f"input: resident, {size} on each device"
        if exp.devices[0].platform != "cpu":
            return ResidentFeed(exp, task, config.train.steps_per_dispatch), line
        line += "; one step a dispatch, for loops over convolutions are slow on a CPU"
        return ResidentFeed(exp, task, None), line
    why = "" if mode == "tfdata" else f"; {size} are more than {limit}"
    if task.encoded:
        why = f"; images are decoded at every step (data.image_size), {size} if kept"
    return TfDataFeed(exp, task), f"input: tf.data on the host{why}"


def resident_bytes(exp: Experiment, task: rs_ssl.Task) -> int:
    """Of the images that lie on each device; 0 where the host makes the views."""
    own = exp.config.input
    needed = resident.num_bytes(task, unlabelled=exp.method.uses_unlabeled)
    fits = needed <= own.resident_budget_gb * GIB and not task.encoded
    return needed if fits and own.mode != "tfdata" else 0


class ResidentFeed:
    """Images and views made on the device, several steps a dispatch.

    The same program whatever the number of steps, so that where a dispatch ends
    changes no bit. loop: the most steps of one; None = a program of one step, without
    a loop.
    """

    def __init__(self, exp: Experiment, task: rs_ssl.Task, loop: int | None):
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
        """The step's program before it is compiled (jax.stages.Lowered)."""
        return self._step.lower(state, *self._arguments(0, self.most))

    def compile(self, state, done=0):
        del done  # any step's program is every step's
        platform = self._exp.devices[0].platform
        self._program = compilation.compiled(self.lower(state), platform)
        return self._program

    def prepare(self, done: int):
        """Has the orders of the epoch of the step after `done` ready."""
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
    """Views made on the host by tf.data, one step a dispatch."""

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
        self._first: Batch | None = None  # read to compile, and not yet trained on
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
        if self._batches is None:  # from here on the stream knows its step
            self._batches = self._open(start_step=done)
        return parallel.shard_rows(next(self._batches), self._exp.devices)
