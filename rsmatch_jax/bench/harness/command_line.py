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

    presets: the user's values override them. extra: flags that only this bench has.
    fixed: dotted keys that the bench sets and the user may not. Raises RequestError if
    a flag, key, value or path cannot work.
    """
    values = check(argv, extra)
    device = jax.local_devices()[0]
    preset = values.preset or ("cpu" if device.platform == "cpu" else "gpu")
    overridden = set(fixed) & set(config_file.override_keys(["bench", *argv]))
    if overridden:
        raise RequestError(
            f"--config.{min(overridden)}: this bench sets it; leave it out"
        )
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


def check(argv: Sequence[str], extra: Extra = NO_FLAGS) -> flags.FlagValues:
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
            options = {"name": name, "default": default, "flag_values": values}
            if default is None:
                flags.DEFINE_string(**options, help=name)
            else:
                flags.DEFINE_float(**options, help=name, lower_bound=0.0)

    return config_file.parse(["bench", f"--config={CONFIG}", *argv], define)
