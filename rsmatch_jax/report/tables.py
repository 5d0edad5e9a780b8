"""Tables of runs: means over seeds, beside the paper's figures."""

import dataclasses
import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from scipy import special

from rsmatch_jax.engine import saved_config
from rsmatch_jax.report import grid, row_names
from rsmatch_jax.report.collect import Broken, Run
from rsmatch_jax.report.row_names import Setting

CONFIDENCE = 0.9  # of intervals
OVER_SEEDS = "mean over seeds"  # the column of runs without a sweep


class Stat(NamedTuple):
    """Mean and sample standard deviation over seeds; std is None for one seed."""

    mean: float
    std: float | None


class Difference(NamedTuple):
    """Mean of paired differences. half: of its confidence interval, None below two
    pairs and for the paper's figures."""

    mean: float
    half: float | None


@dataclasses.dataclass(frozen=True)
class Cell:
    """One place of a table.

    runs: finished ones, which give the figures. repeated: others of the same seeds,
    which are left out. expected: number of runs, None outside a sweep. paper: accuracy
    (mean, std) in percent. paper_detector: in percent. reduced: how the runs differ
    from the paper's, None if they do not.
    """

    row: str
    column: str
    runs: tuple[Run, ...]
    unfinished: tuple[Run, ...] = ()
    broken: tuple[Broken, ...] = ()
    repeated: tuple[Run, ...] = ()
    expected: int | None = None
    paper: tuple[float, float | None] | None = None
    paper_detector: float | None = None
    note: str | None = None
    reduced: str | None = None

    def stat(self, name: str) -> Stat | None:
        """Returns a figure of `runs` in percent, None if no run has it."""
        values = list(self.by_seed(name).values())
        if not values:
            return None
        std = statistics.stdev(values) if len(values) > 1 else None
        return Stat(statistics.fmean(values), std)

    def by_seed(self, name: str) -> dict[int, float]:
        """Returns {seed: figure in percent} of the runs that have it."""
        figures = ((run.seed, run.figures[name]) for run in self.runs)
        return {seed: 100 * value for seed, value in figures if value is not None}

    @property
    def counted(self) -> tuple[Run | Broken, ...]:
        """The runs that fill an expected place."""
        return (*self.runs, *self.unfinished, *self.broken)

    @property
    def missing(self) -> int:
        return 0 if self.expected is None else self.expected - len(self.counted)

    def gaps(self) -> str:
        """Returns what the figures lack: "1 unfinished, 2 missing"; "" if nothing."""
        counts = {
            "unfinished": len(self.unfinished),
            "broken": len(self.broken),
            "missing": self.missing,
        }
        return ", ".join(f"{n} {what}" for what, n in counts.items() if n)


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells by row and column; `baseline` is the row that differences refer to."""

    name: str
    title: str
    cells: tuple[Cell, ...]
    baseline: str | None = None
    note: str | None = None

    @property
    def rows(self) -> list[str]:
        return list(dict.fromkeys(cell.row for cell in self.cells))

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(cell.column for cell in self.cells))

    def place(self, cell: Cell) -> str:
        """Returns the name of a cell's place: row, and column if there are several."""
        return cell.row if len(self.columns) == 1 else f"{cell.row}, {cell.column}"

    def cell(self, row: str, column: str) -> Cell | None:
        return next((c for c in self.cells if (c.row, c.column) == (row, column)), None)

    def difference(self, cell: Cell, name: str) -> Difference | None:
        """Returns how much a figure is above that of the baseline in the same column,
        over the seeds that both have. name: of the figure, or "paper" for the
        difference of the paper's accuracies."""
        base = None
        if self.baseline is not None and self.baseline != cell.row:
            base = self.cell(self.baseline, cell.column)
        if base is None:
            return None
        if name == "paper":
            if cell.paper is None or base.paper is None:
                return None
            return Difference(cell.paper[0] - base.paper[0], None)
        mine, other = cell.by_seed(name), base.by_seed(name)
        pairs = [value - other[seed] for seed, value in mine.items() if seed in other]
        return _paired(pairs) if pairs else None


