"""The report as one HTML file that needs no network."""

import base64
import os
from collections.abc import Iterator, Sequence
from typing import Any

import jinja2

from rsmatch_jax import files
from rsmatch_jax.report import curves, run_section, text
from rsmatch_jax.report.detail import Detail
from rsmatch_jax.report.tables import Table

PICTURES = 12  # contact sheets of a table, at most


def write(path: str, tables: Sequence[Table], details: Sequence[Detail] = ()):
    """Writes the page: each table, its notes, its curves, what its queues hold; then
    the runs that are shown in detail, whose curves and queues are not shown twice."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(os.path.dirname(__file__)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    own = {os.path.realpath(detail.run.folder) for detail in details}
    charts = [
        []
        if own and own >= _folders(table) and len(_folders(table)) == 1
        else curves.of_table(table)
        for table in tables
    ]
    runs = [run_section.section(detail) for detail in details]
    page = environment.get_template("page.html.jinja").render(
        title=" · ".join(table.title for table in tables),
        script=curves.script() if any(charts) or runs else None,
        sections=[
            {
                "title": table.title,
                "columns": table.columns,
                "rows": [_row(table, row) for row in table.rows],
                "notes": [note.removeprefix("- ") for note in text.footnotes(table)],
                "charts": chart,
                "pictures": list(_pictures(table, own)),
            }
            for table, chart in zip(tables, charts, strict=True)
        ],
        runs=runs,
    )
    files.write_text(path, page)


def _row(table: Table, row: str) -> dict[str, Any]:
    cells = [table.cell(row, column) for column in table.columns]
    return {"name": row, "lines": list(text.row_lines(table, cells))}


def _folders(table: Table) -> set[str]:
    return {
        os.path.realpath(run.folder)
        for cell in table.cells
        for run in (*cell.runs, *cell.unfinished)
    }


def _pictures(table: Table, detailed: set[str]) -> Iterator[dict[str, str]]:
    """Of each cell with a queue, the picture of its first run that has one."""
    shown = 0
    for cell in table.cells:
        runs = [r for r in cell.runs if os.path.realpath(r.folder) not in detailed]
        path = next((p for p in (run.picture() for run in runs) if p), None)
        if path and shown < PICTURES:
            shown += 1
            with open(path, "rb") as f:
                data = base64.b64encode(f.read()).decode()
            yield {"title": f"{cell.row}, {cell.column}", "data": data}
