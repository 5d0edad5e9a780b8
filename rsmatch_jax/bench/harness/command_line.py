"""Reads the flags of a bench: config, preset, output file and its extra flags."""

import dataclasses
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
from absl import flags

from rsmatch_jax import files
from rsmatch_jax.engine import checks, config_file
from rsmatch_jax.errors import RequestError

PRESETS = {
    "cpu": {"train.batch_size": 4, "train.unlabeled_ratio": 7},
    "gpu": {"model.dtype": "bfloat16"},
}
AS_CONFIGURED = {"cpu": {}, "gpu": {}}  # for benches that run no network
CONFIG = "cifar10.py"
Presets = Mapping[str, Mapping[str, Any]]  # {preset: {dotted key: value}}
Extra = Mapping[str, float | None]  # {flag: default}
NO_FLAGS: Extra = {}


@dataclasses.dataclass(frozen=True)
class Request:
    """The checked flags of one bench.

    config: locked; the preset's values, then the user's. out: a path that can be
    written, or None. device: the first visible one, the only one that is timed.
    flags: the values of the bench's extra flags. words: the flags as typed, without
    --out.
    """

    config: Any
    config_name: str
    preset: str
    out: str | None
    device: jax.Device
    flags: Mapping[str, Any]
    words: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The preset that suits the device: "cpu" or "gpu"."""
        return "cpu" if self.device.platform == "cpu" else "gpu"

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether the config has these values, {dotted key: value}."""
        return all(
            checks.get(self.config, key) == value for key, value in values.items()
        )


def parse(
    argv: Sequence[str],
    presets: Presets = PRESETS,
    extra: Extra = NO_FLAGS,
    fixed: Collection[str] = (),
) -> Request:
    """Returns the request that the flags of a bench state.

    Args:
        argv: the flags alone. Without --config it is configs/cifar10.py of this
            repository, whatever the current folder is.
        presets: the user's values override them.
        extra: flags that only this bench has, see `check`.
        fixed: dotted keys that the bench sets and the user may not.

    Raises:
        RequestError: a flag, key, value or path cannot work.
    """
    name, values = check(argv, extra)
    device = jax.local_devices()[0]
    preset = values.preset or ("cpu" if device.platform == "cpu" else "gpu")
    overridden = set(fixed) & set(config_file.override_keys(["bench", *argv]))
    if overridden:
        raise RequestError(
            f"--config.{min(overridden)}: this bench sets it; leave it out"
        )
    # The user's flags come later: the last of two values is used.
    defaults = [f"--config.{key}={value}" for key, value in presets[preset].items()]
    file, others = _config_file(argv)
    config, _, _ = config_file.parse(
        ["bench", *file, *defaults, *others], _definitions(extra)
    )
    return Request(
        config=config,
        config_name=name,
        preset=preset,
        out=values.out,
        device=device,
        flags={key: values[key].value for key in extra},
        words=tuple(without(argv, "out")),
    )


def check(argv: Sequence[str], extra: Extra = NO_FLAGS) -> tuple[str, flags.FlagValues]:
    """Checks flags without touching a device; returns the config's name and all flags.

    extra: a float takes numbers from 0; None takes text.

    Raises:
        RequestError: as `parse` does.
    """
    file, others = _config_file(argv)
    _, name, values = config_file.parse(["bench", *file, *others], _definitions(extra))
    files.check_output(values.out)
    return name, values


def without(argv: Sequence[str], *names: str) -> list[str]:
    """The words without some flags and their values (--flag=value or --flag value)."""
    words, skip = [], False
    for word in argv:
        name = word.lstrip("-").split("=", 1)[0]
        if skip:
            skip = False
        elif word.startswith("-") and name in names:
            skip = "=" not in word
        else:
            words.append(word)
    return words


def _config_file(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the words that name the config file, the other words)."""
    for i, arg in enumerate(argv):
        if arg.lstrip("-").split("=", 1)[0] == "config" and arg.startswith("-"):
            end = i + 1 if "=" in arg else i + 2
            return list(argv[i:end]), [*argv[:i], *argv[end:]]
    if config_file.ROOT not in sys.path:
        sys.path.append(config_file.ROOT)  # config files import each other from there
    return [f"--config={os.path.join(config_file.CONFIGS, CONFIG)}"], list(argv)


def _definitions(extra: Extra):
    def define(values):
        flags.DEFINE_enum("preset", None, list(PRESETS), "Sizes.", flag_values=values)
        flags.DEFINE_string("out", None, "JSON file to write.", flag_values=values)
        for name, default in extra.items():
            if isinstance(default, float):
                flags.DEFINE_float(
                    name, default, name, lower_bound=0.0, flag_values=values
                )
            else:
                flags.DEFINE_string(name, default, name, flag_values=values)

    return define
