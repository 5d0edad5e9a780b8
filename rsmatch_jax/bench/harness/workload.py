"""The programs that benches time: steps on random images of CIFAR-10's sizes, which
lie on the device before anything is timed."""

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from rsmatch_jax.bench.harness import hlo, traffic
from rsmatch_jax.data import rs_ssl
from rsmatch_jax.engine import checks, feed
from rsmatch_jax.engine import experiment as experiments
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.methods import catalogue
from rsmatch_jax.runtime import compilation, parallel
from rsmatch_jax.state import Batch, PyTree

PAPER = {"train.batch_size": 64, "train.unlabeled_ratio": 7}  # the paper's batch
VIEWS = {  # of figures that include the input
    "input.flip": True,
    "input.crop_pad": None,
    "input.randaugment_ops": 3,
    "input.cutout": True,
}
NUM_CLASSES, SIZE, PER_CLASS = 10, 32, 5000  # CIFAR-10's training set
NUM_UNLABELED = NUM_CLASSES * PER_CLASS


def build(
    config: Any,
    values: Mapping[str, Any],
    *devices: jax.Device,
    size: int = SIZE,
    classes: int = NUM_CLASSES,
) -> Experiment:
    """The experiment of a config with changed values, on images of `size` pixels and
    `classes` classes. Raises RequestError if the config cannot work."""
    config = copy.deepcopy(config)  # stays locked: an unknown key raises
    for key, value in values.items():
        group, last = key.rsplit(".", 1)
        checks.get(config, group)[last] = value
    checks.check(config, len(devices))
    if config.data.labels_per_class > PER_CLASS:
        sizes = f"the sizes of CIFAR-10, {PER_CLASS} images per class"
        way_out = f"this bench has {sizes}; use at most as many"
        checks.refuse(config, "data.labels_per_class", way_out)
    method = catalogue.METHODS[config.method.name]
    method.check_data(config, classes, num_synthetic=1)
    pad = config.input.crop_pad
    dims = catalogue.Dims(
        num_classes=classes,
        image_shape=(size, size, 3),
        crop_pad=size // 8 if pad is None else pad,
        batch_size=config.train.batch_size,
        unlabeled_batch=config.train.batch_size * config.train.unlabeled_ratio,
        num_labeled=classes * config.data.labels_per_class,
        num_unlabeled=NUM_UNLABELED,
    )
    return experiments.build(config, dims, config.data.name, devices)


def images_per_step(exp: Experiment) -> int:
    """Number of views that a step makes or takes, B + 2 U, or B + 3 U."""
    unlabeled = exp.dims.unlabeled_batch if exp.method.uses_unlabeled else 0
    return exp.dims.batch_size + (1 + exp.method.weak_views) * unlabeled


def _noise(exp: Experiment) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(n -> uint8 images [n, S, S, 3], (n, end) -> int32 numbers [n] below end)."""
    rng = np.random.default_rng(exp.config.seed)
    return (
        lambda n: rng.integers(0, 256, (n, *exp.dims.image_shape), dtype=np.uint8),
        lambda n, end: rng.integers(0, end, n, dtype=np.int32),
    )


def random_batch(exp: Experiment) -> Batch:
    """One global batch of noise, numpy; the same for all methods at one size."""
    (images, numbers), d = _noise(exp), exp.dims
    unlabeled = d.unlabeled_batch if exp.method.uses_unlabeled else 0
    needs_truth = exp.method.needs_truth
    return Batch(
        lab=images(d.batch_size),
        labels=numbers(d.batch_size, d.num_classes),
        lab_indices=numbers(d.batch_size, d.num_labeled),
        weak=images(unlabeled),
        strong=images(unlabeled),
        indices=numbers(unlabeled, d.num_unlabeled),
        synthetic=numbers(unlabeled, 2).astype(bool) if needs_truth else None,
        weak2=images(unlabeled) if exp.method.weak_views == 2 else None,
    )


def random_task(exp: Experiment) -> rs_ssl.Task:
    """Training images of noise; every second unlabelled one counts as synthetic."""
    (images, numbers), d = _noise(exp), exp.dims
    empty = np.zeros(0, np.int32)
    synthetic = np.arange(d.num_unlabeled) % 2 == 1
    return rs_ssl.Task(
        name=exp.config.data.name,
        split=rs_ssl.Split(empty, empty, empty, empty),
        class_names=tuple(map(str, range(d.num_classes))),
        generator_names=("noise",),
        lab_images=images(d.num_labeled),
        lab_labels=numbers(d.num_labeled, d.num_classes),
        unl_images=images(d.num_unlabeled),
        unl_labels=numbers(d.num_unlabeled, d.num_classes),
        unl_origins=np.where(synthetic, 0, rs_ssl.REAL).astype(np.int32),
        val_images=images(0),
        val_labels=empty,
        test_images=images(0),
        test_labels=empty,
    )


def resident_feed(exp: Experiment) -> feed.ResidentFeed:
    """A run's input, with random images; on a CPU a dispatch has one step, no loop."""
    on_cpu = exp.devices[0].platform == "cpu"
    most = 1 if on_cpu else exp.config.train.steps_per_dispatch
    return feed.ResidentFeed(exp, random_task(exp), most)


