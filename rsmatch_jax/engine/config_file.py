"""Reads `--config=FILE --config.group.key=value`, with answers a user can act on.

absl and ml_collections answer a wrong flag, key, type or file with a traceback and exit
code 1. Here each becomes a RequestError that names it.
"""

import contextlib
import difflib
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from rsmatch_jax.errors import RequestError, one_line

_FOLDER = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(_FOLDER))  # of launch.py
CONFIGS = os.path.join(ROOT, "configs")


def parse(
    argv: Sequence[str], define: Callable[[flags.FlagValues], None]
) -> tuple[Any, str, flags.FlagValues]:
    """(locked config, name of its file without .py, all flag values).

    argv: as sys.argv, program name first. define: adds the command's flags.
    Raises RequestError for anything that does not fit.
    """
    path = _config_path(argv)
    if not os.path.isfile(path):
        raise RequestError(
            f"--config={path}: there is no such file; the ready ones are in configs/"
        )
    base = _load(argv[:1], path)
    for key in override_keys(argv):
        _check_key(base, key)
    values = _define(argv)
    define(values)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # repeats what we raise
            rest = values(list(argv))[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as e:
        raise RequestError(one_line(e, limit=1000)) from e
    if rest:
        raise RequestError(f"{rest[0]!r} is no flag; flags look like --workdir=DIR")
    return values.config, os.path.splitext(os.path.basename(path))[0], values


def _define(argv: Sequence[str]) -> flags.FlagValues:
    # ml_collections runs a file in the module of the file before, whose get_config
    # would stand in for a missing one.
    sys.modules.pop("config_config", None)
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "Config file.", flag_values=values, sys_argv=list(argv)
    )
    return values


def _load(program: Sequence[str], path: str) -> ConfigDict:
    """The config file without overrides, to check these against."""
    argv = [*program, f"--config={path}"]
    values = _define(argv)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            values(argv)
            config = values.config
            config.is_locked  # noqa: B018 (a file that failed to load fails here)
    # The file's Python code may raise anything, which the user has to see.
    except Exception as e:
        reason = one_line(e, limit=1000)
        raise RequestError(f"--config={path} cannot be loaded: {reason}") from e
    if not isinstance(config, ConfigDict) or "method" not in config:
        raise RequestError(
            f"--config={path}: get_config() must return the ConfigDict of "
            "configs/common.py with changed values"
        )
    return config


def _check_key(config: ConfigDict, key: str):
    """Raises RequestError unless the dotted key exists."""
    group = config
    for i, part in enumerate(key.split(".")):
        if not isinstance(group, ConfigDict) or part not in group:
            where = ".".join(key.split(".")[:i])
            keys = list(group) if isinstance(group, ConfigDict) else []
            near = difflib.get_close_matches(part, keys, n=1)
            raise RequestError(
                f"--config.{key}: there is no key {part!r}"
                + (f" in {where}" if where else "")
                + (f", did you mean {near[0]!r}" if near else "")
                + (f". Its keys: {', '.join(keys)}" if keys else "")
            )
        group = group[part]


def override_keys(argv: Sequence[str]) -> list[str]:
    """Dotted keys that the command line sets."""
    keys = []
    for arg in argv[1:]:
        name = arg.lstrip("-").split("=", 1)[0]
        if arg.startswith("-") and name.startswith(("config.", "noconfig.")):
            keys.append(name.split(".", 1)[1])
    return keys


def _config_path(argv: Sequence[str]) -> str:
    for i, arg in enumerate(argv):
        if arg in ("--config", "-config") and i + 1 < len(argv):
            return argv[i + 1]
        if arg.startswith(("--config=", "-config=")):
            return arg.split("=", 1)[1]
    raise RequestError("--config=FILE is missing, such as --config=configs/digits.py")
