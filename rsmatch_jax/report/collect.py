"""Finds the runs and sweeps below folders, and reads their results."""

import dataclasses
import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rsmatch_jax.engine import saved_config
from rsmatch_jax.errors import RequestError
from rsmatch_jax.metrics import names
from rsmatch_jax.report import grid
from rsmatch_jax.runs import workdir


@dataclasses.dataclass(frozen=True)
class Run:
    """One readable workdir. figures: by the names in COLUMNS, and LATE, shares of
    one, None if the method lacks it. evaluations: lines of metrics.jsonl."""

    folder: str
    status: str
    method: str
    dataset: str
    seed: int
    steps: int
    seconds: float
    config: Mapping[str, Any]
    figures: Mapping[str, float | None]
    evaluations: tuple[Mapping[str, Any], ...]

    @property
    def finished(self) -> bool:
        return self.status == "finished"

    @property
    def num_steps(self) -> int:
        return self.config["train"]["num_steps"]


@dataclasses.dataclass(frozen=True)
class Broken:
    """A workdir whose files are not those of a run, and the reason."""

    folder: str
    reason: str


Runs = dict[str, Run | Broken]
Records = dict[str, tuple[str, dict[str, Any]]]


def find(folders: Sequence[str]) -> tuple[Runs, Records]:
    """Returns the workdirs and the records of sweeps in or below folders.

    Workdirs are {real path: run}, records {real path: (folder, content)}.

    Raises:
        RequestError: a folder is missing, or a record is broken.
    """
    runs: Runs = {}
    records: Records = {}
    for folder in folders:
        if not os.path.isdir(folder):
            raise RequestError(f"{folder}: there is no such folder")
        for root, below, files in os.walk(folder):
            below[:] = sorted(set(below) - {workdir.CHECKPOINTS})  # where walk goes on
            if workdir.RESULT_FILE in files:
                runs.setdefault(os.path.realpath(root), read(root))
            for name in sorted(files):
                if name.endswith(grid.RECORD_SUFFIX):
                    path = os.path.join(root, name)
                    record = root, grid.read_record(path)
                    records.setdefault(os.path.realpath(path), record)
    return runs, records


def read(folder: str) -> Run | Broken:
    """Returns the run in a folder with a result.json."""
    path = os.path.join(folder, workdir.RESULT_FILE)
    try:
        result = workdir.read_result(folder) or {}
        lines = workdir.read_metrics(folder)
        evaluations = tuple(x for x in lines if "eval/test_accuracy" in x)
        flat = {**result, **workdir.flat({"test": result["test"]})}
        values = {name: flat.get(key) for name, key in names.COLUMNS.items()}
        values[names.LATE] = _late(evaluations)
        run = Run(
            folder=folder,
            **{k: result[k] for k in ("status", "method", "dataset", "seed", "steps")},
            seconds=float(result["seconds"]),
            config=saved_config.completed(result["config"]),
            figures={k: None if v is None else float(v) for k, v in values.items()},
            evaluations=evaluations,
        )
        was_tested = any(x["eval/test_accuracy"] is not None for x in run.evaluations)
        if run.finished and was_tested and run.figures["best"] is None:
            raise KeyError(names.BEST)
    except RequestError as e:
        return Broken(folder, str(e))
    except (KeyError, TypeError, AttributeError, ValueError) as e:
        return Broken(folder, f"{path} is not the result of a run ({e!r})")
    return run


def _late(evaluations: Sequence[Mapping[str, Any]]) -> float | None:
    """Mean accuracy of the last four evaluations, None if there are fewer."""
    last = [line["eval/test_accuracy"] for line in evaluations[-4:]]
    return statistics.fmean(last) if len(last) == 4 and None not in last else None
