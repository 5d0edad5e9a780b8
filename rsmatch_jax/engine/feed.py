"""The two ways in which steps get their images: from the device, or from tf.data.

The loop says how many steps a dispatch may take, the feed says how many it took.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from rsmatch_jax import step
from rsmatch_jax.data import resident, rs_ssl, sampler, screening
from rsmatch_jax.data.stores import dataset_folder
from rsmatch_jax.engine import experiment, memory
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.errors import RequestError
from rsmatch_jax.methods import keys
from rsmatch_jax.runs.history import Dispatched
from rsmatch_jax.runtime import compilation, parallel
from rsmatch_jax.state import Batch, TrainState

GIB = 2**30


class Feed:
    """The mapped train steps, which are compiled once, and their images.

    mapped: {steps in a dispatch: program}, 1 among them. most: the largest of them.
    """

    def __init__(self, exp: Experiment, mapped: Mapping[int, jax.stages.Wrapped]):
        self._exp, self._mapped, self.most = exp, mapped, max(mapped)
        self._programs: dict[int, jax.stages.Compiled] = {}

    def inputs(self, done: int) -> tuple[Any, ...]:
        """Returns the inputs after the state of a dispatch after the step `done`."""
        raise NotImplementedError

    def lower(self, state: TrainState, done: int = 0) -> dict[int, jax.stages.Lowered]:
        """Returns the programs, not compiled, by their number of steps."""
        inputs = self.inputs(done)
        return {n: mapped.lower(state, *inputs) for n, mapped in self._mapped.items()}

    def compile(self, state: TrainState, done: int = 0) -> jax.stages.Compiled:
        """Compiles the steps before their `run`, side by side; returns the program with
        the most."""
        platform = self._exp.devices[0].platform
        self._programs = compilation.all_compiled(self.lower(state, done), platform)
        return self._programs[self.most]

    def run(
        self, state: TrainState, done: int, room: int
    ) -> tuple[TrainState, Dispatched]:
        """Dispatches 1 to `room` of the steps after `done`, without waiting for them;
        donates the state."""
        if not self._programs:
            self.compile(state, done)
        count = self.most if self._fits(done, room) else 1
        state, metrics = self._programs[count](state, *self.inputs(done))
        return state, Dispatched(metrics, count)

    def _fits(self, done: int, room: int) -> bool:
        """Whether a dispatch of `most` steps is possible after the step `done`."""
        return room >= self.most


def make(exp: Experiment, task: rs_ssl.Task) -> tuple[Feed, str]:
    """Returns the feed of a run, and lines about its memory and its input; raises
    RequestError if the run, or its images with input.mode=resident, do not fit."""
    options, on_device = exp.config.input, resident_bytes(exp, task)
    size, too_large = _sizes(exp, task)
    memory_line = memory.check(exp, on_device)
    check(exp, task)
    if on_device:
        feed_line, steps = f"resident, {size} on each device", 1
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


def check(exp: Experiment, task: rs_ssl.Task):
    """Raises RequestError if there can be no such feed, on whatever device."""
    experiment.unlabelled_parts(exp.config, task)
    on_device = resident_bytes(exp, task)
    if not on_device and keys.candidate_rows(exp.config):
        ratio, way_out = exp.config.train.candidate_ratio, "leave it out (None)"
        if not task.encoded:
            way_out = "raise input.resident_budget_gb, use input.mode=resident, or "
            way_out += "leave it out (None)"
        raise RequestError(
            f"train.candidate_ratio={ratio}: the detector screens images that lie on "
            f"the device, and these do not; {way_out}"
        )
    if exp.config.input.mode == "resident" and not on_device:
        raise RequestError(
            f"input.mode=resident: {_sizes(exp, task)[1]}; raise it, or use "
            "input.mode=tfdata"
        )


def _sizes(exp: Experiment, task: rs_ssl.Task) -> tuple[str, str]:
    """Returns how large the images are, and that this is too large, in words."""
    num_bytes = resident.num_bytes(task, unlabelled=exp.method.uses_unlabeled)
    size = f"{num_bytes / 2**20:.0f} MiB of images"
    budget = exp.config.input.resident_budget_gb
    return size, f"{size} are more than input.resident_budget_gb={budget}"


def resident_bytes(exp: Experiment, task: rs_ssl.Task) -> int:
    """Returns the bytes of images on each device; 0 if the host makes the views."""
    options = exp.config.input
    if options.mode == "tfdata" or task.encoded:
        return 0
    num_bytes = resident.num_bytes(task, unlabelled=exp.method.uses_unlabeled)
    return num_bytes if num_bytes <= options.resident_budget_gb * GIB else 0


def repeated(
    one_step: Callable, most: int, devices: Sequence[jax.Device]
) -> dict[int, jax.stages.Wrapped]:
    """Returns `Feed`'s programs of (state, inputs, ranks): one step, and `most`."""
    programs = {1: one_step} | ({most: step.repeat(one_step, most)} if most > 1 else {})
    return {n: parallel.map_resident_step(p, 1, devices) for n, p in programs.items()}


