"""Trains by a config file.

    python launch.py --config=configs/cifar10.py [--config.group.key=value ...]
        [--workdir=DIR] [--overwrite] [--plan]
        [--coordinator=HOST:PORT --num_processes=N --process_id=I]

The same command on an unfinished workdir resumes it. --workdir is
runs/<config>-<method>-<seed> unless given; --overwrite starts anew; --plan prints
splits, steps, memory and time, and trains nothing. configs/common.py lists all keys.
On several machines start the same command on each, with a workdir that all share: under
SLURM, Open MPI, Kubernetes and on TPU pods they find each other, elsewhere by the last
three flags; --num_processes=1 trains in each process alone.
SIGTERM and Ctrl-C finish the step, save and stop; a second one stops at once.
Exit codes: 0 done, 1 the run failed, 2 the request was wrong, 75 stopped by a signal
after saving.
"""

import contextlib
import os
import sys

from absl import flags

from rsmatch_jax.errors import STOPPED, exit_code
from rsmatch_jax.runtime import cluster, stopping, supervisor

GO_ON = "the same command goes on from the last checkpoint, if there is one"


def define_flags(values: flags.FlagValues):
    flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=values)
    flags.DEFINE_bool("overwrite", False, "Start anew.", flag_values=values)
    flags.DEFINE_bool("plan", False, "Say what would be done.", flag_values=values)
    cluster.define_flags(values)


def main(argv: list[str]) -> int:
    if any(arg in ("--help", "-help", "-h") for arg in argv):
        sys.stdout.write(__doc__)
        return 0
    if supervisor.is_child():
        supervisor.obey()
    found = []
    code = exit_code(
        lambda: found.append(cluster.from_command_line(argv, os.environ)), GO_ON
    )
    if code:
        return code
    if found[0] and not supervisor.is_child():
        return supervisor.supervise(__file__, argv[1:], found[0].name)
    return _train(argv, found[0])


def _train(argv: list[str], group: cluster.Group | None) -> int:
    def command():
        config, stem, values = config_file.parse(argv, define_flags)
        checks.check_overrides(config, config_file.override_keys(argv))
        compilation.use_cache(config.data.cache_dir)
        workdir = values.workdir
        if workdir is None:
            workdir = f"runs/{stem}-{config.method.name}-{config.seed}"
        hosts.start(group)
        stop = alone or out.enter_context(consensus.on_signals())
        if not hosts.is_primary():  # its lines would be those of process 0 again
            nobody = open(os.devnull, "w")  # noqa: SIM115 (as long as the process)
            out.enter_context(contextlib.redirect_stdout(nobody))
        with hosts.losses_named():
            result = train.run(
                config,
                workdir,
                overwrite=values.overwrite,
                plan_only=values.plan,
                stop=stop,
            )
        if result:
            status.append(result["status"])
            path = os.path.join(workdir, "result.json")
            sys.stdout.write(f"{result['status']}: {path}\n")

    status = []
    with contextlib.ExitStack() as out:
        alone = None if group else out.enter_context(stopping.on_signals())
        # Not above: the parent of one of several processes stays small and without JAX,
        # and a signal may come while this takes its seconds.
        from rsmatch_jax import train
        from rsmatch_jax.engine import checks, config_file
        from rsmatch_jax.runtime import compilation, consensus, hosts

        code = exit_code(command, GO_ON)
    return hosts.leave(STOPPED if status == ["stopped"] else code)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
