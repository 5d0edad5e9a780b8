"""Sweeps: tables of runs, read from configs/ablations.py, and the record of a started
one, from which its report is made."""

import dataclasses
import functools
import json
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
    "seed",
    "data.data_dir",
    "data.cache_dir",
    "data.download",
)
# What a cell of the paper is about; other keys only make it smaller or larger.
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
    """One place of a table: a config file's name, {dotted key: value}, and the paper's
    figures in percent: accuracy (mean, std over three seeds; std None where it prints
    none) and detector, its Deepfake Acc. common: overrides of the whole sweep, which
    then has folders of its own, with its name in front."""

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
        """{dotted key: value}: those of the sweep, of the cell, then `more`. Keys of
        methods that the cell does not use are left out."""
        keys = {**self.common, **self.overrides, **(more or {})}
        c = load_config(self.config)
        c.update_from_flattened_dict(keys)
        ignored = checks.ignored_keys(c, keys)
        return {k: v for k, v in keys.items() if k not in ignored}

    def config_dict(self, more: Mapping[str, Value] | None = None) -> Any:
        """The cell's unlocked ConfigDict, with `more` overrides after its own."""
        c = load_config(self.config)
        c.update_from_flattened_dict(self.all_overrides(more))
        return c

    def folder(self) -> str:
        """A name for the cell's runs, equal for equal settings: what two tables share
        is run once. Overrides that only repeat the config file are left out."""
        plain = workdir.flat(load_config(self.config).to_dict())
        own = {k: v for k, v in self.overrides.items() if v != plain[k]}
        method = own.pop("method.name", plain["method.name"])
        parts = [f"{key.rsplit('.', 1)[1]}={own[key]}" for key in sorted(own)]
        sweep = [self.sweep] if self.common else []
        return "-".join([*sweep, self.config, method, *parts])


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Cells of a table. overrides: of all cells; baseline: the row to which differences
    are taken; reduced: in what way it is smaller than the paper's runs."""

    name: str
    title: str
    cells: tuple[Cell, ...]
    overrides: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    baseline: str | None = None
    reduced: str | None = None
    note: str | None = None


def load(path: str | None = None) -> dict[str, Sweep]:
    """All sweeps of a file like configs/ablations.py, by name."""
    path = path or os.path.join(config_file.CONFIGS, "ablations.py")
    sweeps = {}
    for name, sweep in config_file.call(path, "get_sweeps").items():
        common = sweep.get("overrides", {})
        cells = tuple(
            Cell(**cell, common=common, sweep=name) for cell in sweep["cells"]
        )
        sweeps[name] = Sweep(name=name, **{**sweep, "cells": cells})
    return sweeps


def load_config(name: str) -> Any:
    """The unlocked ConfigDict of configs/<name>.py."""
    return config_file.load(config_file.find(name)).unlock()


def setting(config: Mapping[str, Any]) -> dict[str, Value]:
    """{dotted key: value} of what two runs must share to be repetitions."""
    flat = workdir.flat(config)
    return {k: v for k, v in flat.items() if not k.startswith(NOT_THE_SETTING)}


def changed(cell: Cell, config: Mapping[str, Any]) -> dict[str, tuple[Value, Value]]:
    """{dotted key: (the cell's value, the run's)} where a run's setting differs; the
    place of its pool is no difference."""
    return {
        key: (old, new)
        for key, old, new in workdir.differences(
            setting(cell.config_dict().to_dict()), setting(config)
        )
        if key != "data.synthetic_pool"
    }


@functools.cache
def _published() -> tuple[Cell, ...]:
    known = load()
    return tuple(c for name in PAPER for c in known[name].cells if c.accuracy)


def published(config: Mapping[str, Any]) -> Cell | None:
    """The paper's cell that a run's config belongs to: same data and method, whatever
    its size (see `changed`). None where the paper has no such cell."""
    for cell in _published():
        if not any(key.startswith(IDENTITY) for key in changed(cell, config)):
            return cell
    return None


def write_record(out: str, sweep: Sweep, seeds: list[int], more: Mapping[str, Value]):
    """Writes OUT/<name>.sweep.json: the cells with their folders, the seeds of all
    starts so far, and the overrides `more` of the command line.

    Raises RequestError where an earlier start had others, but for keys that a resumed
    run may change. Shards that start at the same time take turns.
    """
    path = os.path.join(out, sweep.name + RECORD_SUFFIX)
    with open(f"{path}.lock", "w") as lock:
        files.wait_for_lock(lock)
        earlier = read_record(path) if os.path.exists(path) else None
        if earlier is not None:
            began, now = (
                {k: v for k, v in keys.items() if not k.startswith(workdir.FREE)}
                for keys in (earlier["overrides"], more)
            )
            if began != now:
                raise RequestError(
                    f"{path}: this sweep began with the overrides {began}, now they "
                    f"are {now}; use the same, or another --out"
                )
            seeds = sorted({*earlier["seeds"], *seeds})
        files.write_json(
            path,
            {
                **dataclasses.asdict(sweep),
                "seeds": seeds,
                "overrides": dict(more),
                "cells": [_cell_record(cell, more) for cell in sweep.cells],
            },
        )


def _cell_record(cell: Cell, more: Mapping[str, Value]) -> dict[str, Any]:
    config = cell.config_dict(more).to_dict()
    return {
        **dataclasses.asdict(cell),
        "folder": cell.folder(),
        "overrides": cell.all_overrides(more),
        "setting": setting(config),
        "changed": changed(cell, config),
    }


def read_record(path: str) -> dict[str, Any]:
    """What `write_record` wrote; RequestError where it is something else."""
    try:
        with open(path) as f:
            record = json.load(f)
        _ = [record[key] for key in RECORD_KEYS]
        _ = [cell[key] for cell in record["cells"] for key in CELL_KEYS]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise RequestError(
            f"{path} is no record of a sweep ({e!r}); move it away"
        ) from e
    return record


def run_folder(out: str, cell_folder: str, seed: int) -> str:
    return os.path.join(out, cell_folder, f"seed{seed}")
