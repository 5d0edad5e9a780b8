"""Runs whose networks are as they began: quick to make, opened like any other."""

from helpers import build

from rsmatch_jax import experiment, saved, workdir
from rsmatch_jax.checkpoint import Checkpoints


def in_memory(**overrides):
    """(saved.Saved of step 0, task of the `fake` set); nothing is on disk."""
    _, task, exp = build(**overrides)
    state = exp.init_state()
    names = task.class_names, task.generator_names
    return saved.Saved("a run", 0, exp, state, task.name, *names), task


def on_disk(folder, steps=(2, 4), best=2, **overrides):
    """A workdir with equal checkpoints; its task."""
    run, task = in_memory(**overrides)
    workdir.claim(
        str(folder),
        run.exp.config.to_dict(),
        task.split.arrays(),
        experiment.describe_data(task, run.exp.dims),
    )
    checkpoints = Checkpoints(str(folder), keep=len(steps))
    for step in steps:
        checkpoints.save(step, run.state, {}, best=best)
    checkpoints.close()
    return task
