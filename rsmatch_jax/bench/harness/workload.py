"""What benches run: experiments of CIFAR-10's sizes on random batches, compiled.

Batches lie on the device before anything is timed: neither input nor augmentation
counts.
"""

import copy
import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from rsmatch_jax.bench.harness import hlo as hlo_text
from rsmatch_jax.bench.harness import timing
from rsmatch_jax.data import rs_ssl
from rsmatch_jax.engine import checks, experiment, feed
from rsmatch_jax.errors import RequestError
from rsmatch_jax.methods.catalogue import METHODS, Dims
from rsmatch_jax.runtime import compilation, parallel
from rsmatch_jax.state import Batch

VIEWS = {  # that figures with input are about
    "input.flip": True,
    "input.crop_pad": None,
    "input.randaugment_ops": 3,
    "input.cutout": True,
}
NUM_CLASSES, SIZE, PER_CLASS = 10, 32, 5000  # CIFAR-10's training set


def build(
    config: Any, values: Mapping[str, Any], *devices: jax.Device, size: int = SIZE
) -> experiment.Experiment:
    """The experiment of one row, with images of `size` pixels. Raises RequestError for
    a config that cannot work."""
    config = copy.deepcopy(config)  # keeps the lock: a key that is not there raises
    for key, value in values.items():
        group, last = key.rsplit(".", 1)
        checks.get(config, group)[last] = value
    if config.method.name != "simmatch":
        config.method.simmatch.epass = False  # refused beside another method
    checks.check(config, len(devices))
    if config.data.labels_per_class > PER_CLASS:
        raise RequestError(
            f"data.labels_per_class={config.data.labels_per_class}: this bench has the "
            f"sizes of CIFAR-10, {PER_CLASS} images a class"
        )
    method = METHODS[config.method.name]
    method.check_data(config, NUM_CLASSES, num_synthetic=1)
    pad = config.input.crop_pad
    dims = Dims(
        num_classes=NUM_CLASSES,
        image_shape=(size, size, 3),
        crop_pad=size // 8 if pad is None else pad,
        batch_size=config.train.batch_size,
        unlabeled_batch=config.train.batch_size * config.train.unlabeled_ratio,
        num_labeled=NUM_CLASSES * config.data.labels_per_class,
        num_unlabeled=NUM_CLASSES * PER_CLASS,
    )
    return experiment.build(config, dims, config.data.name, devices)


def random_batch(exp: experiment.Experiment) -> Batch:
    """One global batch of noise, numpy; the same for all methods of one size."""
    rng, d = np.random.default_rng(exp.config.seed), exp.dims
    unlabeled = d.unlabeled_batch if exp.method.uses_unlabeled else 0

    def images(n):
        return rng.integers(0, 256, (n, *d.image_shape), dtype=np.uint8)

    def numbers(n, end):
        return rng.integers(0, end, n, dtype=np.int32)

    return Batch(
        lab=images(d.batch_size),
        labels=numbers(d.batch_size, d.num_classes),
        lab_indices=numbers(d.batch_size, d.num_labeled),
        weak=images(unlabeled),
        strong=images(unlabeled),
        indices=numbers(unlabeled, d.num_unlabeled),
        synthetic=numbers(unlabeled, 2).astype(bool)
        if exp.method.needs_truth
        else None,
    )


def resident_feed(
    exp: experiment.Experiment, num_unlabeled: int | None = None
) -> feed.ResidentFeed:
    """A run's own input, from random images, as many steps a dispatch as a run has on
    this device: on a CPU one, without a loop. num_unlabeled: as in `random_task`."""
    on_cpu = exp.devices[0].platform == "cpu"
    loop = None if on_cpu else exp.config.train.steps_per_dispatch
    return feed.ResidentFeed(exp, random_task(exp, num_unlabeled), loop)


