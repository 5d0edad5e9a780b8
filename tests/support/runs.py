"""Whole runs of four steps on the `fake` set, and readers of their files."""

import contextlib
import json
import shutil

import jax
from support.helpers import build, config

from rsmatch_jax import files
from rsmatch_jax.engine import stages
from rsmatch_jax.runs import workdir
from rsmatch_jax.runs.checkpoint import Checkpoints

KEYS = {
    "train.num_steps": 4,
    "eval.every_steps": 2,
    "checkpoint.every_steps": 2,
    "log.every_steps": 3,  # on purpose no divisor of the others
    "input.randaugment_ops": 0,  # compiles faster
    "method.threshold": 0.15,  # so that an image passes at once
}
ONE_NETWORK = {"method.rsmatch.individual_models": False}  # compiles faster


def run(folder, devices=1, **overrides):
    return stages.run(
        config(**{**KEYS, **overrides}),
        str(folder),
        devices=jax.local_devices()[:devices],
    )


def first_state(**overrides):
    return build(**{**KEYS, **overrides})[2].init_state()


def restored(folder, step, like):
    checkpoints = Checkpoints(str(folder), keep=None)
    with contextlib.closing(checkpoints):
        return checkpoints.restore(step, like)


def saved_state(folder, step, like):
    return restored(folder, step, like).state


def lines(folder):
    with open(folder / workdir.METRICS_FILE) as f:
        return [json.loads(line) for line in f]


def killed_copy(folder, to, last):
    """Copies a workdir to the state before its checkpoint `last`, as after a kill."""
    shutil.copytree(folder, to)
    shutil.rmtree(to / "checkpoints" / str(last))
    result = json.loads((to / workdir.RESULT_FILE).read_text())
    files.write_json(to / workdir.RESULT_FILE, {**result, "status": "running"})


def timeless(result):
    return {
        k: v for k, v in result.items() if k not in ("seconds", "images_per_second")
    }
