"""The frame of a bench: flags in; tables, figures and JSON out."""

import dataclasses
import os
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from rsmatch_jax import errors, files, terminal
from rsmatch_jax.bench.harness import child, command_line, machine
from rsmatch_jax.bench.harness.command_line import Request
from rsmatch_jax.bench.harness.timing import Spread
from rsmatch_jax.runtime import cores

Row = dict[str, Any]
Values = Mapping[str, float | Spread]  # {figure ID: measured value}
Measured = tuple[list[Row], Values]


@dataclasses.dataclass(frozen=True)
class Limit:
    """What a figure must reach, and the goal beyond it.

    at_least: larger values are better. row, column: where a row has the value; "" =
    the bench computes it. at: {preset: {dotted key: value}}, what the limit was set
    for; None = everything. any_device: also for other devices than the preset's.
    one_core: only for a process that has one core.
    """

    unit: str
    must: float
    goal: float | None = None
    at_least: bool = False
    row: str = ""
    column: str = "ratio"
    at: Mapping[str, Mapping[str, Any]] | None = None
    any_device: bool = False
    one_core: bool = False

    def applies(self, request: Request) -> bool:
        """Whether the limit was set for this request."""
        if self.at is not None:
            values = self.at.get(request.preset)
            if values is None or not request.holds(values):
                return False
        if self.one_core and cores.count() != 1:
            return False
        return self.any_device or request.device.platform == request.preset

    def holds(self, value: float) -> bool:
        """Whether a value reaches `must`."""
        return value >= self.must if self.at_least else value <= self.must

    def bounds(self) -> tuple[str, str]:
        """`must` and `goal` with their signs; "" without a goal."""
        sign = ">=" if self.at_least else "<="
        goal = "" if self.goal is None else f"{sign} {self.goal:g}"
        return f"{sign} {self.must:g}", goal

    def figure(self, value: float | Spread) -> dict[str, Any]:
        """The figure's JSON; a plain number has no spread."""
        number = value.median if isinstance(value, Spread) else value
        return {
            "value": number,
            "unit": self.unit,
            "must": self.must,
            "goal": self.goal,
            "holds": self.holds(number),
            "spread": list(value[1:]) if isinstance(value, Spread) else None,
        }


Limits = Mapping[str, Limit]  # {figure ID: limit}


def figures(
    request: Request, limits: Limits, rows: Sequence[Row], values: Values
) -> dict[str, dict[str, Any]]:
    """{ID: figure's JSON} of the limits that apply to the request and were measured.
    A row whose "fair" is False, or whose value is None, has no figure."""
    by_name = {row["row"]: row for row in rows if row.get("fair", True)}
    result = {}
    for name, limit in limits.items():
        value = values.get(name)
        row, column = by_name.get(limit.row), limit.column
        if value is None and row and row[column] is not None:
            value = Spread(row[column], *row[f"{column}_quartiles"])
        if value is not None and limit.applies(request):
            result[name] = limit.figure(value)
    return result


class Column(NamedTuple):
    """How a number of a row is shown: `digits` decimals, in multiples of `unit`."""

    title: str
    digits: int = 2
    unit: float = 1.0


# {key of a row}; other keys are shown under their name.
COLUMNS = {
    "value": Column("median (quartiles)", 3),
    "ms": Column("ms", 3),
    "default_ms": Column("default's ms", 3),
    "ratio": Column("time / reference's"),
    "images_per_second": Column("images/s", 0),
    "pairs_per_second": Column("pairs/s", 0),
    "views_per_second": Column("views/s", 0),
    "bytes_per_second": Column("GB/s", 3, 1e9),
    "flops_per_second": Column("TFLOP/s", 3, 1e12),
    "bytes": Column("MB", 3, 1e6),
    "peak_bytes": Column("peak MB", 3, 1e6),
    "bytes_accessed": Column("accessed MB", 1, 1e6),
    "queue_bytes": Column("queue MB", 1, 1e6),
    "temp_bytes": Column("temp MB", 1, 1e6),
    "resident_bytes": Column("data, MB", 1, 1e6),
    "measured_bytes": Column("reported by the device, MB", 1, 1e6),
    "idle_gap": Column("idle, %", 1, 0.01),
    "share": Column("%", 1, 0.01),
    "kernels": Column("kernels", 0),
    "conv_gflop": Column("GFLOP of convolutions", 1),
    "floor_ms": Column("floor, ms", 3),
    "estimate_ms": Column("estimate, ms", 3),
}


def cell(row: Row, key: str, digits: int | None = None) -> str:
    """A row's value as a table shows it, with its quartiles if any."""
    column = COLUMNS.get(key, Column(key))

    def text(value):
        if isinstance(value, float) or key in COLUMNS:
            places = column.digits if digits is None else digits
            return number(value / column.unit, places)
        return str(value)

    value, quartiles = row.get(key), row.get(f"{key}_quartiles")
    if value is None:
        return "-"
    between = f" ({' to '.join(map(text, quartiles))})" if quartiles else ""
    return text(value) + between


