"""Config keys of methods and rules: declared as dataclass fields, bounds beside them.

    temperature: float = keys.key(above=0)           # method.<block>.temperature
    threshold: float = keys.key("method.threshold")  # a key from elsewhere

The block is the name of the class in its dictionary.
"""

import dataclasses
from typing import Any, NoReturn, TypeVar

from rsmatch_jax.errors import RequestError, suggestion

Config = Any  # a ConfigDict; this level does not import ml_collections
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Bounds:
    """The values of a key; None, an unset placeholder, passes all but `choices`."""

    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def problem(self, value: Any) -> str | None:
        """Returns what is wrong with the value, None if nothing is."""
        if self.choices and value not in self.choices:
            near = suggestion(str(value), self.choices)
            return f"choose {' or '.join(self.choices)}{near}"
        if value is None:
            return None
        least, most = self.least, self.most
        if least is not None and most is not None and not least <= value <= most:
            return f"it must lie between {least} and {most}"
        if least is not None and value < least:
            return f"it must be {least} or more"
        if self.above is not None and not value > self.above:
            return f"it must be above {self.above}"
        if self.below is not None and not value < self.below:
            return f"it must be below {self.below}"
        return None


def key(path: str = "", **bounds: Any) -> Any:
    """Declares a dataclass field that is a config key within Bounds(**bounds); path: ""
    = the field's name in the block of the class."""
    return dataclasses.field(metadata={"path": path, "bounds": Bounds(**bounds)})


def paths(cls: type, block: str) -> dict[str, str]:
    """Returns {field name: dotted config key} of the fields declared with `key`."""
    return {
        field.name: field.metadata["path"] or f"method.{block}.{field.name}"
        for field in dataclasses.fields(cls)
        if "path" in field.metadata
    }


def check(cls: type, block: str, config: Config):
    """Raises RequestError for a value that is out of the bounds declared in `cls`."""
    options = {field.name: field.metadata for field in dataclasses.fields(cls)}
    for name, path in paths(cls, block).items():
        problem = options[name]["bounds"].problem(get(config, path))
        if problem:
            refuse(config, path, problem)


def from_config(cls: type[T], block: str, config: Config, **derived: Any) -> T:
    """Builds the dataclass from its keys; `derived` adds fields or replaces keys."""
    values = {name: get(config, path) for name, path in paths(cls, block).items()}
    return cls(**{**values, **derived})


def get(config: Config, path: str) -> Any:
    """Returns the value of a dotted key."""
    for part in path.split("."):
        config = config[part]
    return config


def unlabelled_rows(config: Config) -> int:
    """Returns U, the unlabelled images of a step over all devices."""
    train = config.train
    if train.real_rows is not None and config.data.real_only:
        return train.real_rows
    return train.batch_size * train.unlabeled_ratio


def synthetic_share(config: Config) -> float:
    """Returns the share of synthetic images among a step's unlabelled ones, as the
    config has it."""
    data, real_rows = config.data, config.train.real_rows
    if data.real_only:
        return 0.0
    if real_rows is None:
        return data.synthetic_ratio
    return 1 - real_rows / unlabelled_rows(config)


def candidate_rows(config: Config) -> int | None:
    """Returns the candidates of a step over all devices, None without screening."""
    ratio = config.train.candidate_ratio
    return None if ratio is None else config.train.batch_size * ratio


def first_step(share: float, num_steps: int) -> int:
    """Returns the step before which a share of the run lies, to the nearest."""
    return round(share * num_steps)


def refuse(config: Config, path: str, way_out: str) -> NoReturn:
    """Raises the RequestError about the value of a dotted key."""
    raise RequestError(f"{path}={get(config, path)}: {way_out}")
