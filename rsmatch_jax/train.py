"""Trains a run by a config file.

    python launch.py --config=configs/cifar10.py [--config.group.key=value ...]
        [--workdir=DIR] [--overwrite] [--plan [--target=h100]]
        [--coordinator=HOST:PORT --num_processes=N --process_id=I]

The same command on an unfinished workdir resumes the run. The default of --workdir is
runs/<config>-<method>-<seed>. --overwrite starts anew. --plan prints splits, steps,
memory and time, and trains nothing; with --target=h100, h200, a100, v5e or v6e (:N = on
N of them) it says whether the run fits such a device, which need not be there.
configs/common.py lists all keys.
On several machines, start the same command on each, with a workdir that all share.
Under SLURM, Open MPI, Kubernetes and on TPU pods the processes find each other;
elsewhere the last three flags connect them. --num_processes=1 trains in each process
alone.
SIGTERM and Ctrl-C finish the step, save and stop; a second one stops at once.
Exit codes: 0 done, 1 the run failed, 2 the request was wrong, 75 stopped by a signal
after saving.
"""

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from rsmatch_jax import progress, terminal
from rsmatch_jax.errors import STOPPED, RequestError, exit_code
from rsmatch_jax.runtime import cluster, stopping, supervisor
from rsmatch_jax.terminal import say

GO_ON = "the same command goes on from the last checkpoint, if there is one"


def define_flags(values: flags.FlagValues):
    """Adds the flags of the command, except --config."""
    flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=values)
    flags.DEFINE_bool("overwrite", False, "Start anew.", flag_values=values)
    flags.DEFINE_bool("plan", False, "Say what would be done.", flag_values=values)
    target = "With --plan: would the run fit this device, as h100 or h100:8?"
    flags.DEFINE_string("target", None, target, flag_values=values)
    cluster.define_flags(values)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code. One of several processes becomes the
    parent of the process that trains."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if any(arg in ("--help", "-help", "-h") for arg in argv):
        sys.stdout.write(__doc__)
        return 0
    if supervisor.is_child():
        supervisor.obey()
    groups = []
    code = exit_code(
        lambda: groups.append(cluster.from_command_line(argv, os.environ)), GO_ON
    )
    progress.end()  # begun for `python -m rsmatch_jax.train`, whose imports are done
    if code:
        return code
    [group] = groups
    if group and not supervisor.is_child():
        command = [sys.executable, "-m", "rsmatch_jax.train", *argv]
        return supervisor.supervise(command, group.name)
    return _train(argv, group)


def _train(argv: Sequence[str], group: cluster.Group | None) -> int:
    """Trains in this process, one of `group` or alone; returns the exit code."""

    quiet = bool(group and group.rank)  # process 0 says what is under way

    @progress.live("starting", quiet=quiet)
    def command():
        config, stem, values = config_file.parse(["launch.py", *argv], define_flags)
        explicit = config_file.override_keys(["launch.py", *argv])
        checks.check_overrides(config, explicit)
        target = targets.read(values.target) if values.target else None
        if target and not values.plan:
            raise RequestError(f"--target={values.target}: goes with --plan alone")
        compilation.use_cache(config.data.cache_dir)
        folder = values.workdir
        if folder is None:
            folder = f"runs/{stem}-{config.method.name}-{config.seed}"
        with progress.busy("waiting for the other processes"):
            hosts.start(group)
        stop: Any = alone or stack.enter_context(consensus.on_signals())
        if not hosts.is_primary():  # it would print the lines of process 0 again
            progress.end()
            nowhere = open(os.devnull, "w")  # noqa: SIM115 (as long as the process)
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        with hosts.losses_named():
            result = stages.run(
                config,
                folder,
                overwrite=values.overwrite,
                plan_only=values.plan,
                target=target,
                stop=stop,
                explicit=explicit,
            )
        if result:
            status.append(result["status"])
            say(f"{result['status']}: {os.path.join(folder, 'result.json')}")

    status = []
    with contextlib.ExitStack() as stack:
        if not quiet:
            progress.begin("loading the libraries")
        # JAX is imported here: the parent of one of several processes stays small, and
        # a signal during the seconds that the imports take has a handler.
        alone = None if group else stack.enter_context(stopping.on_signals())
        from rsmatch_jax.engine import checks, config_file, stages
        from rsmatch_jax.runtime import compilation, consensus, hosts, targets

        code = exit_code(command, GO_ON)
    return hosts.leave(STOPPED if status == ["stopped"] else code)


if __name__ == "__main__":
    terminal.leave(main())
