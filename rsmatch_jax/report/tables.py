"""Runs into tables: mean and spread over seeds, beside the paper's figures."""

import dataclasses
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rsmatch_jax.engine import saved_config
from rsmatch_jax.report import grid
from rsmatch_jax.report.collect import Broken, Run


@dataclasses.dataclass(frozen=True)
class Stat:
    """Mean and sample standard deviation over n seeds; std None for a single one."""

    mean: float
    std: float | None
    n: int


@dataclasses.dataclass(frozen=True)
class Cell:
    """One place of a table.

    runs: finished ones, from which the figures are; repeated: others of the same seeds,
    which would feign more of them; expected: how many there should be (None: as many as
    there are). paper: accuracy (mean, std) in percent; reduced: in
    what way the runs are smaller than the paper's, or differ from them.
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
        """Of a figure of `runs.FIGURES`, in percent; None without such a figure."""
        values = [run.figures[name] for run in self.runs]
        known = [100 * v for v in values if v is not None]
        if not known:
            return None
        std = statistics.stdev(known) if len(known) > 1 else None
        return Stat(statistics.fmean(known), std, len(known))

    @property
    def missing(self) -> int:
        if self.expected is None:
            return 0
        there = len(self.runs) + len(self.unfinished) + len(self.broken)
        return self.expected - there

    def gaps(self) -> str:
        """What is not in the figures: "1 unfinished, 2 missing"; "" if nothing."""
        counts = {
            "unfinished": len(self.unfinished),
            "broken": len(self.broken),
            "missing": self.missing,
        }
        return ", ".join(f"{n} {what}" for what, n in counts.items() if n)


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells by row and column; differences are taken to the row `baseline`."""

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

    def cell(self, row: str, column: str) -> Cell | None:
        return next((c for c in self.cells if (c.row, c.column) == (row, column)), None)

    def difference(self, cell: Cell, name: str) -> float | None:
        """Mean of a figure less that of the baseline's cell in the same column."""
        mine, base = cell.stat(name), None
        if self.baseline not in (None, cell.row):
            other = self.cell(self.baseline, cell.column)
            base = other and other.stat(name)
        return mine.mean - base.mean if mine and base else None

    def paper_difference(self, cell: Cell) -> float | None:
        if cell.paper is None or self.baseline in (None, cell.row):
            return None
        other = self.cell(self.baseline, cell.column)
        return cell.paper[0] - other.paper[0] if other and other.paper else None


def of_sweep(
    base: str, record: Mapping[str, Any], found: Mapping[str, Run | Broken]
) -> Table:
    """The table of a sweep's record in the folder `base`, from the runs found there."""
    cells = []
    for cell in record["cells"]:
        runs, unfinished, broken = [], [], []
        for seed in record["seeds"]:
            folder = grid.run_folder(base, cell["folder"], seed)
            run = found.get(os.path.realpath(folder))
            if isinstance(run, Run):
                run = _of_cell(run, cell, seed)
            if isinstance(run, Broken):
                broken.append(run)
            elif run is not None:
                (runs if run.finished else unfinished).append(run)
        cells.append(
            Cell(
                row=cell["row"],
                column=cell["column"],
                runs=tuple(runs),
                unfinished=tuple(unfinished),
                broken=tuple(broken),
                expected=len(record["seeds"]),
                paper=cell["accuracy"] and tuple(cell["accuracy"]),
                paper_detector=cell["detector"],
                note=cell["note"],
                reduced=_reduced(record["reduced"], cell["changed"]),
            )
        )
    return Table(
        name=record["name"],
        title=record["title"],
        cells=tuple(cells),
        baseline=record["baseline"],
        note=record["note"],
    )


def of_runs(runs: Sequence[Run], broken: Sequence[Broken] = ()) -> Table:
    """The table of runs that belong to no sweep: a row a setting, seeds together."""
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(sorted(run.setting().items())), []).append(run)
    kinds: dict[tuple[str, str], list[dict]] = {}  # settings of a method and dataset
    for key, group in groups.items():
        kinds.setdefault((group[0].method, group[0].dataset), []).append(dict(key))
    cells = []
    for key, group in groups.items():
        kind = (group[0].method, group[0].dataset)
        row = " ".join([f"{kind[0]} on {kind[1]}", *_distinctive(key, kinds[kind])])
        paper = grid.published(group[0].config)
        by_seed = {r.seed: r for r in reversed(group) if r.finished}
        cells.append(
            Cell(
                row=row,
                column="runs",
                runs=tuple(by_seed[seed] for seed in sorted(by_seed)),
                repeated=tuple(
                    r for r in group if r.finished and r is not by_seed[r.seed]
                ),
                unfinished=tuple(r for r in group if not r.finished),
                paper=paper and paper.accuracy,
                paper_detector=paper and paper.detector,
                reduced=paper and _reduced(None, grid.changed(paper, group[0].config)),
            )
        )
    cells += [Cell(b.folder, "runs", (), broken=(b,)) for b in broken]
    return Table(name="runs", title="Runs by setting", cells=tuple(cells))


def _distinctive(
    setting: Iterable[tuple[str, Any]], others: Sequence[Mapping[str, Any]]
) -> list[str]:
    """key=value for the keys in which a setting differs from one of the others."""
    return [
        f"{key}={value}"
        for key, value in setting
        if any(other.get(key) != value for other in others)
    ]


def _of_cell(run: Run, cell: Mapping[str, Any], seed: int) -> Run | Broken:
    """The run, or what is wrong with it in this cell."""
    mine = {**run.setting(), "seed": run.seed}
    _, neutral = saved_config.reference()  # a run from before a key keeps these
    for key, value in {**cell["setting"], "seed": seed}.items():
        is_neutral = key in neutral and mine.get(key) == neutral[key]
        if mine.get(key) != value and not is_neutral:
            return Broken(
                run.folder,
                f"{os.path.join(run.folder, 'config.json')}: {key}={mine.get(key)}, "
                f"but this cell has {value}",
            )
    return run


def _reduced(text: str | None, changed: Mapping[str, Sequence[Any]]) -> str | None:
    keys = [f"{key} {new} instead of {old}" for key, (old, new) in changed.items()]
    return "; ".join(([text] if text else []) + keys) or None
