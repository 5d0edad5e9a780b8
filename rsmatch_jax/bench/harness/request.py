"""What was asked of a bench: config, preset, device, where the figures go."""

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from absl import flags

from rsmatch_jax import files
from rsmatch_jax.engine import config_file

PRESETS = {
    "cpu": {"train.batch_size": 4, "train.unlabeled_ratio": 7},
    "gpu": {"model.dtype": "bfloat16"},
}
AS_CONFIGURED = {"cpu": {}, "gpu": {}}  # where no network runs
CONFIG = "cifar10.py"


@dataclasses.dataclass(frozen=True)
class Request:
    """config: locked, with the preset's values and then the user's. out: None or a path
    that can be written. device: the first one visible; no bench times more. values:
    all flags, a bench's own too; words: they as typed, without --out."""

    config: Any
    config_name: str
    preset: str
    out: str | None
    device: jax.Device
    values: flags.FlagValues
    words: tuple[str, ...] = ()


def parse(
    argv: Sequence[str],
    presets: Mapping[str, Mapping[str, Any]] = PRESETS,
    define: Callable[[flags.FlagValues], None] = lambda values: None,
) -> Request:
    """argv: as sys.argv without the bench's name. --config is configs/cifar10.py of
    this repository, wherever the user is, unless given. presets: {name: config values};
    define: adds a bench's own flags.

    Raises RequestError for anything that does not fit, before anything is measured.
    """
    name, values = check(argv, define)
    device = jax.local_devices()[0]
    preset = values.preset or ("cpu" if device.platform == "cpu" else "gpu")
    # Before the user's, for the last of two values stands.
    own = [f"--config.{key}={value}" for key, value in presets[preset].items()]
    file, rest = _config_file(argv[1:])
    config, _, values = config_file.parse(
        [argv[0], *file, *own, *rest], _definitions(define)
    )
    words = tuple(without(argv[1:], "out"))
    return Request(config, name, preset, values.out, device, values, words)


def check(
    argv: Sequence[str], define: Callable[[flags.FlagValues], None]
) -> tuple[str, flags.FlagValues]:
    """(name of the config file, all flags) of what can be said without a device, which
    is not touched. Raises RequestError as `parse` does."""
    file, rest = _config_file(argv[1:])
    _, name, values = config_file.parse([argv[0], *file, *rest], _definitions(define))
    files.check_output(values.out)
    return name, values


def without(argv: Sequence[str], *flags_: str) -> list[str]:
    """The words without some flags and their values (--flag=value or --flag value)."""
    kept, skip = [], False
    for word in argv:
        name = word.lstrip("-").split("=", 1)[0]
        if skip:
            skip = False
        elif word.startswith("-") and name in flags_:
            skip = "=" not in word
        else:
            kept.append(word)
    return kept


def _config_file(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the words that name the config file, the other ones)."""
    for i, arg in enumerate(argv):
        if arg.lstrip("-").split("=", 1)[0] == "config" and arg.startswith("-"):
            end = i + 1 if "=" in arg else i + 2
            return list(argv[i:end]), [*argv[:i], *argv[end:]]
    if config_file.ROOT not in sys.path:
        sys.path.append(config_file.ROOT)  # config files import each other from there
    return [f"--config={os.path.join(config_file.CONFIGS, CONFIG)}"], list(argv)


def _definitions(own: Callable[[flags.FlagValues], None]):
    def define(values):
        flags.DEFINE_enum(
            "preset", None, list(PRESETS), "Sizes to measure at.", flag_values=values
        )
        flags.DEFINE_string("out", None, "JSON file to write.", flag_values=values)
        own(values)

    return define
