"""Finds and loads config files, and reads a command line's overrides of them.

A RequestError names what is wrong, where absl and ml_collections print a traceback.
"""

import contextlib
import functools
import importlib.machinery
import importlib.util
import io
import operator
import os
import pathlib
import re
import sys
import types
from collections.abc import Callable, Generator, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from rsmatch_jax.errors import RequestError, one_line, suggestion
from rsmatch_jax.runtime.child import ROOT
from rsmatch_jax.terminal import home_expanded

_MAY_BE_NONE = ("data.labels_per_class",)  # although their default is not
# A wheel has the configs inside the package; in the repository they lie beside it.
_PACKAGED = os.path.join(ROOT, "rsmatch_jax", "configs")
CONFIGS = _PACKAGED if os.path.isdir(_PACKAGED) else os.path.join(ROOT, "configs")
KINDS = {  # of flags, as absl names them
    "bool": "true or false",
    "float": "a number, such as 0.5",
    "int": "a whole number, such as 100",
}
SWEEPS = {"ablations", "studies"}  # files of CONFIGS that hold no config


def parse(
    argv: Sequence[str], define: Callable[[flags.FlagValues], None]
) -> tuple[Any, str, flags.FlagValues]:
    """Returns (locked config, name of its file without .py, flag values). argv: as
    sys.argv, program name first. define: adds the command's flags."""
    value, others = _split(home_expanded(argv))
    path = find(value)
    config = load(path)
    for key in override_keys(others):
        _check_key(config, key)
    others = _without_none(config, others)
    values = flags.FlagValues()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # repeats the exception
            config_flags.DEFINE_config_dict(
                "config", config, flag_values=values, sys_argv=others
            )
            define(values)
            words = values(others)[1:]
    except flags.IllegalFlagValueError as e:
        raise RequestError(_in_words(str(e), values)) from e
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as e:
        raise RequestError(one_line(e, limit=1000)) from e
    if words:
        raise RequestError(f"{words[0]!r} is no flag; flags look like --workdir=DIR")
    return values.config, os.path.splitext(os.path.basename(path))[0], values


def _in_words(message: str, values: flags.FlagValues) -> str:
    """Returns absl's message about a flag's value without Python's words."""
    match = re.match(r"flag (--([^=]*)=.*?): ", message, re.DOTALL)
    kind = KINDS.get(values[match[2]].flag_type()) if match else None
    return f"{match[1]}: it must be {kind}" if match and kind else message


def find(value: str) -> str:
    """Returns the path of the packaged config of that name, or `value`, a path."""
    names = ready()
    if value in names:
        return os.path.join(CONFIGS, f"{value}.py")
    if not os.path.isfile(value):
        raise RequestError(
            f"--config={value}: there is no such file"
            f"{suggestion(value, names)}; the packaged configs: {', '.join(names)}"
        )
    return value


def ready() -> list[str]:
    """Returns the names of the packaged configs."""
    names = {path.stem for path in pathlib.Path(CONFIGS).glob("*.py")}
    return sorted(name for name in names - SWEEPS if name.isidentifier())


def load(path: str) -> ConfigDict:
    """Returns the locked config of a file; raises RequestError if it has none."""
    try:
        config = call(path, "get_config")
        if not isinstance(config, ConfigDict) or "method" not in config:
            changed = "the ConfigDict of configs/common.py with changed values"
            raise TypeError(f"get_config() must return {changed}")
        _check_keys(config)
        return config.lock()
    except Exception as e:  # the file is the user's and may raise anything
        reason = one_line(e, limit=1000)
        raise RequestError(f"--config={path} cannot be loaded: {reason}") from e


def call(path: str, function: str) -> Any:
    """Runs a Python file, in which `from configs import common` takes the packaged
    module, and returns the result of a function of it."""
    name = "configs._file"  # disappears with `configs`
    loader = importlib.machinery.SourceFileLoader(name, path)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    with _configs_importable(os.path.dirname(os.path.abspath(path))):
        sys.modules[name] = module  # dataclasses look for it there
        loader.exec_module(module)
        return getattr(module, function)()


