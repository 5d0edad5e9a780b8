"""What a run will do, in words: splits, sizes and time."""

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

import jax
import numpy as np

from rsmatch_jax import progress
from rsmatch_jax.data import rs_ssl
from rsmatch_jax.data.rs_ssl import UNKNOWN
from rsmatch_jax.engine import described, feed, memory
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.errors import RequestError
from rsmatch_jax.methods import keys
from rsmatch_jax.runtime import compilation
from rsmatch_jax.runtime.targets import Target
from rsmatch_jax.state import PyTree
from rsmatch_jax.terminal import counted, duration, say

TIMED = 3  # dispatches


def describe(exp: Experiment, task: rs_ssl.Task, device: str) -> Iterator[str]:
    """Yields lines about the data and the schedule. device: the name of its kind."""
    dims, t = exp.dims, exp.config.train
    synthetic, unknown = task.unl_synthetic.sum(), (task.unl_origins == UNKNOWN).sum()
    origins = f", of which {synthetic} synthetic ({synthetic / dims.num_unlabeled:.0%})"
    if unknown:
        origins = f", {unknown} of them of unknown origin"
    size = "x".join(map(str, dims.image_shape[:2]))
    yield (
        f"data: {dims.num_classes} classes, {size} px; {dims.num_labeled} labelled; "
        f"{dims.num_unlabeled} unlabelled{origins}; "
        + (f"{len(task.val_images)} validation; " if len(task.val_images) else "")
        + f"{len(task.test_images)} test"
    )
    yield from (f"  {note}" for note in task.notes)
    for g, name in enumerate(task.generator_names):
        yield f"  from {name}: {int((task.unl_origins == g).sum())}"
    if count := len(task.split.unlabeled_synthetic):
        labels = task.unl_labels[-count:]  # see rs_ssl.Split
        missing = sorted(set(range(dims.num_classes)) - set(labels.tolist()))
        if missing:
            names = ", ".join(task.class_names[c] for c in missing[:4])
            names += f", ... ({len(missing)})" if len(missing) > 4 else ""
            yield f"  no synthetic image of class {names}"
    unlabeled = dims.unlabeled_batch if exp.method.uses_unlabeled else 0
    epochs = t.num_steps * unlabeled / dims.num_unlabeled
    devices = exp.devices
    evaluations = math.ceil(t.num_steps / exp.config.eval.every_steps)
    yield (
        f"schedule: {counted(t.num_steps, 'step')} of {dims.batch_size} labelled + "
        f"{unlabeled} unlabelled images{_choice(exp)} ({epochs:.1f} passes) on "
        f"{counted(len(devices), f'{device} device')}; "
        f"{counted(evaluations, 'evaluation')}"
    )


def _choice(exp: Experiment) -> str:
    """How the unlabelled images of a step are chosen, "" if at random."""
    if candidates := keys.candidate_rows(exp.config):
        return f" of {candidates} candidates"
    rows = exp.config.train.real_rows
    return "" if rows is None else f", {rows} of them real,"


def print_parameters(params: PyTree):
    """Prints for each network its number of parameters, and that of each part."""
    for name, tree in params.items():
        parts = [f"{part} {_count(sub):,}" for part, sub in sorted(tree.items())]
        say(f"network {name}: {_count(tree):,} parameters ({', '.join(parts)})")


def compiling(exp: Experiment) -> AbstractContextManager[None]:
    """Returns a block that says that the step is being compiled, and for how long."""
    config, device = exp.config, exp.devices[0].device_kind
    nets = f"{config.model.classifier}, {config.model.detector}"
    return compilation.shown(f"step of {config.method.name}, {nets}, on {device}")


def measure(exp: Experiment, source: feed.Feed):
    """Compiles the step, times a few on a temporary state and prints the figures."""
    state = exp.init_state()
    print_parameters(state.params)
    state = exp.pack(state)
    state_bytes = memory.size(state)
    begin = time.monotonic()
    with compiling(exp):
        analysis = source.compile(state).memory_analysis()
    assert analysis is not None
    say(
        f"memory of a step: state {memory.in_words(state_bytes)}, temporary "
        f"{memory.in_words(analysis.temp_size_in_bytes)} per device; compiled in "
        f"{time.monotonic() - begin:.1f} s"
    )
    seconds, done, last = [], 0, exp.config.train.num_steps
    with progress.Progress(
        "timing", "dispatches", TIMED + 1, last_line=False
    ) as timing:
        while len(seconds) <= TIMED and done < last:  # the first warms up
            begin = time.monotonic()
            state, dispatched = source.run(state, done, min(source.most, last - done))
            jax.block_until_ready(dispatched.metrics)
            seconds.append((time.monotonic() - begin) / dispatched.count)
            done += dispatched.count
            timing.advance(1)
    timed = seconds[1:] or seconds  # a run of one step has one dispatch
    per_step = float(np.median(timed))
    say(
        f"time: {per_step:.3f} s a step (median of {counted(len(timed), 'dispatch')}), "
        f"{duration(per_step * last)} for all of them, without evaluations"
    )
    say("nothing was trained or written")


def fit(exp: Experiment, task: rs_ssl.Task, target: Target) -> str:
    """Compiles the step for a target and returns a line about its memory there. Raises
    RequestError if it does not fit, or if the run could not start."""
    feed.check(exp, task)
    resides = feed.resident_bytes(exp, task)
    images = feed.gathered(exp, task) if resides else None
    program = described.compiled(exp, images, target)
    peak, usable = program.peak_bytes, target.usable_share * target.memory_bytes
    sizes = (
        f"{memory.in_words(peak)} on each device, state and images "
        f"{memory.in_words(program.argument_bytes)}, temporary "
        f"{memory.in_words(program.temp_bytes)}; {target.name} has "
        f"{memory.in_words(target.memory_bytes)}"
    )
    if target.usable_share < 1:
        sizes += f", of which JAX reserves {target.usable_share:.0%}"
    if peak > usable:
        raise RequestError(
            f"--target={target.key}: a step takes {sizes}; lower train.batch_size, "
            "train.unlabeled_ratio or the network, or take more devices"
        )
    return (
        f"fits: compiled, not run, for {target.count} {target.name}, a step takes "
        f"{sizes}; compiled in {program.compile_seconds:.1f} s"
    )


def _count(tree: PyTree) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))
