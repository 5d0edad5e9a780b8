"""What a new run begins with: weights of another run, buffers computed from its images.
A run with a checkpoint has both there."""

import dataclasses
import os

from rsmatch_jax.data import rs_ssl
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.engine import start_weights
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.errors import RequestError
from rsmatch_jax.runs.checkpoint_folder import CheckpointFolder
from rsmatch_jax.runtime import hosts
from rsmatch_jax.state import TrainingImages
from rsmatch_jax.terminal import say


def from_weights(
    exp: Experiment, task: rs_ssl.Task, folder: str, overwrite: bool
) -> tuple[Experiment, list[str]]:
    """Returns the experiment of a new run with the weights of model.init_from, and
    lines about them. A run with a checkpoint does without: they may be gone."""
    place = exp.config.model.init_from
    if place is None or _resumes(folder, overwrite, "weights"):
        return exp, []
    if os.path.realpath(place) == os.path.realpath(folder):
        raise RequestError(
            f"model.init_from={place} is the workdir of this run; name another "
            "--workdir, so that the first run stays as it is"
        )
    weights, line = hosts.agreed(
        "initial weights",
        lambda: start_weights.read(
            exp.config, exp.method, exp.first_state.out_info, task.class_names
        ),
    )
    hosts.require_equal(
        "weights of model.init_from",
        start_weights.digest(weights),
        "copy process 0's to the others",
    )
    return dataclasses.replace(exp, start=weights), [line]


def from_images(
    exp: Experiment, task: rs_ssl.Task, folder: str, overwrite: bool
) -> Experiment:
    """Returns the experiment of a new run with the buffers that its method computes
    from the images (`Method.prepared`)."""
    if not exp.method.reads_images or _resumes(folder, overwrite, "buffers"):
        return exp
    say(f"computing what {exp.config.method.name} reads of the images ...")
    others = arrays.take(task.unl_images, slice(len(task.lab_images), None))
    images = TrainingImages(task.lab_images, task.lab_labels, others)
    buffers = hosts.agreed("first buffers", lambda: exp.method.prepared(images))
    hosts.require_equal(
        "what the method reads of the images",
        start_weights.digest(buffers),
        "install the same packages on all machines",
    )
    return dataclasses.replace(exp, buffers=buffers)


def _resumes(folder: str, overwrite: bool, need: str) -> bool:
    """Whether the run has a checkpoint. need: what for, in no other call."""
    return hosts.on_primary(
        f"saved steps, {need}",
        lambda: not overwrite and bool(CheckpointFolder(folder).steps()),
    )
