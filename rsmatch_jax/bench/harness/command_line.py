"""Reads the flags of a bench: config, preset, output file and its extra flags."""

import argparse
import dataclasses
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
CONFIG = "cifar10"  # the packaged config without --config
Presets = Mapping[str, Mapping[str, Any]]  # {preset: {dotted key: value}}
Extra = Mapping[str, float | None]  # {flag: default}; None takes text


@dataclasses.dataclass(frozen=True)
class Request:
    """The checked flags of one bench.

    config: locked; the preset's values, then the user's. out: a path that can be
    written, or None. device: the first visible one, the only one that is timed.
    flags: the values of the bench's extra flags. words: as typed, without --out.
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
        return all(checks.get(self.config, k) == value for k, value in values.items())


def parse(
    argv: Sequence[str], presets: Presets, extra: Extra, fixed: Collection[str]
) -> Request:
    """Returns the request that the flags of a bench state, with defaults by `presets`.

    extra: flags that only this bench has. fixed: dotted keys that the user may not set.
    Raises RequestError if a flag, key, value or path cannot work.
    """
    values = check(argv, extra)
    device = jax.local_devices()[0]
    preset = values.preset or ("cpu" if device.platform == "cpu" else "gpu")
    overridden = set(fixed) & set(config_file.override_keys(["bench", *argv]))
    if overridden:
        key = min(overridden)
        raise RequestError(f"--config.{key}: this bench sets it; leave it out")
    # The user's flags come later: the last of two values is used.
    defaults = [f"--config.{key}={value}" for key, value in presets[preset].items()]
    config, name, _ = _read([*defaults, *argv], extra)
    return Request(
        config=config,
        config_name=name,
        preset=preset,
        out=values.out,
        device=device,
        flags={key: values[key].value for key in extra},
        words=tuple(without(argv, "out")),
    )


def check(argv: Sequence[str], extra: Extra) -> flags.FlagValues:
    """Checks the flags as `parse` does, without a device; returns their values."""
    _, _, values = _read(argv, extra)
    files.check_output(values.out)
    return values


def without(argv: Sequence[str], *names: str) -> list[str]:
    """The words without some flags and their values (--flag=value or --flag value)."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in names:
        parser.add_argument(f"--{name}", f"-{name}")
    return parser.parse_known_args(argv)[1]


def _read(argv: Sequence[str], extra: Extra) -> tuple[Any, str, flags.FlagValues]:
    def define(values):
        flags.DEFINE_enum("preset", None, list(PRESETS), "Sizes.", flag_values=values)
        flags.DEFINE_string("out", None, "JSON file to write.", flag_values=values)
        for name, default in extra.items():
            if default is None:
                flags.DEFINE_string(name, None, name, flag_values=values)
            else:
                flags.DEFINE_float(name, default, name, 0.0, flag_values=values)

    return config_file.parse(["bench", f"--config={CONFIG}", *argv], define)
