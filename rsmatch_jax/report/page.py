"""The report as one HTML file that needs no network."""

import os
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any

from rsmatch_jax import files, templates
from rsmatch_jax.metrics import verdicts
from rsmatch_jax.report import curves, run_section, text
from rsmatch_jax.report.collect import Broken, Run
from rsmatch_jax.report.tables import Table
from rsmatch_jax.runs import workdir

PICTURES = 12  # queue pictures of a table, at most


def write(path: str, tables: Sequence[Table], detailed: Sequence[Run] = ()):
    """Writes the page: each table with notes, curves and queues, then runs in detail.
    The curves and queues of the runs in detail are not shown a second time."""
    shown = {os.path.realpath(run.folder) for run in detailed}
    sections = [_section(table, shown) for table in tables]
    folder = os.path.dirname(os.path.abspath(path))
    runs = [
        {**run_section.section(run), "sift": _sifted(run.folder, folder)}
        for run in detailed
    ]
    page = templates.filled(
        __file__,
        "page.html.jinja",
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
    if not is_detailed_run:
        charts.insert(0, curves.of_differences(table))
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


def _sifted(run_folder: str, page_folder: str) -> dict[str, Any] | None:
    """What the command `sift` has written into a run's folder, None without it."""
    folder = os.path.abspath(os.path.join(run_folder, verdicts.FOLDER))
    summary = files.read_json(os.path.join(folder, verdicts.SUMMARY_FILE))
    if summary is None:
        return None
    sheet, page = (
        path if os.path.exists(path) else None
        for path in (
            os.path.join(folder, verdicts.SHEET_FILE),
            os.path.join(folder, verdicts.PAGE_FILE),
        )
    )
    link = page and os.path.relpath(page, page_folder).replace(os.sep, "/")
    return {
        "figures": list(verdicts.figures(summary)),
        "sheet": sheet and run_section.as_base64(sheet),
        "link": link and urllib.parse.quote(link),
    }
