"""Tables as Markdown for the terminal, and as CSV."""

import csv
from collections.abc import Iterable, Sequence
from typing import Any

from rsmatch_jax import terminal
from rsmatch_jax.report.collect import FIGURES, TEST_FIGURES, Broken, Run
from rsmatch_jax.report.tables import Cell, Stat, Table

MARK = "†"  # at every figure of a reduced cell
DETECTOR_LINES = {
    "detector": "detector_balanced_accuracy",
    "queue purity": "queue_purity",
}


def section(table: Table) -> str:
    """The table with its title, notes, and what is missing.

    A row of the paper's table is several lines here: best over evaluations, the
    paper's figure, last evaluation, and where there is a detector its balanced
    accuracy and the queue's purity.
    """
    lines = []
    for row in table.rows:
        cells = [table.cell(row, column) for column in table.columns]
        for what, texts in row_lines(table, cells):
            lines.append([row if what == "best" else "", what, *texts])
    head = ["", "%", *table.columns]
    text = [f"## {table.title}", "", terminal.table(head, lines), ""]
    return "\n".join([*text, *footnotes(table), ""])


def row_lines(
    table: Table, cells: Sequence[Cell | None]
) -> Iterable[tuple[str, list[str]]]:
    """(what a line shows, its text in every column) for one row of a table; lines
    without a figure are left out."""
    there = [c for c in cells if c]
    yield "best", [own(table, c, "best") for c in cells]
    if any(c.paper for c in there):
        yield "paper", [paper(table, c) for c in cells]
    yield "last", [own(table, c, "last") for c in cells]
    for what, name in DETECTOR_LINES.items():
        if any(c.stat(name) for c in there):
            yield what, [own(table, c, name, False) for c in cells]
    if any(c.paper_detector for c in there):
        name = "detector_accuracy"
        yield "detector, plain", [own(table, c, name, False) for c in cells]
        yield (
            "detector, paper",
            [
                _number(c.paper_detector) if c and c.paper_detector else ""
                for c in cells
            ],
        )
    if any(c.gaps() for c in there):
        yield "runs", [(c.gaps() or "all") if c else "" for c in cells]


def own(table: Table, cell: Cell | None, name: str, difference: bool = True) -> str:
    """A figure of our own: "93.81 ± 0.70 (+0.86) †"; "-" without one."""
    stat = cell and cell.stat(name)
    if not stat:
        return "-" if cell else ""
    parts = [spread(stat)]
    if difference:
        parts += _bracket(table.difference(cell, name))
    return " ".join(parts + ([MARK] if cell.reduced else []))


def paper(table: Table, cell: Cell | None) -> str:
    """The paper's figure in the same form."""
    if not cell or not cell.paper:
        return ""
    mean, std = cell.paper
    text = _number(mean) if std is None else f"{_number(mean)} ± {std}"
    return " ".join([text, *_bracket(table.paper_difference(cell))])


def spread(stat: Stat) -> str:
    if stat.std is None:
        return _number(stat.mean)
    return f"{_number(stat.mean)} ± {_number(stat.std)}"


def footnotes(table: Table) -> list[str]:
    """What a reader must know to read the figures."""
    notes = [table.note] if table.note else []
    if table.baseline:
        notes.append(f"In brackets: difference to {table.baseline}.")
    notes.append(
        "best: over all evaluations, chosen "
        + _choice(table)
        + "; ±: sample standard deviation over seeds; detector: balanced accuracy over "
        "the unlabelled set, last evaluation."
    )
    reduced: dict[str, list[str]] = {}
    for cell in table.cells:
        if cell.reduced:
            reduced.setdefault(cell.reduced, []).append(f"{cell.row}, {cell.column}")
    for text, places in reduced.items():
        where = "" if len(places) == len(table.cells) else f" ({'; '.join(places)})"
        notes.append(f"{MARK} reduced, no reproduction of the paper{where}: {text}")
    noted: dict[str, list[str]] = {}
    for cell in table.cells:
        if cell.note:
            noted.setdefault(cell.note, []).append(f"{cell.row}, {cell.column}")
    notes += [f"{'; '.join(places)}: {text}." for text, places in noted.items()]
    for cell in table.cells:
        for run in cell.unfinished:
            notes.append(
                f"{run.folder}: {run.status} at step {run.steps} of {run.num_steps}, "
                "not in the figures"
            )
        for run in cell.repeated:
            notes.append(
                f"{run.folder}: another run of the same setting and seed "
                f"({run.seed}) is in the figures, this one is not"
            )
        for run in cell.broken:
            notes.append(f"{run.folder} is broken: {run.reason}")
    return [f"- {note}" for note in notes]


def write_cells(path: str, tables: Iterable[Table]):
    """CSV, a line a cell; accuracies in percent."""
    rows = []
    for table in tables:
        for cell in table.cells:
            line: dict[str, Any] = {
                "table": table.name,
                "row": cell.row,
                "column": cell.column,
                "reduced": cell.reduced or "",
                "finished": len(cell.runs),
                "unfinished": len(cell.unfinished),
                "broken": len(cell.broken),
                "missing": cell.missing,
            }
            for name in [*FIGURES, *TEST_FIGURES]:
                stat = cell.stat(name)
                line[f"{name}_mean"] = stat.mean if stat else None
                line[f"{name}_std"] = stat.std if stat else None
            line["best_difference"] = table.difference(cell, "best")
            line["paper_mean"], line["paper_std"] = cell.paper or (None, None)
            line["paper_difference"] = table.paper_difference(cell)
            line["paper_detector"] = cell.paper_detector
            line["note"] = cell.note or ""
            rows.append(line)
    _write(path, rows)


def write_runs(path: str, runs: Iterable[Run | Broken]):
    """CSV, a line a run; figures as shares of one, as in result.json."""
    rows = []
    for run in runs:
        if isinstance(run, Broken):
            rows.append({"folder": run.folder, "status": f"broken: {run.reason}"})
            continue
        named = ("folder", "status", "method", "dataset", "seed", "steps", "num_steps")
        rows.append(
            {**{k: getattr(run, k) for k in named}, "seconds": run.seconds}
            | dict(run.figures)
        )
    _write(path, rows)


def _write(path: str, rows: Sequence[dict[str, Any]]):
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with open(path, "w", newline="") as f:
        writer = csv.DictWriter(f, columns)
        writer.writeheader()
        writer.writerows(rows)


def _choice(table: Table) -> str:
    """What the best evaluation was chosen on."""
    validated = {
        run.config["data"]["validation_per_class"] > 0
        for cell in table.cells
        for run in cell.runs
    }
    if validated == {True}:
        return "on validation images"
    if True in validated:
        return "on validation images where a run has them, else on the test set"
    return "on the test set (USB's rule)"


def _bracket(difference: float | None) -> list[str]:
    return [] if difference is None else [f"({difference:+.2f})"]


def _number(value: float) -> str:
    return f"{value:.2f}"
