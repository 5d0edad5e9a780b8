"""Opens a trained run without its data, and its data where they lie now."""

import argparse
import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from rsmatch_jax.data import rs_ssl
from rsmatch_jax.engine import experiment, saved_config
from rsmatch_jax.errors import RequestError
from rsmatch_jax.methods.catalogue import Dims
from rsmatch_jax.runs import same_data, workdir
from rsmatch_jax.runs.checkpoint import Checkpoints
from rsmatch_jax.state import TrainState


@dataclasses.dataclass(frozen=True)
class Saved:
    """A run's parts at one of its checkpoints.

    state: on exp.devices, or None if only parts of it are in use. dataset: name of the
    real one. class_names: in the order of labels. generator_names: of the synthetic
    images in training.
    """

    folder: str
    step: int
    exp: experiment.Experiment
    state: TrainState | None
    dataset: str
    class_names: tuple[str, ...]
    generator_names: tuple[str, ...]


def load(
    folder: str, step: str = "last", devices: Sequence[jax.Device] | None = None
) -> Saved:
    """Loads the run in a workdir.

    Args:
        step: last, best (the best evaluation that the newest checkpoint records) or N.
        devices: None means the first local one.

    Raises:
        RequestError: there is no such run or step, or another version made it.
        RunFailed: the checkpoint is damaged.
    """
    config = saved_config.load(folder)
    with contextlib.closing(Checkpoints(folder, keep=None)) as checkpoints:
        number = checkpoints.choose(step)
        data = workdir.read_data(folder)
        try:
            dims, dataset = _read_dims(data["dims"]), data["dataset"]
            classes = tuple(data["class_names"])
            generators = tuple(data["generator_names"])
            if not all(isinstance(name, str) for name in classes + generators):
                raise ValueError("names that are no text")
            if len(classes) != dims.num_classes:
                raise ValueError(f"{len(classes)} names of {dims.num_classes} classes")
        except (KeyError, TypeError, ValueError) as e:
            raise RequestError(
                f"{folder}/{workdir.DATA_FILE} is not that of this version ({e!r}); "
                "use the version that trained the run"
            ) from None
        devices = list(devices or jax.local_devices()[:1])
        saved_shapes = checkpoints.shapes(number)
        exp = experiment.build(config, dims, dataset, devices, saved_shapes)
        like = exp.state_shapes()
        checkpoints.require_fits(number, saved_shapes, like)
        state = checkpoints.restore(number, like).state
    return Saved(folder, number, exp, state, dataset, classes, generators)


def _read_dims(content: Mapping[str, Any]) -> Dims:
    values: dict[str, Any] = {**content, "image_shape": tuple(content["image_shape"])}
    dims = Dims(**values)
    sizes = [*dims.image_shape, *dataclasses.astuple(dims)]
    if not all(isinstance(x, int) for x in sizes if not isinstance(x, tuple)):
        raise ValueError("sizes that are no numbers")
    return dims


def add_flags(parser: argparse.ArgumentParser, *, data: bool = False):
    """Adds the arguments of `load` to a parser; data: also those of `load_task`."""
    parser.add_argument("--workdir", metavar="DIR", required=True)
    parser.add_argument("--step", metavar="last|best|N", default="last")
    if data:
        parser.add_argument("--data_dir", metavar="DIR")
        parser.add_argument("--synthetic_pool", metavar="DIR")


def load_task(
    run: Saved, data_dir: str | None = None, synthetic_pool: str | None = None
) -> rs_ssl.Task:
    """Loads the run's images; RequestError if they are missing or have changed.
    data_dir, synthetic_pool: the present folders; None means those of the config."""
    config = run.exp.config.copy_and_resolve_references()
    if data_dir is not None:
        config.data.data_dir = data_dir
    if synthetic_pool is not None:
        config.data.synthetic_pool = synthetic_pool
    try:
        task = experiment.load_task(config)
    except RequestError as e:
        raise RequestError(
            f"{e} (if the data have moved: --data_dir=DIR, --synthetic_pool=DIR)"
        ) from None
    same_data.check(run.folder, vars(task.split), same_data.digest(task))
    return task