def resident_programs(exp: Experiment, most: int) -> dict[int, jax.stages.Wrapped]:
    """Returns `repeated` of a step that makes its views from the resident images."""
    train_step, method = exp.one_step(), exp.method
    candidates = keys.candidate_rows(exp.config)
    scores = step.make_screen(method, exp.nets)

    def one(state, inputs):
        data, orders = inputs

        def screen(candidates):
            share = exp.config.train.candidate_synthetic
            rows = exp.dims.unlabeled_batch
            return screening.choose(scores(state, candidates), rows, share)

        batch = resident.make_batch(
            data,
            orders,
            exp.views,
            state.key,
            state.step,
            weak_views=method.weak_views,
            screen=screen if candidates else None,
        )
        return train_step(state, batch)

    return repeated(one, most, exp.devices)


def gathered(exp: Experiment, task: rs_ssl.Task) -> resident.Resident:
    """Returns the images that a run's devices hold, in host memory."""
    oracle, unlabelled = exp.method.needs_truth, exp.method.uses_unlabeled
    return resident.gather(task, exp.views, oracle=oracle, unlabelled=unlabelled)


def epoch_orders(
    exp: Experiment, epoch: jax.typing.ArrayLike, parts: sampler.Parts | None = None
) -> resident.Orders:
    """Returns the orders of an epoch's images, see `resident.epoch_orders`."""
    return resident.epoch_orders(
        exp.config.seed,
        epoch,
        exp.dims,
        unlabelled=exp.method.uses_unlabeled,
        parts=parts,
        candidates=keys.candidate_rows(exp.config),
    )


class ResidentFeed(Feed):
    """Images and views on the device, several steps a dispatch."""

    def __init__(self, exp: Experiment, task: rs_ssl.Task, most: int):
        """most: steps in one dispatch; fewer go one by one."""
        super().__init__(exp, resident_programs(exp, most))
        self._images = parallel.replicate(gathered(exp, task), exp.devices)
        self._ranks = parallel.ranks(exp.devices)
        self._epoch, self._orders = -1, None
        self._parts = experiment.unlabelled_parts(exp.config, task)

    def inputs(self, done):
        self.prepare(done)
        return (self._images, self._orders), self._ranks

    def _fits(self, done, room):
        left = sampler.STEPS_PER_EPOCH - done % sampler.STEPS_PER_EPOCH
        return min(room, left) >= self.most

    def prepare(self, done: int):
        """Makes the orders of images for the epoch of the step after `done`."""
        epoch = done // sampler.STEPS_PER_EPOCH
        if epoch != self._epoch:
            orders = epoch_orders(self._exp, epoch, self._parts)
            self._orders = parallel.replicate(orders, self._exp.devices)
            self._epoch = epoch


class TfDataFeed(Feed):
    """Views that tf.data makes on the host, one step a dispatch."""

    def __init__(self, exp: Experiment, task: rs_ssl.Task):
        otherwise = ", or use input.mode=resident"
        with dataset_folder.needs_tensorflow("input.mode=tfdata", otherwise):
            from rsmatch_jax.data import tf_pipeline  # lazy: TensorFlow
        super().__init__(exp, {1: exp.train_step()})
        config, method = exp.config, exp.method
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
            unlabelled_rows=exp.dims.unlabeled_batch * method.uses_unlabeled,
            num_steps=config.train.num_steps,
            prefetch=config.input.prefetch,
            weak_views=method.weak_views,
            parts=experiment.unlabelled_parts(config, task),
            synthetic=task.unl_synthetic if method.needs_truth else None,
            own_rows=functools.partial(parallel.own_rows, devices=exp.devices),
        )

    def inputs(self, done):
        if self._read is not None:
            batch, self._read = self._read, None
            return (batch,)
        if self._batches is None:  # from here on the stream counts steps
            self._batches = self._open(start_step=done)
        return (parallel.shard_rows(next(self._batches), self._exp.devices),)

    def lower(self, state, done=0):
        (self._read,) = self.inputs(done)  # the first `run` takes it
        return {1: self._mapped[1].lower(state, self._read)}
