"""Runs, or prints, the launch lines of a table: rsmatch sweep NAME

    rsmatch sweep table1 --dry_run
    rsmatch sweep table1 --out=DIR --seeds=0,1,2 --shard=0/4 \\
        --minutes=55 --config.data.data_dir=DATA
    rsmatch report DIR

launch.py runs every cell of the table once per seed, in OUT/<cell>/seed<n>, with its
output in seed<n>.log beside it. The sweep skips finished runs and resumes unfinished
ones, so the same command continues after an interruption. A failed run does not stop
the others. Tables with the same --out share the runs that they have in common.
--row=NAME, once or more, takes these rows of the table alone. --shard=i/n takes every
n-th run from the i-th on, i from 0 to n - 1. After --minutes=N the sweep stops the run
under way, which saves itself, and begins no other one. --config overrides hold for all
cells, those of a method's keys for the cells of that method; the report marks cells
whose setting they change as reduced.
Exit codes: 0 all runs are finished, printed, or under way in other processes, 1 a run
failed, 2 the request was wrong, 75 stopped by a signal, or with runs left after
--minutes.
"""

import argparse
import dataclasses
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence

from absl import flags

from rsmatch_jax import files, progress, terminal
from rsmatch_jax.engine import checks, config_file, saved_config
from rsmatch_jax.errors import STOPPED, RequestError, RunFailed, Unfinished, suggestion
from rsmatch_jax.metrics import names
from rsmatch_jax.report import grid
from rsmatch_jax.report.grid import Cell, Sweep, Value
from rsmatch_jax.runs import workdir
from rsmatch_jax.runtime import child
from rsmatch_jax.terminal import Parser, counted, duration, say, show

GO_ON = "the same command continues where it stopped"
PATIENCE = 60.0  # seconds that a run has to save when it is stopped
WAY_OUT = "choose another --out, use the same overrides, or move that folder away"


