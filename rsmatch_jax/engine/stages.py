"""The stages of a run, in the order in which `train.run` calls them."""

import contextlib
import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from rsmatch_jax.data import rs_ssl
from rsmatch_jax.engine import checks, experiment, feed, plan, saved_config
from rsmatch_jax.engine.loop import Loop
from rsmatch_jax.errors import RunFailed
from rsmatch_jax.methods.catalogue import METHODS
from rsmatch_jax.runs import checkpoint, same_data, workdir
from rsmatch_jax.runs.checkpoint import Checkpoints
from rsmatch_jax.runtime import hosts, parallel
from rsmatch_jax.runtime.stopping import Stop
from rsmatch_jax.terminal import say
from rsmatch_jax.version import __version__


@dataclasses.dataclass(frozen=True)
class Start:
    """A request that was checked.

    config: with the neutral values of keys that the run in the folder lacks. finished:
    the result of that run if it is finished, else None. explicit: see `train.run`.
    """

    config: Any
    folder: str
    devices: Sequence[jax.Device]
    overwrite: bool
    explicit: Collection[str]
    finished: dict[str, Any] | None


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a run needs, loaded and built. warnings: for result.json."""

    exp: experiment.Experiment
    task: rs_ssl.Task
    source: feed.Feed
    warnings: list[str]


def check(
    config: Any,
    folder: str,
    devices: Sequence[jax.Device] | None,
    *,
    overwrite: bool,
    explicit: Collection[str],
) -> Start:
    """Checks the config and the folder before anything is loaded."""
    devices = list(devices or parallel.all_devices())
    checks.check(config, len(devices))
    _require_equal_hosts(config)

    def look():
        workdir.check_writable(folder)
        if overwrite:
            workdir.check_run_or_empty(folder)
            return {}, None, None
        neutral = saved_config.continue_run(folder, config, explicit)
        line = saved_config.neutral_line(folder, neutral)
        return neutral, line, workdir.read_result(folder)

    neutral, line, result = hosts.on_primary("earlier run", look)
    if line:
        say(line)
    finished = result and result.get("status") == "finished"
    return Start(
        config=saved_config.with_values(config, neutral),
        folder=folder,
        devices=devices,
        overwrite=overwrite,
        explicit=explicit,
        finished=result if finished else None,
    )


def load(start: Start) -> Parts:
    """Loads the data, builds the experiment and prints what the run will do."""
    config = start.config
    run = f"{config.method.name} on {config.data.name}, seed {config.seed}"
    say(f"{run}: {start.folder}")
    # One process after the other, because the first decodes the data into a cache.
    task = hosts.agreed(
        "data", lambda: experiment.load_task(config), primary_first=True
    )
    _require_equal_data(task)
    dims = experiment.task_dims(config, task)
    warnings = METHODS[config.method.name].check_data(
        config, dims.num_classes, int(task.unl_synthetic.sum())
    )
    saved_shapes = hosts.on_primary(
        "saved shapes",
        lambda: {} if start.overwrite else checkpoint.newest_shapes(start.folder),
    )
    exp = experiment.build(config, dims, task.name, start.devices, saved_shapes)
    source, lines = feed.make(exp, task)
    for line in (
        *plan.describe(exp, task),
        lines,
        *(f"warning: {warning}" for warning in warnings),
    ):
        say(line)
    if hosts.num_processes() > 1:
        say(f"hosts: {hosts.num_processes()} processes; this one writes the files")
    return Parts(exp, task, source, warnings)


def measure(parts: Parts):
    """Compiles the step, times a few and prints the figures; trains nothing."""
    for line in plan.measure(parts.exp, parts.source):
        say(line)


@contextlib.contextmanager
def claim(start: Start, parts: Parts) -> Iterator[str]:
    """Makes the folder this run's for the block and yields where this process writes.

    That is the folder itself on process 0. The others write the same files into a
    temporary folder, which nobody reads.
    """
    folder, config = start.folder, start.config
    with contextlib.ExitStack() as stack:

        def take():
            stack.enter_context(workdir.locked(folder))
            if start.overwrite:
                workdir.clear(folder)
            else:  # again, because another process may have begun since
                saved_config.continue_run(folder, config, start.explicit)
            about = experiment.describe_data(parts.task, parts.exp.dims)
            about[same_data.CONTENT] = same_data.digest(parts.task)
            split = parts.task.split.arrays()
            if os.path.exists(os.path.join(folder, workdir.SPLIT_FILE)):
                same_data.check(folder, split, about[same_data.CONTENT])
            workdir.claim(folder, config.to_dict(), split, about)

        hosts.on_primary("claim", take)
        hosts.require_shared(folder)
        if hosts.is_primary():
            yield folder
        else:
            yield stack.enter_context(tempfile.TemporaryDirectory(prefix="rsmatch_jax"))


def train(start: Start, parts: Parts, output_folder: str, stop: Stop) -> dict[str, Any]:
    """Trains from the last checkpoint or step 0; returns result.json's content."""
    loop = None
    try:
        checkpoints = Checkpoints(start.folder, start.config.checkpoint.keep)
        loop = Loop(
            parts.exp, parts.task, output_folder, checkpoints, parts.warnings, stop
        )
        return loop.train(parts.source)
    except BaseException as e:
        if loop:
            loop.abandon()
        if not isinstance(e, OSError):
            raise
        raise RunFailed(
            f"{e}; the saved checkpoints are sound. Make room, or repair "
            f"{start.folder}, and start again to go on"
        ) from e


def _require_equal_hosts(config: Any):
    hosts.require_equal(
        "package version",
        f"{__version__}, jax {jax.__version__}",
        "install the same on all machines",
    )
    hosts.require_equal(
        "config", config.to_json(sort_keys=True), "start all with the same command"
    )


def _require_equal_data(task: rs_ssl.Task):
    """Raises RequestError unless all processes chose the same images for each part."""
    digest = hashlib.sha256()
    labels = {"test": task.test_labels, "unlabelled": task.unl_labels}
    for name, array in sorted({**task.split.arrays(), **labels}.items()):
        digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    hosts.require_equal(
        "choice of images",
        digest.hexdigest(),
        "the dataset or the pool differs; copy process 0's to the others",
    )