def random_task(
    exp: experiment.Experiment, num_unlabeled: int | None = None
) -> rs_ssl.Task:
    """As many images as the experiment has, all noise, half of the unlabelled ones
    called synthetic; nothing to evaluate on. num_unlabeled: instead of its own."""
    rng, d = np.random.default_rng(exp.config.seed), exp.dims
    count = d.num_unlabeled if num_unlabeled is None else num_unlabeled

    def images(n):
        return rng.integers(0, 256, (n, *d.image_shape), dtype=np.uint8)

    def labels(n):
        return rng.integers(0, d.num_classes, n, dtype=np.int32)

    none = np.zeros(0, np.int32)
    synthetic = np.arange(count) % 2 == 1
    return rs_ssl.Task(
        name=exp.config.data.name,
        split=rs_ssl.Split(none, none, none, none),
        class_names=tuple(map(str, range(d.num_classes))),
        generator_names=("noise",),
        lab_images=images(d.num_labeled),
        lab_labels=labels(d.num_labeled),
        unl_images=images(count),
        unl_labels=labels(count),
        unl_synthetic=synthetic,
        unl_generator=np.where(synthetic, 0, -1).astype(np.int32),
        val_images=images(0),
        val_labels=none,
        test_images=images(0),
        test_labels=none,
    )


def gflop(exp: experiment.Experiment) -> float | None:
    """Operations of one step in 10^9, counted in the program before any backend has
    rewritten it: the same on every device. None where JAX may not use the CPU, which
    alone counts ahead of compiling."""
    try:
        cpu = jax.local_devices(backend="cpu")[:1]
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        return None
    exp = dataclasses.replace(exp, devices=cpu)
    state = jax.eval_shape(exp.init_state)
    batch = jax.tree.map(lambda x: parallel.deal(x, 1), random_batch(exp))
    counted = exp.train_step().lower(state, batch).cost_analysis() or {}
    return None if "flops" not in counted else counted["flops"] / 1e9


class Program:
    """A compiled step with its state, which it is donated and gives back each time."""

    def __init__(self, exp: experiment.Experiment):
        batch = random_batch(exp)
        self.images = len(batch.lab) + len(batch.weak) + len(batch.strong)
        self._batch = parallel.shard_rows(batch, exp.devices)
        self._state = jax.block_until_ready(exp.init_state())
        begin = time.perf_counter()
        self._step = compilation.compiled(
            exp.train_step().lower(self._state, self._batch), exp.devices[0].platform
        )
        self._compile_seconds = time.perf_counter() - begin

    def run(self, steps: int):
        for _ in range(steps):
            self._state, metrics = self._step(self._state, self._batch)
        jax.block_until_ready((self._state, metrics))

    def cost(self) -> dict[str, Any]:
        """`cost` of the step. Tracing counts as compiling; a compilation cache that is
        switched on makes it short."""
        return {
            "compile_seconds": self._compile_seconds,
            **cost(self._step, self._state),
        }


def cost(compiled: Any, state: Any) -> dict[str, Any]:
    """What the compiler says of a program: GFLOP, bytes, buffers, messages between
    devices. None for what the backend does not tell. Of a loop one turn counts.

    compiled: jax.stages.Compiled; state: its first argument, which it is donated.
    """
    counted = compiled.cost_analysis() or {}
    memory, hlo = compiled.memory_analysis(), compiled.as_text()
    flops = counted.get("flops")
    return {
        "gflop": None if flops is None else flops / 1e9,
        "bytes_accessed": counted.get("bytes accessed"),
        "temp_bytes": None if memory is None else memory.temp_size_in_bytes,
        "state_leaves": len(jax.tree.leaves(state)),
        "aliased_leaves": hlo_text.aliased_leaves(hlo),
        "collectives": hlo_text.collectives(hlo),
    }


def in_turns(
    runs: Mapping[str, timing.Run],
    least_seconds: float,
    rounds: int,
    units: Mapping[str, int] | None = None,
) -> dict[str, np.ndarray]:
    """Seconds a step, {name: float [rounds]}, of programs that take turns of at least
    `least_seconds` each, of whole multiples of `units` steps (1 where it has none)."""
    steps = {}
    for name, run in runs.items():
        unit = (units or {}).get(name, 1)
        least, _ = timing.warm_up(run, least_seconds)
        steps[name] = unit * math.ceil(least / unit)
    return timing.interleave(runs, steps, rounds)


def holds(config: Any, values: Mapping[str, Any]) -> bool:
    """Whether the config has these values, {dotted key: value}."""
    return all(checks.get(config, key) == value for key, value in values.items())