@contextlib.contextmanager
def _configs_importable(folder: str) -> Generator[None]:
    """Makes CONFIGS the package `configs`; modules that it lacks come from `folder`, or
    from a user's `configs` on sys.path."""
    before = _take_configs()
    package = types.ModuleType("configs")
    others = (os.path.join(entry, "configs") for entry in sys.path)
    package.__path__ = [CONFIGS, folder, *filter(os.path.isdir, others)]
    sys.modules["configs"] = package
    try:
        yield
    finally:
        _take_configs()
        sys.modules.update(before)


def _take_configs() -> dict[str, types.ModuleType]:
    names = [n for n in sys.modules if n == "configs" or n.startswith("configs.")]
    return {name: sys.modules.pop(name) for name in names}


@functools.cache
def defaults() -> ConfigDict:
    """Returns the locked config of configs/common.py."""
    return call(find("common"), "get_config").lock()


def _check_keys(config: ConfigDict):
    """Raises RequestError unless a file's config has just the keys of `defaults`, with
    a value where they need one."""
    known, here = (dict(_leaves(group)) for group in (defaults(), config))
    for key in here:
        if key not in known:
            _check_key(defaults(), key, "")
    lacking = [key for key in known if key not in here]
    if lacking:
        raise RequestError(f"it lacks {lacking[0]}; begin with common.get_config()")
    for key, value in here.items():
        if value is None and not may_be_none(key):
            raise RequestError(f"{key}=None: it needs a value, such as {known[key]}")


def _leaves(group: ConfigDict, before: str = "") -> Generator[tuple[str, Any]]:
    """Yields (dotted key, value)."""
    for name, value in group.items():
        if isinstance(value, ConfigDict):
            yield from _leaves(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _check_key(config: ConfigDict, key: str, flag: str = "--config."):
    group = config
    for i, part in enumerate(key.split(".")):
        if not isinstance(group, ConfigDict) or part not in group:
            where = ".".join(key.split(".")[:i])
            keys = list(group) if isinstance(group, ConfigDict) else []
            raise RequestError(
                f"{flag}{key}: there is no key {part!r}"
                + (f" in {where}" if where else "")
                + suggestion(part, keys)
                + (f"; its keys: {', '.join(keys)}" if keys else "")
            )
        group = group[part]
    if isinstance(group, ConfigDict):
        raise RequestError(
            f"{flag}{key}: it is a group of keys; set one of them, such as "
            f"{flag}{key}.{next(iter(group))}; its keys: {', '.join(group)}"
        )


def _without_none(config: ConfigDict, argv: Sequence[str]) -> list[str]:
    """Sets keys to None where the command line says so and they may be; returns the
    other words, because ml_collections reads no None."""
    others = []
    for word in argv:
        match = re.fullmatch(r"-+config\.([^=]*)=None", word)
        if match and may_be_none(match[1]):
            *groups, name = match[1].split(".")
            with config.unlocked():
                functools.reduce(operator.getitem, groups, config)[name] = None
        else:
            others.append(word)
    return others


@functools.cache
def may_be_none(key: str) -> bool:
    """Whether a dotted key of configs/common.py may be None."""
    return dict(_leaves(defaults()))[key] is None or key in _MAY_BE_NONE


def override_keys(argv: Sequence[str]) -> list[str]:
    """Returns the dotted keys that a command line sets."""
    matches = (re.match(r"-+(?:no)?config\.([^=]*)", arg) for arg in argv[1:])
    return [match[1] for match in matches if match]


def _split(argv: Sequence[str]) -> tuple[str, list[str]]:
    """Splits a command line into the value of --config and all other words."""
    value, others, words = None, [], iter(argv)
    for word in words:
        flag, equals, text = word.partition("=")
        if flag not in ("--config", "-config"):
            others.append(word)
        else:
            value = text if equals else next(words, None)
    if value is None:
        raise RequestError("--config=FILE is missing, such as --config=digits")
    return value, others
