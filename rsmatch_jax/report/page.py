"""The report as one HTML file that needs no network."""

import datetime
import os
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rsmatch_jax import files, templates, version
from rsmatch_jax.metrics import verdicts
from rsmatch_jax.report import curves, run_section, text
from rsmatch_jax.report.collect import Broken, Run
from rsmatch_jax.report.tables import Cell, Table
from rsmatch_jax.runs import workdir

SIFTED = "Which unlabelled images are synthetic"
PICTURES = 12  # queue pictures of a table, at most


def write(path: str, tables: Sequence[Table], detailed: Sequence[Run] = ()):
    """Writes the page: contents with a summary, then each table with notes, curves and
    queues, then runs in detail. No curve or queue is shown twice."""
    shown = {os.path.realpath(run.folder) for run in detailed}
    sections = [
        {**_section(table, shown), "id": f"table-{i}"}
        for i, table in enumerate(tables, start=1)
    ]
    folder = os.path.dirname(os.path.abspath(path))
    places = {
        os.path.realpath(run.folder): (section, table, cell)
        for section, table in zip(sections, tables, strict=True)
        for cell in table.cells
        for run in cell.runs
    }
    runs = []
    for i, run in enumerate(detailed, start=1):
        content = _run(run, places.get(os.path.realpath(run.folder)))
        sifted = _sifted(run, folder)
        if sifted:
            content["parts"].append(SIFTED)
        runs.append({**content, "sift": sifted, "id": f"run-{i}"})
    page = templates.filled(
        __file__,
        "page.html.jinja",
        title=" · ".join(table.title for table in tables),
        written=f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        version=version.__version__,
        script=curves.script() if runs or any(s["charts"] for s in sections) else None,
        sections=sections,
        runs=runs,
        queue_legend=run_section.PICTURES[workdir.QUEUE_PICTURE].legend,
        sifted=SIFTED,
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
    charts = []
    if not is_detailed_run:
        charts = [curves.of_differences(table), *curves.of_table(table)]
    single = len(table.columns) == 1
    head, lines = text.wide(table) if single else ([*text.HEAD, *table.columns], [])
    return {
        "title": table.title,
        "summary": text.summary(table),
        "column": table.columns[0] if single else None,
        "head": head,
        "lines": lines,
        "rows": {} if single else text.by_row(table),
        "notes": text.footnotes(table),
        "left_out": text.left_out(table),
        "charts": [chart for chart in charts if chart],
        "pictures": list(_queues(table, shown))[:PICTURES],
    }


def _run(
    run: Run, place: tuple[Mapping[str, Any], Table, Cell] | None
) -> dict[str, Any]:
    """A run in detail; place: its table's section, its table and its cell."""
    title, elsewhere = f"{run.method} on {run.dataset}", None
    if place:
        section, table, cell = place
        title = table.place(cell)
        if len(cell.runs) == 1 and section["charts"]:  # not in the mean of several
            elsewhere = section["id"]
    drawn = (curves.ACCURACY, *curves.COMPARED.values()) if elsewhere else ()
    content = run_section.section(run, drawn)
    parts = [title for title, _ in content["groups"]]
    parts += ["Classes"] * bool(content["classes"])
    parts += [run_section.CONFUSED] * bool(content["pairs"])
    parts += [title for title, _ in content["tiles"]]
    parts += [picture["title"] for picture in content["pictures"]]
    title = f"{title}, seed {run.seed}"
    return {**content, "title": title, "elsewhere": elsewhere, "parts": parts}


def _queues(table: Table, shown: set[str]) -> Iterator[dict[str, Any]]:
    """Of each cell the queue of the first run with one, without those in `shown`."""
    for cell in table.cells:
        for run in cell.runs:
            path = os.path.join(run.folder, workdir.QUEUE_PICTURE)
            if os.path.realpath(run.folder) not in shown and os.path.exists(path):
                title = f"{table.place(cell)}, seed {run.seed}"
                yield {"title": title, **run_section.embedded(path)}
                break


def _sifted(run: Run, page_folder: str) -> dict[str, Any] | None:
    """What the command `sift` has written into a run's folder, None without it."""
    folder = os.path.abspath(os.path.join(run.folder, verdicts.FOLDER))
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
        "note": run_section.outdated(run, summary, "Judged"),
        "sheet": sheet and run_section.embedded(sheet),
        "link": link and urllib.parse.quote(link),
    }
