"""Configs of workdirs, read by a version that may have more or fewer keys.

A run that began before a key existed keeps its neutral value (configs/common.py,
`Later`).
"""

import functools
import os
from collections.abc import Collection, Mapping
from typing import Any

from rsmatch_jax import progress
from rsmatch_jax.data import sources
from rsmatch_jax.engine import checks, config_file
from rsmatch_jax.errors import RequestError, one_line
from rsmatch_jax.models import own_encoder
from rsmatch_jax.runs import workdir

# Where data are. A run goes on with other places if the data are equal.
PLACES = ("data.data_dir", "data.cache_dir", "data.synthetic_pool", "data.download")
PLACES += tuple(f"data.{key}" for key in sources.OWN_PLACES)
WAY_OUT = "choose another workdir, use the same config, or start anew with --overwrite"


def reference() -> tuple[Any, dict[str, Any]]:
    """Returns configs/common.py's config and {later key: neutral value}."""
    path = config_file.find("common")
    functions = ("get_config", "neutral_values")
    config, neutral = (config_file.call(path, function) for function in functions)
    return config, neutral


@functools.cache
def neutral_values() -> Mapping[str, Any]:
    """Returns the second part of `reference`, read once in a process."""
    return reference()[1]


def load(folder: str, trust_code: bool = False) -> Any:
    """Returns the locked config of the run in a workdir. Keys that it lacks get neutral
    values, and a line on stderr names those that its method uses.

    Raises RequestError if there is no run, if a value cannot work or is missing, or if
    a network is code outside this package, which runs only with trust_code.
    """
    if not os.path.isdir(folder):
        raise RequestError(f"--workdir={folder}: there is no such folder")
    saved = workdir.read_config(folder)
    path = os.path.join(folder, workdir.CONFIG_FILE)
    if saved is None:
        raise RequestError(
            f"--workdir={folder} holds no run (no {workdir.CONFIG_FILE} of one); name "
            "the --workdir of a launch.py"
        )
    neutral, (config, _) = missing_values(saved, path), reference()
    known = workdir.flat(config.to_dict()).keys()
    try:
        with config.unlocked():
            config.update(saved)
        config = with_values(config, neutral)
        if not trust_code:
            _require_no_code(config, path)
        # One device: a command that opens a run need not split its batch.
        checks.check(config, num_devices=1)
    except (TypeError, ValueError) as e:
        raise RequestError(f"{path}: {one_line(e, limit=1000)}") from None
    ignored = checks.ignored_keys(config, neutral)
    line = neutral_line(folder, {k: v for k, v in neutral.items() if k not in ignored})
    if line:
        progress.note(f"note: {line}")
    for key in sorted(workdir.flat(saved).keys() - known):
        progress.note(
            f"warning: {path} has {key}, which this version does not know and ignores; "
            "the version that trained the run may give other figures"
        )
    return config


def missing_values(saved: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Returns {key: neutral value} of the keys that the config saved at `path` lacks;
    raises RequestError if a key has none."""
    config, neutral = reference()
    flat, defaults = workdir.flat(saved), workdir.flat(config.to_dict())
    # A null counts only if the key may be None.
    lacking = [
        key
        for key in defaults
        if key not in neutral and flat.get(key) is None
        if key not in flat or not config_file.may_be_none(key)
    ]
    if lacking:
        listed = ", ".join([*lacking[:4], *(["..."] if lacking[4:] else [])])
        raise RequestError(
            f"{path} lacks {listed}: no version wrote such a config; restore the file, "
            "or use the version that trained the run"
        )
    return {key: neutral[key] for key in defaults if key not in flat}


def completed(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a saved config with neutral values for the later keys that it lacks."""
    config = {}
    for key, value in {**neutral_values(), **workdir.flat(saved)}.items():
        _put(config, key, value)
    return config


def continue_run(
    folder: str, config: Any, explicit: Collection[str] = (), way_out: str = WAY_OUT
) -> dict[str, Any]:
    """Returns {dotted key: neutral value} that the run in a folder keeps instead of the
    default; raises RequestError, ending with `way_out`, if the config is another.

    Keys that the method ignores, PLACES and workdir.FREE may differ. explicit: dotted
    keys that the user has set.
    """
    workdir.check_run_or_empty(folder)
    saved = workdir.read_config(folder)
    if saved is None:
        return {}
    common, neutral = reference()
    defaults = workdir.flat(common.to_dict())
    old, new = workdir.flat(saved), workdir.flat(config.to_dict())
    keys = sorted({*old, *new})
    ignored = checks.ignored_keys(config, keys)
    values, differing = {}, []
    for key in keys:
        if key.startswith(workdir.FREE) or key in PLACES or key in ignored:
            continue
        # From its next start on, the config of an older run has the neutral value.
        there = old.get(key, neutral.get(key, "no such key"))
        here = new.get(key, "no such key")
        is_default = key not in explicit and here == defaults.get(key)
        if there == here:
            continue
        if key in neutral and there == neutral[key] and is_default:
            values[key] = there
        else:
            came_later = key in neutral and key not in old
            began = " (the run began without it)" if came_later else ""
            differing.append(f"  {key}: {there} there{began}, {here} here")
    if differing:
        raise RequestError(
            f"--workdir={folder} holds a run of another config:\n"
            + "\n".join(differing)
            + f"\n{way_out}"
        )
    return values


def neutral_line(folder: str, values: Mapping[str, Any]) -> str | None:
    """Returns a line about neutral values that the run keeps instead of defaults."""
    defaults = workdir.flat(reference()[0].to_dict())
    kept = {k: value for k, value in values.items() if value != defaults.get(k)}
    if not kept:
        return None
    listed = ", ".join(f"{key}={value}" for key, value in kept.items())
    return f"this run began with, and keeps, {listed}"


def with_values(config: Any, values: Mapping[str, Any]) -> Any:
    """Returns a locked copy of a config with {dotted key: value}."""
    config = config.copy_and_resolve_references()
    with config.unlocked(), config.ignore_type():
        for key, value in values.items():
            _put(config, key, value)
    return config.lock()


def _require_no_code(config: Any, path: str):
    for key in ("classifier", "detector"):
        value = config.model[key]
        if own_encoder.is_code(value):
            raise RequestError(
                f"{path}: model.{key}={value} is code that is not of this package; "
                "read it, and add --trust_code if it may run here (in Python: "
                "trust_code=True)"
            )


def _put(group: Any, key: str, value: Any):
    """Sets the value of a dotted key in nested dicts or ConfigDicts."""
    *groups, name = key.split(".")
    for part in groups:
        group = group[part] if part in group else group.setdefault(part, {})
    group[name] = value
