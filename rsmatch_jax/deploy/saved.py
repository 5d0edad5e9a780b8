"""A trained run, opened where its data need not be; and its data, where they are."""

import argparse
import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from rsmatch_jax.data import rs_ssl
from rsmatch_jax.engine import content, experiment, saved_config
from rsmatch_jax.errors import RequestError
from rsmatch_jax.methods.catalogue import Dims
from rsmatch_jax.runs import same_data, workdir
from rsmatch_jax.runs.checkpoint import Checkpoints
from rsmatch_jax.state import TrainState


@dataclasses.dataclass(frozen=True)
class Saved:
    """A run's parts at one of its checkpoints.

    state: on exp.devices; None once only parts of it are wanted. class_names: in the
    order of labels. generator_names: of the synthetic images that it was trained with.
    dataset: the real one's name.
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
    """The run in a workdir.

    step: last, best (the best evaluation that the newest checkpoint knows of) or N.
    devices: None = the first local one. Raises: RequestError where there is no such run
    or step, or where another version has made it; RunFailed where the checkpoint is
    damaged.
    """
    config = saved_config.load(folder)
    with contextlib.closing(Checkpoints(folder, keep=None)) as checkpoints:
        number = checkpoints.choose(step)
        data = workdir.read_data(folder)
        try:
            dims = _dims(data["dims"])
            names = _names(data["class_names"]), _names(data["generator_names"])
            dataset = data["dataset"]
            if len(names[0]) != dims.num_classes:
                raise ValueError(f"{len(names[0])} names of {dims.num_classes} classes")
        except (KeyError, TypeError, ValueError) as e:
            raise RequestError(
                f"{folder}/{workdir.DATA_FILE} is not that of this version ({e!r}); "
                "use the version that trained the run"
            ) from None
        exp = experiment.build(
            config, dims, dataset, list(devices or jax.local_devices()[:1])
        )
        like = exp.state_shapes()
        checkpoints.require_fits(number, like)
        state = checkpoints.restore(number, like).state
    return Saved(folder, number, exp, state, dataset, *names)


def _dims(found: Mapping[str, Any]) -> Dims:
    dims = Dims(**{**found, "image_shape": tuple(found["image_shape"])})
    sizes = [*dims.image_shape, *dataclasses.astuple(dims)]
    if not all(isinstance(x, int) for x in sizes if not isinstance(x, tuple)):
        raise ValueError("sizes that are no numbers")
    return dims


def _names(found: Sequence[str]) -> tuple[str, ...]:
    if not isinstance(found, list) or not all(isinstance(x, str) for x in found):
        raise ValueError("names that are no text")
    return tuple(found)


def add_flags(parser: argparse.ArgumentParser):
    """Of a command on a run: what `load` takes."""
    parser.add_argument("--workdir", metavar="DIR", required=True)
    parser.add_argument("--step", metavar="last|best|N", default="last")


def add_data_flags(parser: argparse.ArgumentParser):
    """Of a command on a run's data: what `load_task` takes."""
    parser.add_argument("--data_dir", metavar="DIR")
    parser.add_argument("--synthetic_pool", metavar="DIR")


def load_task(
    run: Saved, data_dir: str | None = None, synthetic_pool: str | None = None
) -> rs_ssl.Task:
    """The run's images. data_dir, synthetic_pool: where they are now, None = where the
    run had them. Raises RequestError where they are gone or others."""
    config = run.exp.config.copy_and_resolve_references()
    if data_dir is not None:
        config.data.data_dir = data_dir
    if synthetic_pool is not None:
        config.data.synthetic_pool = synthetic_pool
    try:
        task = experiment.load_task(config)
    except RequestError as e:
        raise RequestError(
            f"{e} (data that have moved: --data_dir=DIR, --synthetic_pool=DIR)"
        ) from None
    same_data.check(run.folder, task.split.arrays(), content.digest(task))
    return task
