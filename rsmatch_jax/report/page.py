"""The report as one HTML file that needs no network."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import jinja2

from rsmatch_jax import files
from rsmatch_jax.report import curves, run_section, text
from rsmatch_jax.report.collect import Broken, Run
from rsmatch_jax.report.tables import Table
from rsmatch_jax.runs import workdir

PICTURES = 12  # queue pictures of a table, at most


def write(path: str, tables: Sequence[Table], detailed: Sequence[Run] = ()):
    """Writes the page: each table with notes, curves and queues, then runs in detail.
    The curves and queues of the runs in detail are not shown a second time."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(os.path.dirname(__file__)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = {os.path.realpath(run.folder) for run in detailed}
    sections = [_section(table, shown) for table in tables]
    runs = [run_section.section(run) for run in detailed]
    page = environment.get_template("page.html.jinja").render(
        title=" · ".join(table.title for table in tables),
        script=curves.script() if runs or any(s["charts"] for s in sections) else None,
        sections=sections,
        runs=runs,
    )
    files.write_text(path, page)


def _section(table: Table, shown: set[str]) -> dict[str, Any]:
    folders = {
        os.path.realpath(run.folder)
        for cell in table.cells
        for run in cell.counted
        if not isinstance(run, Broken)
    }
    is_detailed_run = len(folders) == 1 and folders <= shown
    charts = [] if is_detailed_run else curves.of_table(table)
    return {
        "title": table.title,
        "columns": table.columns,
        "lines": list(text.lines(table)),
        "notes": text.footnotes(table),
        "charts": [chart for chart in charts if chart],
        "pictures": list(_queues(table, shown))[:PICTURES],
    }


def _queues(table: Table, shown: set[str]) -> Iterator[dict[str, str]]:
    """Of each cell the queue of the first run with one, without those in `shown`."""
    for cell in table.cells:
        for run in cell.runs:
            path = os.path.join(run.folder, workdir.QUEUE_PICTURE)
            if os.path.realpath(run.folder) not in shown and os.path.exists(path):
                title = f"{cell.row}, {cell.column}"
                yield {"title": title, "data": run_section.as_base64(path)}
                break
