"""Opens a trained run without its data, and its data where they lie now."""

import argparse
import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from rsmatch_jax import progress
from rsmatch_jax.data import rs_ssl, sources
from rsmatch_jax.engine import checks, experiment, saved_config
from rsmatch_jax.errors import RequestError
from rsmatch_jax.methods.catalogue import Dims
from rsmatch_jax.runs import same_data, workdir
from rsmatch_jax.runs.checkpoint import Checkpoints
from rsmatch_jax.state import TrainState

# Keys of the config's `data` group, and flags: where the data of a run lie now.
_OF_DATASETS = ("data_dir", "synthetic_pool")
PLACES = _OF_DATASETS + sources.OWN_PLACES


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
    folder: str,
    step: str | int = "last",
    devices: Sequence[jax.Device] | None = None,
    *,
    trust_code: bool = False,
    values: Mapping[str, Any] | None = None,
) -> Saved:
    """Loads the run in a workdir.

    Args:
        step: last, best (the best evaluation that the newest checkpoint records) or N.
        devices: None means the first local one.
        trust_code: may run the module of a network outside this package.
        values: {dotted key: value} of the config, if not those of training.

    Raises:
        RequestError: there is no such run or step, another version made it, it needs
            trust_code, or `values` do not fit it.
        RunFailed: the checkpoint is damaged.
    """
    config = saved_config.load(folder, trust_code)
    if values:
        config = saved_config.with_values(config, values)
        checks.check(config, num_devices=1)
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
        with progress.busy(f"loading step {number} of {folder}"):
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
    parser.add_argument("--trust_code", action="store_true")
    if data:
        for key in PLACES:
            parser.add_argument(f"--{key}", metavar="PLACE")


def places(args: argparse.Namespace) -> dict[str, str]:
    """Returns {key of the config's `data` group: place} of the flags that are set."""
    values = {key: getattr(args, key) for key in PLACES}
    return {key: value for key, value in values.items() if value is not None}


def load_task(run: Saved, places: Mapping[str, str] | None = None) -> rs_ssl.Task:
    """Loads the run's images; RequestError if they are missing or have changed.
    places: where they lie now, by PLACES, if not where the config says."""
    config = run.exp.config.copy_and_resolve_references()
    with config.ignore_type():
        config.data.update(places or {})
    try:
        with progress.busy("loading the run's data"):
            task = experiment.load_task(config)
    except RequestError as e:
        keys = sources.OWN_PLACES if config.data.name == sources.OWN else _OF_DATASETS
        flags = ", ".join(f"--{key}=PLACE" for key in keys)
        raise RequestError(f"{e} (if the data have moved: {flags})") from None
    same_data.check(run.folder, task, same_data.digest(task))
    return task
