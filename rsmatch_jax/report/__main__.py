"""Collects runs into tables: rsmatch report DIR... [--out=FILE.html]

Every result.json below DIR counts. Runs of a sweep fill its table; the others are
grouped by setting, seeds together. The command prints the tables as Markdown. It writes
them with curves and pictures as one self-contained page, and as FILE.csv (a line per
cell) and FILE.runs.csv (a line per run). FILE is DIR/report.html by default. A DIR that
is itself a run is shown in detail: its figures, curves, queue, mistakes, config, what
`rsmatch sift` wrote there, and the pictures that `rsmatch see` and `rsmatch tsne` drew
there. --draw first draws those that are missing or old, which needs the
run's data (--data_dir, --synthetic_pool, --labeled, --unlabeled, --test and --origins
say where they are if they have moved).
Exit codes: 0 done, 1 something could not be drawn, 2 the request was wrong.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from rsmatch_jax import files, terminal
from rsmatch_jax.deploy import saved
from rsmatch_jax.errors import RequestError, RunFailed
from rsmatch_jax.report import collect, page, run_section, tables, text
from rsmatch_jax.terminal import Parser, say


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 a drawing failed, 2 the request was wrong."""
    parser = Parser("report", __doc__)
    parser.add_argument("folders", metavar="DIR", nargs="+")
    parser.add_argument("--out", metavar="FILE.html", help="the page")
    parser.add_argument("--draw", action="store_true", help="missing pictures first")
    for key in saved.PLACES:
        parser.add_argument(
            f"--{key}", metavar="PLACE", help="of moved data, for --draw"
        )
    return terminal.run_command(parser, argv, _run, "the same command starts over")


def _run(args: argparse.Namespace):
    """Prints and writes the report of all runs in or below the folders."""
    data_flags = [f"--{k}={place}" for k, place in saved.places(args).items()]
    if data_flags and not args.draw:
        raise RequestError(f"{data_flags[0]} is for --draw alone; leave it out")
    folders = [os.path.normpath(folder) for folder in args.folders]
    out = args.out or os.path.join(folders[0], "report.html")
    runs, records = collect.find(folders)
    files.check_output(out, ".html")
    stem = out.removesuffix(".html")
    _require_runs(folders, runs, records)
    made = [tables.of_sweep(base, record, runs) for base, record in records.values()]
    placed = {run.folder for table in made for c in table.cells for run in c.counted}
    others = [run for run in runs.values() if run.folder not in placed]
    if others:
        made.append(tables.of_runs(others))
    for table in made:
        say(text.section(table))
    detailed = [runs.get(os.path.realpath(folder)) for folder in folders]
    detailed = [run for run in detailed if isinstance(run, collect.Run)]
    failed = _draw(detailed, data_flags) if args.draw else []
    with files.written_to("--out", out):
        page.write(out, made, detailed)
        text.write_cells(f"{stem}.csv", made)
        text.write_runs(f"{stem}.runs.csv", runs.values())
    say(f"written: {out}, {stem}.csv, {stem}.runs.csv")
    if failed:
        raise RunFailed(f"the page lacks what could not be drawn: {'; '.join(failed)}")


def _draw(runs: Sequence[collect.Run], data_flags: Sequence[str]) -> list[str]:
    """Draws pictures that are missing or old; returns the commands that failed."""
    # Lazy: networks and data, which nothing else here needs.
    from rsmatch_jax.analysis import explain, tsne

    if not runs:
        raise RequestError("--draw: none of the folders is itself a run")
    failed = []
    for run in runs:
        for name, module in ((run_section.GRADCAM, explain), (run_section.TSNE, tsne)):
            path = os.path.join(run.folder, name)
            step = run_section.facts(path).get("step")
            if os.path.exists(path) and step == run.steps:
                continue
            if module.main([f"--workdir={run.folder}", *data_flags]):
                failed.append(run_section.command(name, run.folder))
    return failed


def _require_runs(folders: Sequence[str], runs: collect.Runs, records: collect.Records):
    if not runs and not records:
        raise RequestError(
            f"there is no result.json and no sweep in or below {', '.join(folders)}"
        )
    broken = [run for run in runs.values() if isinstance(run, collect.Broken)]
    if runs and len(broken) == len(runs):
        lines = [f"  {run.folder}: {run.reason}" for run in broken]
        raise RequestError("\n".join(["there are only broken runs:", *lines]))


if __name__ == "__main__":
    sys.exit(main())