def gflop(exp: Experiment) -> float | None:
    """Operations of one step in 10^9, counted before a backend rewrites the program.

    The number is the same for every device. None if JAX may not use the CPU, the only
    backend that counts before compiling.
    """
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
    """A compiled (state, *args) -> (state, output) with its state, which is donated."""

    def __init__(
        self, make: Callable[[], jax.stages.Compiled], state: PyTree, *args: Any
    ):
        """make: compiles the program, which is timed."""
        self.state, self.args = jax.block_until_ready(state), args
        begin = time.perf_counter()
        self.compiled = make()
        self.compile_seconds = time.perf_counter() - begin

    def run(self, steps: int) -> Any:
        """Does so many steps and waits; returns the last one's output."""
        for _ in range(steps):
            self.state, output = self.compiled(self.state, *self.args)
        return jax.block_until_ready((self.state, output))[1]

    def cost(self) -> dict[str, Any]:
        """What the compiler says about the program; a loop counts as one iteration.

        Values that the backend does not know are None. compile_seconds: with tracing;
        a compilation cache makes it short. kernels: instructions that do work, of which
        fusions are some.
        """
        counted = self.compiled.cost_analysis() or {}
        module, flops = hlo.Module(self.compiled.as_text()), counted.get("flops")
        opcodes = [i.opcode for i, *_ in traffic.work(module)]
        return {
            "compile_seconds": self.compile_seconds,
            "gflop": None if flops is None else flops / 1e9,
            "bytes_accessed": counted.get("bytes accessed"),
            "temp_bytes": temp_bytes(self.compiled),
            "state_leaves": len(jax.tree.leaves(self.state)),
            "aliased_leaves": module.aliased_leaves(),
            "kernels": len(opcodes),
            "fusions": opcodes.count("fusion"),
        }


def temp_bytes(compiled: jax.stages.Compiled) -> int | None:
    """Bytes of a program's buffers within a step; None if the backend does not know."""
    memory = compiled.memory_analysis()
    return None if memory is None else memory.temp_size_in_bytes


def program(mapped: jax.stages.Wrapped, state: PyTree, *args: Any) -> Program:
    """Compiles a mapped (state, *args) -> (state, output)."""
    platform = next(iter(jax.tree.leaves(state)[0].devices())).platform

    def make():
        return compilation.compiled(mapped.lower(state, *args), platform)

    return Program(make, state, *args)


def step_program(exp: Experiment) -> Program:
    """The train step of an experiment on one random batch."""
    batch = parallel.shard_rows(random_batch(exp), exp.devices)
    return program(exp.train_step(), exp.pack(exp.init_state()), batch)


class FeedProgram(Program):
    """The compiled steps of a feed, by default a run's; done: steps done so far."""

    def __init__(self, exp: Experiment, source: feed.Feed | None = None):
        self.feed: feed.Feed = source or resident_feed(exp)
        self.done = 0
        state = exp.pack(exp.init_state())
        super().__init__(lambda: self.feed.compile(state), state)

    def run(self, steps: int) -> Any:
        """Does so many steps and waits; returns the metrics of the last dispatch."""
        end = self.done + steps
        while self.done < end:
            room = end - self.done
            self.state, dispatched = self.feed.run(self.state, self.done, room)
            self.done += dispatched.count
        return jax.block_until_ready((self.state, dispatched.metrics))[1]


def difference(tree: PyTree, reference: PyTree) -> float:
    """The largest difference of two trees of numbers, relative to each leaf's largest
    absolute value in the reference. inf where that is 0, nan where one is nan."""
    worst = [0.0]
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(reference), strict=True)
    for a, b in pairs:
        distance, scale = np.max(np.abs(a - b)), np.max(np.abs(b))
        if distance != 0:  # nan, too
            worst.append(distance / scale if scale != 0 else np.inf)
    return float(np.max(worst))
