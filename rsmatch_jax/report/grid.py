"""Sweeps, which are tables of runs, and the records of started ones.

configs/ablations.py defines the sweeps. A report is made from a sweep's record.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any

from rsmatch_jax import files
from rsmatch_jax.engine import checks, config_file
from rsmatch_jax.errors import RequestError
from rsmatch_jax.runs import workdir

RECORD_SUFFIX = ".sweep.json"
PAPER = ("table1", "table2", "table3")
# Where data lie and how a run is carried out: no difference between two runs.
NOT_THE_SETTING = (
    *workdir.FREE,
    *("seed", "data.data_dir", "data.cache_dir", "data.download", "data.origins"),
)
# What identifies a cell of the paper; other keys only make it smaller or larger.
IDENTITY = (
    *("data.name", "data.labels_per_class", "data.real_only"),
    *("data.synthetic_ratio", "data.synthetic_mode", "data.synthetic_mix"),
    "method.",
)

Value = str | int | float | bool | None
RECORD_KEYS = ("name", "title", "baseline", "reduced", "note", "seeds", "overrides")
CELL_KEYS = (
    *("row", "column", "accuracy", "detector", "note"),
    *("folder", "setting", "changed"),
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One place of a table.

    config: name of a config file. overrides: {dotted key: value}. accuracy: the paper's
    (mean, std over three seeds) in percent, std None if it prints none. detector: its
    Deepfake Acc. in percent. common: overrides of the whole sweep; such a sweep has
    its own folders, whose names start with `sweep`.
    """

    row: str
    column: str
    config: str
    overrides: Mapping[str, Value]
    accuracy: tuple[float, float | None] | None = None
    detector: float | None = None
    note: str | None = None
    common: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    sweep: str = ""

    def all_overrides(
        self, more: Mapping[str, Value] | None = None
    ) -> dict[str, Value]:
        """Returns all overrides, `more` last, without keys of other methods."""
        keys = {**self.common, **self.overrides, **(more or {})}
        c = load_config(self.config)
        c.update_from_flattened_dict(keys)
        ignored = checks.ignored_keys(c, keys)
        return {k: v for k, v in keys.items() if k not in ignored}

    def config_dict(self, more: Mapping[str, Value] | None = None) -> Any:
        """Returns the cell's unlocked ConfigDict, with the overrides `more` last."""
        c = load_config(self.config)
        c.update_from_flattened_dict(self.all_overrides(more))
        return c

    def folder(self) -> str:
        """Returns a folder name that is equal for equal settings, to share runs."""
        plain = workdir.flat(load_config(self.config).to_dict())
        keys = {k: v for k, v in self.overrides.items() if v != plain[k]}
        method = keys.pop("method.name", plain["method.name"])
        parts = [f"{key.rsplit('.', 1)[1]}={keys[key]}" for key in sorted(keys)]
        sweep = [self.sweep] if self.common else []
        name = "-".join([*sweep, self.config, str(method), *parts])
        return name.replace("/", "_")  # of a pool's folder


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Cells of a table. overrides: of all cells. baseline: the row to which differences
    are taken. reduced: in what way the runs are smaller than the paper's."""

    name: str
    title: str
    cells: tuple[Cell, ...]
    overrides: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    baseline: str | None = None
    reduced: str | None = None
    note: str | None = None


def load(path: str | None = None) -> dict[str, Sweep]:
    """Returns {name: sweep} of a file like configs/ablations.py, the default."""
    path = path or os.path.join(config_file.CONFIGS, "ablations.py")
    sweeps = {}
    for name, sweep in config_file.call(path, "get_sweeps").items():
        shared = {"common": sweep.get("overrides", {}), "sweep": name}
        cells = tuple(Cell(**cell, **shared) for cell in sweep.pop("cells"))
        sweeps[name] = Sweep(name=name, cells=cells, **sweep)
    return sweeps


def load_config(name: str) -> Any:
    """Returns the unlocked ConfigDict of configs/<name>.py, read once."""
    return _locked_config(name).copy_and_resolve_references().unlock()


@functools.cache
def _locked_config(name: str) -> Any:
    return config_file.load(config_file.find(name))


def setting(config: Mapping[str, Any]) -> dict[str, Value]:
    """Returns {dotted key: value} of all keys that repetitions of a run share."""
    flat = workdir.flat(config)
    return {k: v for k, v in flat.items() if not k.startswith(NOT_THE_SETTING)}


Changed = dict[str, tuple[Value, Value]]  # {dotted key: (cell's, run's value)}


def changed(cell: Cell, config: Mapping[str, Any]) -> Changed:
    """Returns how a run's config differs from a cell's, apart from the pool."""
    return _changed(setting(cell.config_dict().to_dict()), config)


def _changed(expected: dict[str, Value], config: Mapping[str, Any]) -> Changed:
    return {
        key: (old, new)
        for key, old, new in workdir.differences(expected, setting(config))
        if key != "data.synthetic_pool"
    }


@functools.cache
def _published() -> tuple[tuple[Cell, dict[str, Value]], ...]:
    """The paper's cells with an accuracy, and their settings."""
    sweeps = load()
    cells = [c for name in PAPER for c in sweeps[name].cells if c.accuracy]
    return tuple((c, setting(c.config_dict().to_dict())) for c in cells)


def published(config: Mapping[str, Any]) -> tuple[Cell, Changed] | None:
    """Returns the paper's cell with a config's data and method, and `changed`."""
    for cell, expected in _published():
        differing = _changed(expected, config)
        if not any(key.startswith(IDENTITY) for key in differing):
            return cell, differing
    return None


def write_record(out: str, sweep: Sweep, seeds: list[int], more: Mapping[str, Value]):
    """Writes OUT/<name>.sweep.json: cells with folders, all seeds so far, overrides.

    Shards that start at the same time take turns. more: those of the command line.

    Raises:
        RequestError: an earlier start had others, apart from keys that may change.
    """
    path = os.path.join(out, sweep.name + RECORD_SUFFIX)
    with open(f"{path}.lock", "w") as lock:
        files.wait_for_lock(lock)
        if os.path.exists(path):
            earlier = read_record(path)
            began, now = (
                {k: v for k, v in keys.items() if not k.startswith(NOT_THE_SETTING)}
                for keys in (earlier["overrides"], more)
            )
            if began != now:
                raise RequestError(
                    f"{path}: this sweep began with the overrides {began}, now they "
                    f"are {now}; use the same, or another --out"
                )
            seeds = sorted({*earlier["seeds"], *seeds})
        cells = []
        for cell in sweep.cells:
            config = cell.config_dict(more).to_dict()
            record = {"folder": cell.folder(), "overrides": cell.all_overrides(more)}
            record |= {"setting": setting(config), "changed": changed(cell, config)}
            cells.append({**dataclasses.asdict(cell), **record})
        content = {"seeds": seeds, "overrides": dict(more), "cells": cells}
        files.write_json(path, {**dataclasses.asdict(sweep), **content})


def read_record(path: str) -> dict[str, Any]:
    """Returns a sweep's record; RequestError if the file holds something else."""
    record = files.read_json(path) or {}
    try:
        _ = [record[key] for key in RECORD_KEYS]
        _ = [cell[key] for cell in record["cells"] for key in CELL_KEYS]
    except (KeyError, TypeError) as e:
        raise RequestError(
            f"{path} is no record of a sweep ({e!r}); move it away"
        ) from None
    return record


def run_folder(out: str, cell_folder: str, seed: int) -> str:
    return os.path.join(out, cell_folder, f"seed{seed}")