@dataclasses.dataclass(frozen=True)
class Run:
    """One launch: a cell with a seed, in a workdir."""

    cell: Cell
    seed: int
    workdir: str
    argv: tuple[str, ...]  # of launch.py, without the program

    @property
    def title(self) -> str:
        return f"{self.cell.folder()} seed {self.seed}"

    def finished(self) -> bool:
        result = workdir.read_result(self.workdir) or {}
        return result.get("status") == "finished"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 a run failed, 2 a wrong request, 75 stopped."""
    parser = Parser("sweep", __doc__)
    add = parser.add_argument
    add("name", metavar="NAME", nargs="?", help="which one; left out, all are listed")
    add("--dry_run", action="store_true", help="print the launch lines, run nothing")
    add("--out", help="folder of the runs (default runs/NAME)")
    add("--seeds", default="0,1,2", help="comma-separated (default 0,1,2)")
    add("--row", action="append", metavar="NAME", help="only these rows of the table")
    add("--shard", metavar="i/n", help="this process's share of the runs")
    add("--minutes", type=float, help="stop after that time, resumable")
    return terminal.run_command(
        parser,
        argv,
        lambda parsed: run(*parsed),
        GO_ON,
        resumable=True,
        parse=parser.parse_known_args,
    )


def run(args: argparse.Namespace, config_flags: Sequence[str]):
    """Prints or runs the launch lines. config_flags: the --config overrides."""
    if args.name is None:
        show(f"rsmatch sweep NAME; the names:\n{_titles()}")
        return
    sweep = _sweep(args.name)
    seeds = _seeds(args.seeds)
    overrides = _overrides(sweep, config_flags)
    end = time.monotonic() + terminal.seconds(args.minutes)
    out = os.path.join("runs", sweep.name) if args.out is None else args.out
    workdir.check_writable(out, "--out")
    cells = _cells(sweep, args.row)
    every = _runs(cells, seeds, out, overrides)
    runs = _shard(every, args.shard)
    for r in runs:
        _check(r)
    for r in runs if args.dry_run else ():
        show(shlex.join(["python", *_program(), *r.argv]))
    shard = f"{len(runs)} in shard {args.shard}, " if args.shard else ""
    say(
        f"{sweep.title}\n{counted(len(cells), 'cell')} x "
        f"{counted(len(seeds), 'seed')}: {counted(len(every), 'run')}; "
        f"{shard}"
        f"{sum(r.finished() for r in runs)} finished already"
    )
    if args.dry_run:
        return
    with files.written_to("--out", out):
        os.makedirs(out, exist_ok=True)
        grid.write_record(out, sweep, seeds, overrides)
    failed, busy, left = _run_all(runs, end)
    say(f"the table: rsmatch report {shlex.quote(out)}")
    if busy:
        say(f"skipped {counted(len(busy), 'run')} that other processes are training")
    text = f"{len(failed)} of {len(runs)} runs failed; the same command tries them "
    text += "\n".join(["again:", *(f"  {r.workdir}.log" for r in failed)])
    if left:
        runs_left = f"{counted(len(left), 'run')} {'is' if len(left) == 1 else 'are'}"
        reason = f"{runs_left} left after --minutes={args.minutes:g}"
        raise Unfinished(f"{text}\n{reason}" if failed else reason)
    if failed:
        raise RunFailed(text)


def _run_all(runs: Sequence[Run], end: float) -> tuple[list[Run], ...]:
    """Runs what is not finished, until `time.monotonic()` is at `end`; returns failed
    runs, those of other processes, and those that `end` stopped or left out."""
    failed, busy, seconds = [], [], []
    to_do = [r for r in runs if not r.finished()]
    for i, r in enumerate(to_do, start=1):
        if r.finished():  # by another process in the meantime
            continue
        if workdir.is_locked(r.workdir):
            busy.append(r)
            continue
        begin = time.monotonic()
        expected = sum(seconds) / len(seconds) if seconds else None
        with progress.busy(f"[{i}/{len(to_do)}] {r.title}", expected):
            code = _launch(r, end - begin) if begin < end else STOPPED
        if code and time.monotonic() >= end:
            break
        if code and workdir.is_locked(r.workdir):  # another process was faster
            busy.append(r)
            continue
        seconds.append(time.monotonic() - begin)
        if code:
            failed.append(r)
            outcome = f"FAILED with exit code {code}, see {r.workdir}.log"
        else:
            result = workdir.read_result(r.workdir) or {}
            outcome = names.accuracy(result)
        took = duration(seconds[-1])
        to_go = duration(sum(seconds) / len(seconds) * (len(to_do) - i))
        say(f"[{i}/{len(to_do)}] {r.title}: {outcome}, {took}; {to_go} left")
    others = [*failed, *busy]
    return failed, busy, [r for r in to_do if r not in others and not r.finished()]


def _launch(r: Run, seconds: float) -> int:
    """Returns the exit code of one run, which `seconds` or Ctrl-C stop, saved."""
    os.makedirs(os.path.dirname(r.workdir), exist_ok=True)
    # A shard is one process, even if SLURM or Open MPI started several.
    command = [sys.executable, *_program(), *r.argv, "--num_processes=1"]
    with open(f"{r.workdir}.log", "a") as log:
        limits = {"patience": PATIENCE, "seconds": seconds}
        return child.run(command, stdout=log, stderr=log, **limits)


def _runs(
    cells: Sequence[Cell], seeds: Sequence[int], out: str, more: Mapping[str, Value]
) -> list[Run]:
    """Seed by seed, so that every cell has a figure early. Cells may share a run."""
    runs, folders = [], set()
    for seed in seeds:
        for cell in cells:
            folder = grid.run_folder(out, cell.folder(), seed)
            if folder in folders:
                continue
            folders.add(folder)
            keys = {**cell.all_overrides(more), "seed": seed}
            argv = [f"--config={cell.config}"]
            argv += [f"--config.{key}={value}" for key, value in keys.items()]
            argv.append(f"--workdir={folder}")
            runs.append(Run(cell, seed, folder, tuple(argv)))
    return runs


def _check(r: Run):
    """Checks all that can be checked before data are loaded."""

    def define(values: flags.FlagValues):
        flags.DEFINE_string("workdir", None, "", flag_values=values)

    argv = ["launch.py", *r.argv]
    config, _, _ = config_file.parse(argv, define)
    checks.check(config, num_devices=1)
    workdir.check_writable(r.workdir)
    explicit = config_file.override_keys(argv)
    saved_config.continue_run(r.workdir, config, explicit, WAY_OUT)
    workdir.read_result(r.workdir)


def _overrides(sweep: Sweep, config_flags: Sequence[str]) -> dict[str, Value]:
    """{dotted key: value} of the --config flags, with the types of the config."""
    for flag in config_flags:
        if not flag.lstrip("-").startswith(("config.", "noconfig.")):
            raise RequestError(f"{flag!r} is no flag of a sweep; see --help")
    cell = sweep.cells[0]
    argv = ["launch.py", f"--config={cell.config}", *config_flags]
    config, _, _ = config_file.parse(argv, lambda values: None)
    values = workdir.flat(config.to_dict())
    keys = config_file.override_keys(argv)
    if "seed" in keys:
        raise RequestError("--config.seed: a sweep takes --seeds=0,1,2")
    overrides = {key: values[key] for key in keys}
    for key in keys:
        if any(key in cell.overrides for cell in sweep.cells):
            raise RequestError(f"--config.{key}: the cells of {sweep.name} set it")
        if not any(key in cell.all_overrides(overrides) for cell in sweep.cells):
            raise RequestError(f"--config.{key}: no cell of {sweep.name} uses it")
    return overrides


def _sweep(name: str) -> Sweep:
    sweeps = grid.load()
    if name not in sweeps:
        wrong = f"there is no sweep {name!r}{suggestion(name, sweeps)}"
        raise RequestError(f"{wrong}; choose one of:\n{_titles()}")
    return sweeps[name]


def _titles() -> str:
    return "\n".join(f"  {name}: {s.title}" for name, s in grid.load().items())


def _cells(sweep: Sweep, rows: Sequence[str] | None) -> Sequence[Cell]:
    """Returns the cells of some rows, None = all."""
    names = list(dict.fromkeys(cell.row for cell in sweep.cells))
    for row in rows or ():
        if row not in names:
            raise RequestError(f"--row={row}: {sweep.name} has {', '.join(names)}")
    return [cell for cell in sweep.cells if not rows or cell.row in rows]


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise RequestError(
            f"--seeds={text}: different numbers, 0 or more, such as --seeds=0,1,2"
        )
    return seeds


def _shard(runs: list[Run], text: str | None) -> list[Run]:
    if text is None:
        return runs
    try:
        i, n = (int(part) for part in text.split("/"))
    except ValueError:
        i, n = -1, 0
    if not 0 <= i < n:
        raise RequestError(f"--shard={text}: i/n with i from 0 to n - 1, such as 0/4")
    return runs[i::n]


def _program() -> list[str]:
    """The words after `python` that train: launch.py, or the module in a wheel."""
    path = os.path.join(config_file.ROOT, "launch.py")
    if os.path.isfile(path):
        return [os.path.relpath(path)]
    return ["-m", "rsmatch_jax.train"]


if __name__ == "__main__":
    sys.exit(main())
