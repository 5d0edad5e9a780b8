"""Configs of workdirs, read by a version that may have more or fewer keys.

A run that began before a key existed keeps the key's neutral value, which stands beside
the key in configs/common.py (`Later`).
"""

import copy
import functools
import os
import sys
from collections.abc import Collection, Mapping
from typing import Any

from rsmatch_jax.engine import checks, config_file
from rsmatch_jax.errors import RequestError, one_line
from rsmatch_jax.runs import workdir

# Where data are. A run goes on with other places if the data are equal.
PLACES = ("data.data_dir", "data.cache_dir", "data.synthetic_pool", "data.download")
WAY_OUT = "choose another workdir, use the same config, or start anew with --overwrite"


def reference() -> tuple[Any, dict[str, Any]]:
    """Returns configs/common.py's config and {dotted key: neutral value} of its later
    keys."""
    common = config_file.find("common")
    return (
        config_file.call(common, "get_config"),
        config_file.call(common, "neutral_values"),
    )


@functools.cache
def neutral_values() -> Mapping[str, Any]:
    """Returns the second part of `reference`, read once in a process."""
    return reference()[1]


def load(folder: str) -> Any:
    """Returns the locked config of the run in a workdir.

    Keys that the run lacks have their neutral values, and a line on stderr names those
    that its method uses. Keys that this version lacks stay in the config.

    Raises:
        RequestError: there is no run, or a value cannot work or is missing.
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
    config, _ = reference()
    neutral = missing_values(saved, path)
    try:
        with config.unlocked():
            config.update(saved)
        config = with_values(config, neutral)
        # One device: a command that opens a run need not split its batch.
        checks.check(config, num_devices=1)
    except (TypeError, ValueError) as e:
        raise RequestError(f"{path}: {one_line(e, limit=1000)}") from None
    ignored = checks.ignored_keys(config, neutral)
    line = neutral_line(folder, {k: v for k, v in neutral.items() if k not in ignored})
    if line:
        sys.stderr.write(f"note: {line}\n")
    return config


def missing_values(saved: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Returns {dotted key: neutral value} of the keys that a saved config lacks.

    path: of its file. Raises RequestError if a key has no neutral value.
    """
    config, neutral = reference()
    flat = workdir.flat(saved)
    # A null counts only if the key may be None.
    missing = [
        key
        for key, default in workdir.flat(config.to_dict()).items()
        if key not in flat
        or (flat[key] is None and default is not None and key not in neutral)
    ]
    unknown = [key for key in missing if key not in neutral]
    if unknown:
        listed = ", ".join([*unknown[:4], *(["..."] if unknown[4:] else [])])
        raise RequestError(
            f"{path} lacks {listed}: no version wrote such a config; restore the file, "
            "or use the version that trained the run"
        )
    return {key: neutral[key] for key in missing}


def completed(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a saved config with neutral values for the later keys that it lacks."""
    config, flat = copy.deepcopy(dict(saved)), workdir.flat(saved)
    for key, value in neutral_values().items():
        if key not in flat:
            _put(config, key, value)
    return config


def continue_run(
    folder: str,
    config: Any,
    explicit: Collection[str] = (),
    way_out: str = WAY_OUT,
) -> dict[str, Any]:
    """Checks that a config continues the run in a folder; passes if there is none.

    Only keys that the method uses are compared, and no places (PLACES) or keys that
    change nothing of what a run computes (workdir.FREE).

    Args:
        explicit: dotted keys that the user has set, rather than a default.
        way_out: ends the message.
    Returns:
        {dotted key: neutral value} that the run keeps instead of the default.
    """
    workdir.check_run_or_empty(folder, way_out)
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
        if key not in new:
            differing.append(f"  {key}: {old[key]} there, no such key here")
            continue
        if key not in old and key not in neutral:
            differing.append(f"  {key}: no such key there, {new[key]} here")
            continue
        # A run that began before the key existed has the neutral value in its config
        # from its next start on.
        value = old.get(key, neutral.get(key))
        is_default = key not in explicit and new[key] == defaults.get(key)
        if key in neutral and value == neutral[key] and is_default:
            values[key] = value
        elif value != new[key]:
            came_later = "" if key in old else " (the run began without it)"
            differing.append(f"  {key}: {value} there{came_later}, {new[key]} here")
    if differing:
        raise RequestError(
            f"--workdir={folder} holds a run of another config:\n"
            + "\n".join(differing)
            + f"\n{way_out}"
        )
    return values


def neutral_line(folder: str, values: Mapping[str, Any]) -> str | None:
    """Returns a line about the neutral values of keys that the run's config lacks."""
    saved = workdir.flat(workdir.read_config(folder) or {})
    neutral = {key: value for key, value in values.items() if key not in saved}
    if not neutral:
        return None
    listed = ", ".join(f"{key}={value}" for key, value in neutral.items())
    return f"this run began before these keys existed and keeps {listed}"


def with_values(config: Any, values: Mapping[str, Any]) -> Any:
    """Returns a locked copy of a config with {dotted key: value}."""
    config = config.copy_and_resolve_references()
    with config.unlocked(), config.ignore_type():
        for key, value in values.items():
            _put(config, key, value)
    return config.lock()


def _put(group: Any, key: str, value: Any):
    """Sets the value of a dotted key in nested dicts or ConfigDicts."""
    *groups, name = key.split(".")
    for part in groups:
        group = group[part] if part in group else group.setdefault(part, {})
    group[name] = value
