"""What the runs below a folder have left: results, curves, pictures."""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from rsmatch_jax.engine import saved_config
from rsmatch_jax.errors import RequestError
from rsmatch_jax.report import grid
from rsmatch_jax.runs import workdir

# What is shown of a run, and where result.json has it. Accuracies are shares of one.
FIGURES = {
    "best": "test_accuracy_best",
    "last": "test_accuracy",
    "median20": "test_accuracy_median20",
    "detector_accuracy": "detector_accuracy",
    "detector_balanced_accuracy": "detector_balanced_accuracy",
    "detector_auroc": "detector_auroc",
    "queue_purity": "queue_purity",
}
TEST_FIGURES = ("top5", "macro_precision", "macro_recall", "macro_f1", "ece")


@dataclasses.dataclass(frozen=True)
class Run:
    """One readable workdir. figures: by the names of FIGURES and TEST_FIGURES, None
    where the method has none; evaluations: lines of metrics.jsonl."""

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

    def setting(self) -> dict[str, Any]:
        """{dotted key: value} of what a repetition with another seed shares."""
        return grid.setting(self.config)

    def picture(self) -> str | None:
        path = os.path.join(self.folder, workdir.QUEUE_PICTURE)
        return path if os.path.exists(path) else None


@dataclasses.dataclass(frozen=True)
class Broken:
    """A workdir whose files are not those of a run, and why."""

    folder: str
    reason: str


def find(folder: str) -> dict[str, Run | Broken]:
    """{real path: what is in it} for every workdir in or below `folder`.

    Raises RequestError where there is no such folder.
    """
    if not os.path.isdir(folder):
        raise RequestError(f"{folder}: there is no such folder")
    return {
        os.path.realpath(root): read(root)
        for root, files in _walk(folder)
        if workdir.RESULT_FILE in files
    }


def find_records(folder: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """{real path: (its folder, content)} of every sweep's record in or below
    `folder`."""
    return {
        os.path.realpath(os.path.join(root, name)): (
            root,
            grid.read_record(os.path.join(root, name)),
        )
        for root, files in _walk(folder)
        for name in sorted(files)
        if name.endswith(grid.RECORD_SUFFIX)
    }


def read(folder: str) -> Run | Broken:
    """A workdir with a result.json."""
    path = os.path.join(folder, workdir.RESULT_FILE)
    try:
        result = workdir.read_result(folder)
        test = result["test"]
        run = Run(
            folder=folder,
            **{k: result[k] for k in ("status", "method", "dataset", "seed", "steps")},
            seconds=float(result["seconds"]),
            config=saved_config.completed(result["config"]),
            figures={
                **{name: _number(result[key]) for name, key in FIGURES.items()},
                **{name: _number(test.get(name)) for name in TEST_FIGURES},
            },
            evaluations=_evaluations(folder),
        )
        run.setting()
        if run.finished and run.figures["best"] is None:
            raise KeyError("test_accuracy_best")
    except RequestError as e:
        return Broken(folder, str(e))
    except (KeyError, TypeError, AttributeError, ValueError) as e:
        return Broken(folder, f"{path} is not the result of a run ({e!r})")
    return run


def _walk(folder: str) -> Iterator[tuple[str, list[str]]]:
    """(folder, its files), in order, but for what lies in checkpoints."""
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(set(folders) - {"checkpoints"})  # where os.walk goes on
        yield root, files


def read_lines(folder: str) -> tuple[Mapping[str, Any], ...]:
    """All lines of a run's metrics.jsonl; none where it has none. Raises RequestError
    where they are no JSON."""
    path = os.path.join(folder, workdir.METRICS_FILE)
    try:
        with open(path) as f:
            lines = [json.loads(line) for line in f if line.endswith("\n")]
        if not all(isinstance(line, dict) for line in lines):
            raise ValueError("a line is no object")
        return tuple(lines)
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as e:
        raise RequestError(f"{path} cannot be read: {e}") from None


def _evaluations(folder: str) -> tuple[Mapping[str, Any], ...]:
    return tuple(line for line in read_lines(folder) if "eval/test_accuracy" in line)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