@dataclasses.dataclass(frozen=True)
class Bench:
    """What a bench measures and how it is shown.

    name: the subcommand. table: keys of the rows that are shown, or a function that
    prints the rows. presets, extra, fixed: see `command_line.parse`. rerun: flags ->
    keyword arguments of `child.rerun`, which measures in a child process; None = here.
    """

    name: str
    measure: Callable[[Request], Measured]
    table: Sequence[str] | Callable[[Sequence[Row]], None]
    limits: Limits = dataclasses.field(default_factory=dict)
    presets: command_line.Presets = dataclasses.field(
        default_factory=command_line.PRESETS.copy
    )
    extra: command_line.Extra = dataclasses.field(default_factory=dict)
    fixed: Collection[str] = ()
    rerun: Callable[[Sequence[str]], Mapping[str, Any] | None] | None = None

    def main(self, argv: Sequence[str]):
        """Measures, prints tables and figures, and writes --out=FILE.json."""
        if self.rerun is not None and os.environ.get(child.MARKER) != self.name:
            command_line.check(argv, self.extra)
            options = self.rerun(argv)
            if options is not None:
                child.rerun(self.name, argv, **options)
                return
        request = self.parse(argv)
        self.deliver(request, self.content(request))

    def parse(self, argv: Sequence[str]) -> Request:
        """The request that the flags state, see `command_line.parse`."""
        return command_line.parse(argv, self.presets, self.extra, self.fixed)

    def content(self, request: Request) -> dict[str, Any]:
        """Measures; returns the bench's JSON."""
        train, model = request.config.train, request.config.model
        terminal.say(
            f"bench {self.name}: {train.batch_size} labelled + "
            f"{train.batch_size * train.unlabeled_ratio} unlabelled images per step, "
            f"{model.classifier}, {model.dtype}; device: {request.device.device_kind}, "
            f"1 of {jax.local_device_count()}; host: {cores.count()} cores"
        )
        rows, values = self.measure(request)
        words = ["python", "-m", "rsmatch_jax.bench", self.name, *request.words]
        return {
            "bench": self.name,
            "command": shlex.join(words),
            "device": machine.describe(request.device),
            "versions": machine.versions(),
            "preset": request.preset,
            "precision": request.config.model.dtype,
            "config": {"name": request.config_name, **request.config.to_dict()},
            "figures": figures(request, self.limits, rows, values),
            "rows": rows,
        }

    def deliver(self, request: Request, content: Mapping[str, Any]):
        """Prints tables and figures, and writes --out."""
        if callable(self.table):
            self.table(content["rows"])
        else:
            show(self.table, content["rows"])
        if self.limits:
            show_figures(content["figures"], self.limits)
        if request.out is not None:
            files.write_json(request.out, content)
            terminal.say(f"written: {request.out}")


def show(keys: Sequence[str], rows: Sequence[Row]):
    """Prints a table of rows."""
    terminal.say(f"\n{table(keys, rows)}")


def table(keys: Sequence[str], rows: Sequence[Row]) -> str:
    """A table of rows, as Markdown has it."""
    head = [COLUMNS.get(k, Column(k.replace("_", " "))).title for k in keys]
    lines = [[cell(row, key) for key in keys] for row in rows]
    return terminal.table(head, lines, numbers=True)


def figure_row(
    name: str, limit: Limit, figure: Mapping[str, Any] | None, missing: str
) -> list[str]:
    """ID, unit, median with quartiles, must and goal of a figure; bold if it misses.
    figure: its JSON, None if it was not measured, which reads `missing`."""
    text = missing
    if figure is not None:
        value, spread = figure["value"], figure["spread"]  # None, if it was nan
        whole = spread is None and value is not None and float(value).is_integer()
        row = {"value": value, "value_quartiles": spread}
        text = cell(row, "value", 0 if whole else 2)
        text = text if value is not None and limit.holds(value) else f"**{text}**"
    return [name, limit.unit, text, *limit.bounds()]


def show_figures(figures: Mapping[str, Mapping[str, Any]], limits: Limits):
    """Prints a table of {ID: figure} and names the figures that miss their limits."""
    if not figures:
        terminal.say("\nno limit applies at these sizes on this device\n")
        return
    rows, missed = [], []
    for name, figure in figures.items():
        must, goal = limits[name].bounds()
        row = {"figure": f"{name} ({figure['unit']})", "value": figure["value"]}
        row |= {"value_quartiles": figure["spread"], "must": must, "goal": goal or "-"}
        rows.append({**row, "holds": "yes" if figure["holds"] else "NO"})
        missed += [] if figure["holds"] else [name]
    show(("figure", "value", "must", "goal", "holds"), rows)
    terminal.say()
    if missed:
        terminal.say(
            f"does not hold: {', '.join(missed)}. This is a measurement and no failure"
        )


def number(value: float, digits: int = 2) -> str:
    """Formats with `digits` decimals; values too small for them as 1.2e-07."""
    small = 0 < abs(value) < 10**-digits
    return f"{value:.1e}" if small else f"{value:,.{digits}f}"


def reason(error: Exception) -> str:
    """The kind and message of an error on one line, for a row's column "failed"."""
    return f"{type(error).__name__}: {errors.one_line(error)}"
