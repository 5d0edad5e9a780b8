"""The stages of a run: check the request, load, build, claim the folder, train."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Collection, Generator, Sequence
from typing import Any

import jax
import numpy as np

from rsmatch_jax import progress
from rsmatch_jax.data import rs_ssl
from rsmatch_jax.engine import beginning, checks, experiment, feed, plan, saved_config
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.engine.loop import Loop
from rsmatch_jax.errors import RunFailed
from rsmatch_jax.methods.catalogue import METHODS
from rsmatch_jax.metrics import names
from rsmatch_jax.runs import checkpoint, same_data, wandb_mirror, workdir
from rsmatch_jax.runs.checkpoint import Checkpoints
from rsmatch_jax.runtime import hosts, parallel
from rsmatch_jax.runtime.stopping import Stop
from rsmatch_jax.runtime.targets import Target
from rsmatch_jax.terminal import say
from rsmatch_jax.version import __version__


def run(
    config: Any,
    folder: str,
    *,
    overwrite: bool = False,
    plan_only: bool = False,
    target: Target | None = None,
    devices: Sequence[jax.Device] | None = None,
    stop: Stop | None = None,
    explicit: Collection[str] = (),
) -> dict[str, Any]:
    """Trains by a locked config in `folder` and returns the content of result.json.

    An unfinished run in the folder is resumed, a finished one is left as it is.

    Args:
        overwrite: start anew.
        plan_only: print what would happen, train nothing and return {}.
        target: with plan_only, for a device that need not be there.
        devices: None = all devices of all processes.
        stop: checked after every dispatch; if due, the run is saved and the status of
            the result is `stopped`.
        explicit: dotted keys that the user has set, rather than a default.
    Raises:
        RequestError: the run cannot work; nothing is written.
        RunFailed: the run cannot go on.
    """
    devices = list(devices or parallel.all_devices())
    if target is not None:  # stand-ins, whose number alone counts
        devices = devices[:1] * target.count
    config, result = _check(config, folder, len(devices), overwrite, explicit)
    if result and result.get("status") == "finished" and not plan_only:
        say(
            f"{folder} holds this run, finished: {names.accuracy(result)}. Nothing to "
            "do; --overwrite trains anew"
        )
        return result
    say(f"{config.method.name} on {config.data.name}, seed {config.seed}: {folder}")
    exp, task, begun, warnings = _load(config, folder, devices, overwrite)
    source = _make_feed(exp, task, target, begun, warnings)
    if source is None:
        return {}
    if plan_only:
        plan.measure(exp, source)
        return {}
    with progress.busy("preparing the state"):
        exp = beginning.from_images(exp, task, folder, overwrite)
    with _claimed(folder, exp, task, overwrite, explicit) as output_folder:
        try:
            checkpoints = Checkpoints(folder, config.checkpoint.keep)
            stop = stop or Stop()
            with progress.busy("preparing the state"):
                loop = Loop(exp, task, output_folder, checkpoints, warnings, stop)
            return loop.train(source)
        except OSError as e:
            raise RunFailed(
                f"{e}; the saved checkpoints are sound. Make room, or repair "
                f"{folder}, and start again to go on"
            ) from e


def _check(
    config: Any,
    folder: str,
    num_devices: int,
    overwrite: bool,
    explicit: Collection[str],
) -> tuple[Any, dict[str, Any] | None]:
    """Returns the config, with the neutral values that an earlier run in the folder
    keeps, and that run's result; raises RequestError if the run cannot work."""
    checks.check(config, num_devices)
    versions = f"{__version__}, jax {jax.__version__}"
    hosts.require_equal("package version", versions, "install the same on all machines")
    text = config.to_json(sort_keys=True)
    hosts.require_equal("config", text, "start all with the same command")

    def earlier():
        workdir.check_writable(folder)
        wandb_mirror.check(config.log.wandb)
        if overwrite:
            workdir.check_run_or_empty(folder)
            return {}, None
        values = saved_config.continue_run(folder, config, explicit)
        if line := saved_config.neutral_line(folder, values):
            say(line)
        return values, workdir.read_result(folder)

    values, result = hosts.on_primary("earlier run", earlier)
    return saved_config.with_values(config, values), result


