"""Tables as Markdown for the terminal, and as CSV."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rsmatch_jax import files, terminal
from rsmatch_jax.metrics import names
from rsmatch_jax.report.collect import Broken, Run
from rsmatch_jax.report.tables import CONFIDENCE, Cell, Stat, Table

MARK = "†"  # at every figure of a reduced cell
HEAD = "setting", "figure"  # of the two columns before the table's
SHARES = (
    *("best", "paper", "last", "last four", "detector", "queue purity"),
    *("detector, plain", "detector, paper"),
)
EMPTY = "", "-"
RUNS = "finished runs"  # the figure that is a count; all others are in percent
DETECTOR_LINES = {
    "detector": "detector_balanced_accuracy",
    "queue purity": "queue_purity",
}


def section(table: Table) -> str:
    """Returns the table with its title and notes as Markdown."""
    body = terminal.table([*HEAD, *table.columns], list(lines(table)))
    notes = [f"- {note}" for note in (*footnotes(table), *left_out(table))]
    return "\n".join([f"## {table.title}", "", body, "", *notes, ""])


def lines(table: Table) -> Iterator[list[str]]:
    """Yields [row, figure, text of every column]; row: "" after a row's first line."""
    for row, figures in by_row(table).items():
        for i, (figure, texts) in enumerate(figures.items()):
            yield ["" if i else row, figure, *texts]


def wide(table: Table) -> tuple[list[str], list[list[str]]]:
    """Returns (head, lines) of a table with one column: a line per row, and a column
    per figure in its place."""
    figures = [*(f"{name}, %" for name in SHARES), RUNS]
    lines = [
        [row, *(texts.get(figure, [""])[0] for figure in figures)]
        for row, texts in by_row(table).items()
    ]
    return without_empty([HEAD[0], *figures], lines)


def by_row(table: Table) -> dict[str, dict[str, list[str]]]:
    """Returns {row: {figure with its unit: text of every column}}."""
    rows = {}
    for row in table.rows:
        cells = [table.cell(row, column) for column in table.columns]
        rows[row] = {f"{name}, %": texts for name, texts in _shares(table, cells)}
        rows[row][RUNS] = [_count(cell) if cell else "" for cell in cells]
    return rows


def _shares(
    table: Table, cells: Sequence[Cell | None]
) -> Iterator[tuple[str, list[str]]]:
    """Yields (figure, text of every column) of a row's figures in percent."""

    def figures(name: str, difference: bool = True) -> list[str]:
        return [_figure(table, cell, name, difference) for cell in cells]

    def has(attribute: str) -> bool:
        return any(getattr(cell, attribute) for cell in cells if cell)

    yield "best", figures("best")
    if has("paper"):
        yield "paper", [_paper(table, cell) for cell in cells]
    yield "last", figures("last")
    if any(cell.stat(names.LATE) for cell in cells if cell):
        yield "last four", figures(names.LATE)
    for what, name in DETECTOR_LINES.items():
        if any(cell.stat(name) for cell in cells if cell):
            yield what, figures(name, False)
    if has("paper_detector"):
        yield "detector, plain", figures("detector_accuracy", False)
        paper = [cell and cell.paper_detector for cell in cells]
        yield "detector, paper", [f"{x:.2f}" if x else "" for x in paper]


def _count(cell: Cell) -> str:
    gaps = cell.gaps()
    return f"{len(cell.runs)} ({gaps})" if gaps else str(len(cell.runs))


def _figure(table: Table, cell: Cell | None, name: str, difference: bool) -> str:
    """One of our figures: "93.81 ± 0.70 (+0.86) †"; "-" without one."""
    if cell is None:
        return ""
    stat = cell.stat(name)
    if stat is None:
        return EMPTY[1]
    parts = [_mean(stat)]
    if difference:
        parts += _bracket(table, cell, name)
    return " ".join(parts + ([MARK] if cell.reduced else []))


def _paper(table: Table, cell: Cell | None) -> str:
    """The paper's figure in the same form, with its std as printed."""
    if not cell or not cell.paper:
        return ""
    return " ".join([_spread(*cell.paper), *_bracket(table, cell, "paper")])


def _mean(stat: Stat) -> str:
    return _spread(stat.mean, None if stat.std is None else f"{stat.std:.2f}")


def _spread(mean: float, std: float | str | None) -> str:
    return f"{mean:.2f}" + ("" if std is None else f" ± {std}")


def _bracket(table: Table, cell: Cell, name: str) -> list[str]:
    difference = table.difference(cell, name)
    if difference is None:
        return []
    mean, half = difference
    return [f"({mean:+.2f})" if half is None else f"({mean:+.2f} ± {half:.2f})"]