def _paired(differences: Sequence[float]) -> Difference:
    """Returns the mean with Student's interval of CONFIDENCE."""
    count = len(differences)
    if count == 1:
        return Difference(differences[0], None)
    t = float(special.stdtrit(count - 1, (1 + CONFIDENCE) / 2))
    half = t * statistics.stdev(differences) / math.sqrt(count)
    return Difference(statistics.fmean(differences), half)


def of_sweep(
    base: str, record: Mapping[str, Any], runs: Mapping[str, Run | Broken]
) -> Table:
    """Returns the table of a sweep's record in `base`; runs: see `collect.find`."""
    cells = []
    for cell in record["cells"]:
        finished, unfinished, broken = [], [], []
        for seed in record["seeds"]:
            folder = grid.run_folder(base, cell["folder"], seed)
            run = runs.get(os.path.realpath(folder))
            if isinstance(run, Run) and (reason := _misplaced(run, cell, seed)):
                run = Broken(run.folder, reason)
            if isinstance(run, Broken):
                broken.append(run)
            elif run is not None:
                (finished if run.finished else unfinished).append(run)
        cells.append(
            Cell(
                row=cell["row"],
                column=cell["column"],
                runs=tuple(finished),
                unfinished=tuple(unfinished),
                broken=tuple(broken),
                expected=len(record["seeds"]),
                paper=cell["accuracy"] and tuple(cell["accuracy"]),
                paper_detector=cell["detector"],
                note=cell["note"],
                reduced=_reduced(record["reduced"], cell["changed"]),
            )
        )
    keys = ("name", "title", "baseline", "note")
    return Table(cells=tuple(cells), **{key: record[key] for key in keys})


def of_runs(runs: Iterable[Run | Broken]) -> Table:
    """Returns the table of runs without a sweep: a row per setting, seeds together."""
    groups: dict[tuple, list[Run]] = {}
    broken = []
    for run in runs:
        if isinstance(run, Broken):
            broken.append(run)
            continue
        key = tuple(sorted(grid.setting(run.config).items()))
        groups.setdefault(key, []).append(run)
    rows, note = row_names.of_settings(
        [Setting(g[0].method, g[0].dataset, dict(key)) for key, g in groups.items()]
    )
    cells = []
    for row, group in zip(rows, groups.values(), strict=True):
        paper, changed = grid.published(group[0].config) or (None, {})
        by_seed = {r.seed: r for r in reversed(group) if r.finished}
        repeated = [r for r in group if r.finished and r is not by_seed[r.seed]]
        cells.append(
            Cell(
                row=row,
                column=OVER_SEEDS,
                runs=tuple(by_seed[seed] for seed in sorted(by_seed)),
                repeated=tuple(repeated),
                unfinished=tuple(r for r in group if not r.finished),
                paper=paper.accuracy if paper else None,
                paper_detector=paper.detector if paper else None,
                reduced=_reduced(None, changed),
            )
        )
    cells += [Cell(b.folder, OVER_SEEDS, (), broken=(b,)) for b in broken]
    return Table(name="runs", title="Runs by setting", cells=tuple(cells), note=note)


def _misplaced(run: Run, cell: Mapping[str, Any], seed: int) -> str | None:
    """The reason why a run does not belong to a cell and seed, None if it does."""
    setting = {**grid.setting(run.config), "seed": run.seed}
    neutral = saved_config.neutral_values()  # of a run from before a key
    for key, value in {**cell["setting"], "seed": seed}.items():
        is_neutral = key in neutral and setting.get(key) == neutral[key]
        if setting.get(key) != value and not is_neutral:
            path = os.path.join(run.folder, "config.json")
            return f"{path}: {key}={setting.get(key)}, but this cell has {value}"
    return None


def _reduced(text: str | None, changed: Mapping[str, Sequence[Any]]) -> str | None:
    keys = [f"{key} {new} instead of {old}" for key, (old, new) in changed.items()]
    return "; ".join(([text] if text else []) + keys) or None