def _load(
    config: Any, folder: str, devices: Sequence[jax.Device], overwrite: bool
) -> tuple[Experiment, rs_ssl.Task, list[str], list[str]]:
    """Loads the images and builds the rest. Returns them, lines about the weights that
    the run begins with, and the warnings."""
    # One process after the other, because the first decodes the data into a cache.
    with progress.busy("loading the data"):
        task = hosts.agreed(
            "data", lambda: experiment.load_task(config), primary_first=True
        )
    _require_equal_data(task)
    warnings = METHODS[config.method.name].check_data(
        config, len(task.class_names), task.num_synthetic
    )
    saved_shapes = hosts.on_primary(
        "saved shapes", lambda: {} if overwrite else checkpoint.newest_shapes(folder)
    )
    dims = experiment.task_dims(config, task)
    with progress.busy("building the networks"):
        exp = experiment.build(config, dims, task.name, devices, saved_shapes)
        exp, begun = beginning.from_weights(exp, task, folder, overwrite)
    return exp, task, begun, warnings


def _make_feed(
    exp: Experiment,
    task: rs_ssl.Task,
    target: Target | None,
    begun: Sequence[str],
    warnings: Sequence[str],
) -> feed.Feed | None:
    """Says what the run will be. Returns where its steps get their batches, None for a
    target, which is not there."""
    source = None
    if target is not None:
        lines, device = plan.fit(exp, task, target), target.name
    else:
        with progress.busy("preparing the input"):
            source, lines = feed.make(exp, task)
        device = exp.devices[0].device_kind
    warned = [f"warning: {warning}" for warning in warnings]
    for line in (*plan.describe(exp, task, device), *begun, lines, *warned):
        say(line)
    if hosts.num_processes() > 1:
        say(f"hosts: {hosts.num_processes()} processes; this one writes the files")
    return source


@contextlib.contextmanager
def _claimed(
    folder: str,
    exp: Experiment,
    task: rs_ssl.Task,
    overwrite: bool,
    explicit: Collection[str],
) -> Generator[str]:
    """Makes the folder this run's for the block and yields where this process writes:
    the folder on process 0; on others a temporary one, which nobody reads."""
    with contextlib.ExitStack() as stack:

        def take():
            stack.enter_context(workdir.locked(folder))
            if overwrite:
                workdir.clear(folder)
            else:  # again, because another process may have begun since
                saved_config.continue_run(folder, exp.config, explicit)
            about = experiment.describe_data(task, exp.dims)
            about[same_data.DIGEST] = same_data.digest(task)
            began = os.path.exists(os.path.join(folder, workdir.SPLIT_FILE))
            if began or checkpoint.CheckpointFolder(folder).steps():
                same_data.check(folder, task, about[same_data.DIGEST])
            workdir.claim(
                folder,
                exp.config.to_dict(),
                vars(task.split),
                about,
                same_data.columns(task),
            )

        hosts.on_primary("claim", take)
        hosts.require_shared(folder)
        if hosts.is_primary():
            yield folder
        else:
            yield stack.enter_context(tempfile.TemporaryDirectory(prefix="rsmatch_jax"))


def _require_equal_data(task: rs_ssl.Task):
    """Raises RequestError unless all processes chose the same images for each part."""
    digest = hashlib.sha256()
    labels = {"test": task.test_labels, "unlabelled": task.unl_labels}
    for name, array in sorted({**vars(task.split), **labels}.items()):
        digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    hosts.require_equal(
        "choice of images",
        digest.hexdigest(),
        "the dataset or the pool differs; copy process 0's to the others",
    )
