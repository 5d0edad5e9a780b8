"""Trains by a config file: python launch.py --config=configs/cifar10.py

Any key is overridden by --config.group.key=value. Exit codes: 0 done, 1 the run failed,
2 the request was wrong.
"""

import contextlib
import io
import os
import sys

from absl import flags
from ml_collections import config_flags

from rsmatch_jax import train
from rsmatch_jax.errors import RequestError


def parse(argv: list[str]):
    """(config, workdir, overwrite, plan) of a command line.

    absl and ml_collections answer a wrong one with a traceback and exit code 1; here
    every such answer becomes a RequestError with their text.
    """
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "Config file.", flag_values=values, sys_argv=argv
    )
    flags.DEFINE_string(
        "workdir", None, "Folder of the run.", flag_values=values, short_name=None
    )
    flags.DEFINE_bool("overwrite", False, "Start anew.", flag_values=values)
    flags.DEFINE_bool("plan", False, "Only say what would be done.", flag_values=values)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its warnings repeat the error
            rest = values(argv)[1:]
        config = values.config
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as e:
        raise RequestError(str(e.args[0] if e.args else e)) from e
    if rest:
        raise RequestError(f"{rest[0]!r} is no flag; flags look like --config=FILE")
    if config is None:
        raise RequestError(
            "--config=FILE is missing, such as --config=configs/digits.py"
        )
    stem = os.path.splitext(os.path.basename(_config_path(argv)))[0]
    workdir = values.workdir or f"runs/{stem}-{config.method.name}-{config.seed}"
    return config, workdir, values.overwrite, values.plan


def main(argv: list[str]) -> int:
    try:
        config, workdir, overwrite, plan = parse(argv)
        result = train.run(config, workdir, overwrite=overwrite, plan_only=plan)
    except RequestError as e:
        sys.stderr.write(f"error: {e}\n")
        return 2
    if result:
        sys.stdout.write(
            f"{os.path.join(workdir, 'result.json')}: {result['status']}\n"
        )
    return 0


def _config_path(argv: list[str]) -> str:
    for given, following in zip(argv, [*argv[1:], ""], strict=True):
        if given.lstrip("-").startswith("config="):
            return given.split("=", 1)[1]
        if given in ("--config", "-config"):
            return following
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv))
