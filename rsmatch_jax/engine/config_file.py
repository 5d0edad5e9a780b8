"""Reading `--config=FILE --config.group.key=value`, or the config that a run has saved,
with answers a user can act on.

absl and ml_collections meet a wrong flag, key, type or file with a traceback and exit
code 1. Here each becomes a RequestError that names it.
"""

import contextlib
import difflib
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from rsmatch_jax.engine import checks
from rsmatch_jax.errors import RequestError
from rsmatch_jax.runs import workdir

_FOLDER = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(_FOLDER))  # of launch.py
CONFIGS = os.path.join(ROOT, "configs")


def parse(
    argv: Sequence[str], define: Callable[[flags.FlagValues], None]
) -> tuple[Any, str, flags.FlagValues]:
    """(locked config, name of its file without .py, all flag values).

    argv: as sys.argv, program name first. define: adds the command's own flags.
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
        raise RequestError(" ".join(str(e.args[0] if e.args else e).split())) from e
    if rest:
        raise RequestError(f"{rest[0]!r} is no flag; flags look like --workdir=DIR")
    return values.config, os.path.splitext(os.path.basename(path))[0], values


def saved_config(folder: str) -> ConfigDict:
    """The locked config of the run in a workdir.

    Raises RequestError where there is no run, or where its config.json lacks a key of
    configs/common.py or has a value that cannot be. Keys of the run's own may stay.
    """
    if not os.path.isdir(folder):
        raise RequestError(f"--workdir={folder}: there is no such folder")
    saved = workdir.read_config(folder)
    path = os.path.join(folder, workdir.CONFIG_FILE)
    if saved is None:
        raise RequestError(
            f"--workdir={folder} holds no run (no {workdir.CONFIG_FILE}); name the "
            "--workdir of a launch.py"
        )
    config = _load([""], os.path.join(CONFIGS, "common.py"))
    missing = list(_missing(config, saved))
    if missing:
        listed = ", ".join([*missing[:4], *(["..."] if missing[4:] else [])])
        raise RequestError(
            f"{path} lacks {listed}: it is no config of this version; use the version "
            "that trained the run"
        )
    try:
        with config.unlocked():
            config.update(saved)
        # One device: whoever looks at a run need not split its batch.
        checks.check(config, num_devices=1)
    except (TypeError, ValueError) as e:
        raise RequestError(f"{path}: {' '.join(str(e).split())}") from None
    return config


def _missing(reference: ConfigDict, saved: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys of `reference` that a nested dict lacks; null counts only where the
    reference may be None, too."""
    for key, value in reference.items():
        known = isinstance(saved, dict) and key in saved
        inner = saved[key] if known else None
        if isinstance(value, ConfigDict):
            yield from _missing(value, inner, f"{prefix}{key}.")
        elif not known or (inner is None and value is not None):
            yield f"{prefix}{key}"


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
    # Whatever the file's own Python raises is an answer to the user.
    except Exception as e:
        reason = " ".join(str(e.args[0] if e.args else e).split())
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
