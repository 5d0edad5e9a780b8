"""One run: check, build, claim the folder, and hand over to the loop."""

import contextlib
import hashlib
import tempfile
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from rsmatch_jax.data import rs_ssl
from rsmatch_jax.engine import checks, experiment, feed, plan
from rsmatch_jax.engine.loop import Loop
from rsmatch_jax.errors import RunFailed
from rsmatch_jax.methods.catalogue import METHODS
from rsmatch_jax.runs import workdir
from rsmatch_jax.runs.checkpoint import Checkpoints
from rsmatch_jax.runtime import hosts, parallel
from rsmatch_jax.runtime.stopping import Stop
from rsmatch_jax.terminal import say
from rsmatch_jax.version import __version__


def run(
    config: Any,
    folder: str,
    *,
    overwrite: bool = False,
    plan_only: bool = False,
    devices: Sequence[jax.Device] | None = None,
    stop: Stop | None = None,
) -> dict[str, Any]:
    """Trains by a locked config in `folder` and returns the content of result.json.

    An unfinished run there is resumed, a finished one is left as it is. overwrite
    starts anew; plan_only prints what would happen and trains nothing. devices: None =
    all, of all processes. stop: asked after every dispatch; then the state is saved and
    the result's status is `stopped`. Raises RequestError for whatever cannot work,
    before anything is written, and RunFailed where the run cannot go on.
    """
    devices = list(devices or parallel.all_devices())
    checks.check(config, len(devices))
    _require_equal_hosts(config)

    def earlier():
        workdir.check_writable(folder)
        if overwrite:
            workdir.check_clearable(folder)
            return None
        workdir.check_free(folder, config.to_dict())
        return workdir.read_result(folder)

    result = hosts.on_primary("earlier run", earlier)
    if result and result.get("status") == "finished" and not plan_only:
        say(
            f"{folder} holds this run, finished: test accuracy "
            f"{result['test_accuracy']:.4f}. Nothing to do; --overwrite trains anew"
        )
        return result
    say(f"{config.method.name} on {config.data.name}, seed {config.seed}: {folder}")
    # One after the other, for what they load is decoded into a cache.
    task = hosts.agreed(
        "data", lambda: experiment.load_task(config), primary_first=True
    )
    _require_equal_data(task)
    dims = experiment.task_dims(config, task)
    warnings = METHODS[config.method.name].check_data(
        config, dims.num_classes, int(task.unl_synthetic.sum())
    )
    exp = experiment.build(config, dims, task.name, devices)
    source, chosen = feed.make(exp, task)
    for line in [
        *plan.describe(exp, task),
        chosen,
        *(f"warning: {w}" for w in warnings),
    ]:
        say(line)
    if hosts.num_processes() > 1:
        say(f"hosts: {hosts.num_processes()} processes, of which this one writes")
    if plan_only:
        for line in plan.measure(exp, source):
            say(line)
        return {}
    with contextlib.ExitStack() as held:

        def claim():
            held.enter_context(workdir.locked(folder))
            if overwrite:
                workdir.clear(folder)
            else:  # once more: another process may have begun since
                workdir.check_free(folder, config.to_dict())
            workdir.claim(
                folder,
                config.to_dict(),
                task.split.arrays(),
                experiment.describe_data(task, dims),
            )

        hosts.on_primary("claim", claim)
        hosts.require_shared(folder)
        own = folder
        if not hosts.is_primary():  # all do the same, one where people look
            own = held.enter_context(tempfile.TemporaryDirectory(prefix="rsmatch_jax"))
        loop = None
        try:
            checkpoints = Checkpoints(folder, config.checkpoint.keep)
            loop = Loop(exp, task, own, checkpoints, warnings, stop or Stop())
            return loop.train(source)
        except BaseException as e:
            if loop:
                loop.abandon()
            if not isinstance(e, OSError):
                raise
            raise RunFailed(
                f"{e}; what is saved is sound. Make room, or mend what is wrong with "
                f"{folder}, and start again to go on"
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
    """The same images, in the same order, for the same parts."""
    digest = hashlib.sha256()
    labels = {"test": task.test_labels, "unlabelled": task.unl_labels}
    for name, array in sorted({**task.split.arrays(), **labels}.items()):
        digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    hosts.require_equal(
        "choice of images",
        digest.hexdigest(),
        "the dataset or the pool differs; copy process 0's to the others",
    )