def summary(table: Table) -> list[str]:
    """Returns a table in a few sentences: its runs, and the highest accuracies."""
    counts = {"finished": 0, "unfinished": 0, "broken": 0, "missing": 0}
    for cell in table.cells:
        counts["finished"] += len(cell.runs) + len(cell.repeated)
        counts["unfinished"] += len(cell.unfinished)
        counts["broken"] += len(cell.broken)
        counts["missing"] += cell.missing
    shown = [f"{count} {what}" for what, count in counts.items() if count]
    sentences = [f"Settings: {len(table.rows)}. Runs: {', '.join(shown) or 'none'}."]
    for column in table.columns:
        cells = [cell for cell in table.cells if cell.column == column]
        best = [(c.row, stat) for c in cells if (stat := c.stat("best"))]
        if len(best) < 2:
            continue
        row, highest = max(best, key=lambda pair: pair[1].mean)
        where = f" at {column}" if len(table.columns) > 1 else ""
        sentences.append(f"Highest test accuracy{where}: {row}, {_mean(highest)} %.")
    return sentences


def footnotes(table: Table) -> list[str]:
    """Returns what a reader must know about the figures."""
    notes = [table.note] if table.note else []
    if table.baseline:
        notes.append(
            f"In brackets: difference to {table.baseline} in runs of equal seeds, ± "
            f"half of its {CONFIDENCE:.0%} interval (Student's t). Of many intervals "
            "some exclude 0 by chance."
        )
    notes.append(
        f"best: over all evaluations, chosen {_choice(table)}; last four: their mean; "
        "±: sample standard deviation over seeds; detector: balanced accuracy over the "
        "unlabelled set, last evaluation."
    )
    reduced = _places(table, "reduced")
    for text, places in reduced.items():
        where = "" if len(places) == len(table.cells) else f" ({'; '.join(places)})"
        notes.append(f"{MARK} reduced, no reproduction of the paper{where}: {text}")
    for text, places in _places(table, "note").items():
        notes.append(f"{'; '.join(places)}: {text}.")
    return notes


def left_out(table: Table) -> list[str]:
    """Returns which runs are not in the figures, and why."""
    notes = []
    for cell in table.cells:
        notes += [
            f"{run.folder}: {run.status} at step {run.steps} of {run.num_steps}, not "
            "in the figures"
            for run in cell.unfinished
        ]
        notes += [
            f"{run.folder}: another run of the same setting and seed ({run.seed}) is "
            "in the figures, this one is not"
            for run in cell.repeated
        ]
        notes += [f"{run.folder} is broken: {run.reason}" for run in cell.broken]
    return notes


def without_empty(
    head: Sequence[str], lines: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    """Returns a table without the columns that hold no figure; the first one stays."""
    kept = [
        i
        for i in range(len(head))
        if not i or any(line[i] not in EMPTY for line in lines)
    ]
    return [head[i] for i in kept], [[line[i] for i in kept] for line in lines]


def _places(table: Table, attribute: str) -> dict[str, list[str]]:
    """{text: cells with this text in an attribute}."""
    places: dict[str, list[str]] = {}
    for cell in table.cells:
        if text := getattr(cell, attribute):
            places.setdefault(text, []).append(table.place(cell))
    return places


def write_cells(path: str, tables: Iterable[Table]):
    """Writes CSV with a line per cell; accuracies in percent."""
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
            for name in (*names.COLUMNS, names.LATE):
                stat = cell.stat(name)
                line[f"{name}_mean"] = stat.mean if stat else None
                line[f"{name}_std"] = stat.std if stat else None
            for name in ("best", names.LATE):
                mean, half = table.difference(cell, name) or (None, None)
                line[f"{name}_difference"] = mean
                line[f"{name}_difference_half"] = half
            line["paper_mean"], line["paper_std"] = cell.paper or (None, None)
            line["paper_difference"] = (table.difference(cell, "paper") or [None])[0]
            line["paper_detector"] = cell.paper_detector
            line["note"] = cell.note or ""
            rows.append(line)
    _write(path, rows)


def write_runs(path: str, runs: Iterable[Run | Broken]):
    """Writes CSV with a line per run; figures as shares of one, as in result.json."""
    rows: list[dict[str, Any]] = []
    for run in runs:
        if isinstance(run, Broken):
            rows.append({"folder": run.folder, "status": f"broken: {run.reason}"})
            continue
        columns = ("folder", "status", "method", "dataset", "seed", "steps")
        columns += ("num_steps", "seconds")
        rows.append({**{k: getattr(run, k) for k in columns}, **run.figures})
    _write(path, rows)


def _write(path: str, rows: Sequence[dict[str, Any]]):
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(path, text.getvalue())


def _choice(table: Table) -> str:
    """The images on which the best evaluation was chosen."""
    runs = [run for cell in table.cells for run in cell.runs]
    validated = {run.config["data"]["validation_per_class"] > 0 for run in runs}
    if validated == {True}:
        return "on validation images"
    if True in validated:
        return "on validation images where a run has them, else on the test set"
    return "on the test set (USB's rule)"
