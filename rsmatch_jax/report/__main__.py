"""Collects runs into tables: python -m rsmatch_jax.report DIR... [--out=FILE.html]

Every result.json below DIR counts. Runs of a sweep make its table; others are gathered
by setting, seeds together. The tables are printed as Markdown and written, with curves
and pictures, as one self-contained page, and as FILE.csv (a line a cell) and
FILE.runs.csv (a line a run). FILE is DIR/report.html unless given. A DIR that is itself
a run is shown in detail: its figures, curves, queue, mistakes, configuration, and the
pictures that rsmatch_jax.analysis.explain and .tsne have drawn there; --draw draws
those that are not there, which takes the run's data (--data_dir=DIR and
--synthetic_pool=DIR where they have moved).
Exit codes: 0 done, 1 something could not be drawn, 2 the request was wrong.
"""

import os
import sys
from collections.abc import Sequence

from rsmatch_jax import files
from rsmatch_jax.errors import RequestError, RunFailed, exit_code
from rsmatch_jax.report import collect, detail, page, tables, text
from rsmatch_jax.terminal import Parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 something could not be drawn, the page is there without it,
    2 no runs there, or nothing but broken ones."""

    def command():
        args = _parser().parse_args(argv)
        where = [
            f"--{flag}={getattr(args, flag)}"
            for flag in ("data_dir", "synthetic_pool")
            if getattr(args, flag) is not None
        ]
        if where and not args.draw:
            raise RequestError(f"{where[0]} is for --draw alone; leave it out")
        report(args.folders, args.out, where if args.draw else None)

    return exit_code(command, "nothing is lost by it")


def report(folders: Sequence[str], out: str | None, draw: Sequence[str] | None = None):
    """Prints and writes the report of all runs in or below the folders. draw: flags
    with which what is missing of the runs among them is drawn first, None = not."""
    folders = [os.path.normpath(folder) for folder in folders]
    if out is None:
        out = os.path.join(folders[0], "report.html")
    found, records = {}, {}
    for folder in folders:
        found = {**collect.find(folder), **found}
        records = {**collect.find_records(folder), **records}
    files.check_output(out, ".html")
    stem = out.removesuffix(".html")
    _require_something(folders, found, records)
    made = [tables.of_sweep(base, record, found) for base, record in records.values()]
    placed = {
        run.folder
        for table in made
        for cell in table.cells
        for run in (*cell.runs, *cell.unfinished, *cell.broken)
    }
    others = [run for run in found.values() if run.folder not in placed]
    if others:
        made.append(
            tables.of_runs(
                [r for r in others if isinstance(r, collect.Run)],
                [r for r in others if isinstance(r, collect.Broken)],
            )
        )
    for table in made:
        sys.stdout.write(f"\n{text.section(table)}")
    own = [found.get(os.path.realpath(folder)) for folder in folders]
    details, failed = _details([r for r in own if isinstance(r, collect.Run)], draw)
    try:
        page.write(out, made, details)
        text.write_cells(f"{stem}.csv", made)
        text.write_runs(f"{stem}.runs.csv", found.values())
    except OSError as e:
        raise RequestError(f"--out={out} cannot be written: {e}") from e
    sys.stdout.write(f"\nwritten: {out}, {stem}.csv, {stem}.runs.csv\n")
    if failed:
        raise RunFailed(f"the page lacks what could not be drawn: {'; '.join(failed)}")


def _details(
    own: Sequence[collect.Run], draw: Sequence[str] | None
) -> tuple[list[detail.Detail], list[str]]:
    """Those to be shown, and the commands that could not draw."""
    failed = []
    if draw is not None:
        # Lazy: JAX's networks and the data, which nothing else here needs.
        from rsmatch_jax.report import drawing

        if not own:
            raise RequestError("--draw: none of the folders is itself a run")
        for run in own:
            failed += drawing.draw(detail.read(run), draw)
    return [detail.read(run) for run in own], failed


def _require_something(folders, found, records):
    if not found and not records:
        raise RequestError(
            f"there is no result.json and no sweep in or below {', '.join(folders)}"
        )
    broken = [run for run in found.values() if isinstance(run, collect.Broken)]
    if found and len(broken) == len(found):
        raise RequestError(
            "there is nothing but broken runs:\n"
            + "\n".join(f"  {run.folder}: {run.reason}" for run in broken)
        )


def _parser() -> Parser:
    parser = Parser("report", __doc__)
    parser.add_argument("folders", metavar="DIR", nargs="+")
    parser.add_argument("--out", metavar="FILE.html", help="the page")
    parser.add_argument("--draw", action="store_true", help="what is not drawn yet")
    parser.add_argument("--data_dir", metavar="DIR", help="where --draw finds the data")
    parser.add_argument("--synthetic_pool", metavar="DIR")
    return parser


if __name__ == "__main__":
    sys.exit(main())
