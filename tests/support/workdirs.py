"""Workdirs as runs leave them, with untrained networks."""

import dataclasses
import json
import re
import shutil

import jax
import numpy as np
from support.helpers import build, config

from rsmatch_jax.deploy import saved
from rsmatch_jax.engine import experiment
from rsmatch_jax.methods.catalogue import Dims
from rsmatch_jax.runs import workdir
from rsmatch_jax.runs.checkpoint import Checkpoints


def in_memory(**overrides):
    """Returns (saved.Saved of step 0, task of the `fake` set); writes nothing."""
    _, task, exp = build(**overrides)
    names = task.class_names, task.generator_names
    return saved.Saved("a run", 0, exp, exp.init_state(), task.name, *names), task


def make(folder, steps=(7,), **overrides):
    """Returns (experiment, {step: state}) of a new workdir on the `fake` set.

    The first of the steps is the best one.
    """
    c, task, exp = build(**overrides)
    about = experiment.describe_data(task, exp.dims)
    workdir.claim(str(folder), c.to_dict(), vars(task.split), about)
    return exp, save(folder, exp, steps)


def make_encoded(folder, size, **overrides):
    """As `make`, for a run with data.image_size whose data do not exist."""
    c = config(**{"data.image_size": size, "data.name": "/gone/set", **overrides})
    exp = experiment.build(
        c, Dims(4, (size, size, 3), 1, 4, 8, 16, 40), "set", jax.local_devices()[:1]
    )
    about = {
        "dataset": "set",
        "class_names": ["cat", "dog", "owl", "yak"],
        "generator_names": ["sd"],
        "dims": dataclasses.asdict(exp.dims),
    }
    workdir.claim(str(folder), c.to_dict(), {}, about)
    return exp, save(folder, exp, (7,))


def save(folder, exp, steps):
    checkpoints, states = Checkpoints(str(folder), keep=9), {}
    for step in steps:
        states[step] = unlike(exp.init_state(), step)
        checkpoints.save(step, states[step], {}, best=steps[0])
    checkpoints.close()
    return states


def unlike(state, seed):
    """Returns a state with other EMA weights and running statistics."""
    rng = np.random.default_rng(seed)

    def moved(leaf):
        return leaf + 0.05 * rng.standard_normal(leaf.shape).astype(np.float32)

    def more(leaf):
        return leaf + rng.random(leaf.shape).astype(np.float32)

    return state.replace(
        ema=jax.tree.map(moved, state.ema), stats=jax.tree.map(more, state.stats)
    )


def change(name, /, *path, **values):
    """A function that updates the object at a path of keys in a workdir's JSON file."""

    def damage(folder):
        content = json.loads((folder / name).read_text())
        group = content
        for key in path:
            group = group[key]
        group.update(values)
        (folder / name).write_text(json.dumps(content))

    return damage


def remove(name):
    """A function that removes a file or folder of a workdir."""

    def damage(folder):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def write(name, content):
    """A function that writes a file of a workdir."""
    return lambda folder: (folder / name).write_bytes(content)


def check_refused(main, folder, argv, message, capsys):
    """Asserts that a command on a run exits with 2 and a message, and writes nothing.
    In argv and message {run} is the folder, {root} the one that it lies in."""
    before = sorted(folder.parent.rglob("*"))
    places = {"run": folder, "root": folder.parent}
    argv = [arg.format(**places) for arg in argv]
    assert main([f"--workdir={folder}", *argv]) == 2
    error = capsys.readouterr().err
    assert ("\n" + error).count("\nerror: ") == 1
    assert re.search(message.replace("{root}", str(folder.parent)), error, re.DOTALL)
    assert "Traceback" not in error
    assert sorted(folder.parent.rglob("*")) == before
