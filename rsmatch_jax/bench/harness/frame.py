"""The frame of a bench: flags in; tables, figures and JSON out.

A bench states what it measures (`Bench.measure`), how its rows are shown and which
limits its figures have.
"""

import dataclasses
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from rsmatch_jax import errors, files, terminal
from rsmatch_jax.bench.harness import child, command_line, machine
from rsmatch_jax.bench.harness.command_line import Request
from rsmatch_jax.bench.harness.timing import Spread

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
        if self.one_core and machine.cores() != 1:
            return False
        return self.any_device or request.device.platform == request.preset

    def holds(self, value: float) -> bool:
        """Whether a value reaches `must`."""
        return value >= self.must if self.at_least else value <= self.must

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
    """{ID: figure's JSON} of the limits that apply to the request.

    A figure that is neither in `values` nor a row's is absent. A row whose column
    "fair" is False has no figure.
    """
    by_name = {row["row"]: row for row in rows if row.get("fair", True)}
    result = {}
    for name, limit in limits.items():
        value = values.get(name)
        if value is None and limit.row in by_name:
            row, column = by_name[limit.row], limit.column
            value = Spread(row[column], *row[f"{column}_quartiles"])
        if value is not None and limit.applies(request):
            result[name] = limit.figure(value)
    return result


class Column(NamedTuple):
    """A number of a row, shown in units of `unit`, with the row's quartiles if any."""

    key: str
    digits: int = 2
    unit: float = 1.0

    def __call__(self, row: Row) -> str:
        value, quartiles = row.get(self.key), row.get(f"{self.key}_quartiles")
        if value is None:
            return "-"
        text = number(value / self.unit, self.digits)
        if quartiles is not None:
            text += f" ({interval([q / self.unit for q in quartiles], self.digits)})"
        return text


# {title: what its cells show}: the key of a text, or a function of the row.
Table = Mapping[str, str | Callable[[Row], str]]
FIGURES: Table = {
    "figure": "figure",
    "median (quartiles)": Column("value", 3),
    "must": "must",
    "goal": "goal",
    "holds": "holds",
}


@dataclasses.dataclass(frozen=True)
class Bench:
    """What a bench measures and how it is shown.

    name: the subcommand. measure: request -> (rows, {figure ID: value}). table: of the
    rows, or a function that prints them. presets, extra, fixed: see
    `command_line.parse`. environment: returns the variables of the child process that
    measures; None = this process measures.
    """

    name: str
    measure: Callable[..., Measured]
    table: Table | Callable[[Sequence[Row]], None]
    limits: Limits = dataclasses.field(default_factory=dict)
    presets: command_line.Presets = dataclasses.field(
        default_factory=lambda: command_line.PRESETS
    )
    extra: command_line.Extra = dataclasses.field(default_factory=dict)
    fixed: Collection[str] = ()
    environment: Callable[[], Mapping[str, str]] | None = None

    def main(self, argv: Sequence[str]) -> None:
        """Measures, prints tables and figures, and writes --out=FILE.json.

        Raises:
            RequestError: the flags cannot work.
            RunFailed: the measurement cannot go on.
        """
        if self.environment is not None and not child.is_rerun(self.name):
            command_line.check(argv, self.extra)
            child.rerun(self.name, argv, self.environment())
            return
        request = self.parse(argv)
        self.deliver(request, self.content(request))

    def parse(self, argv: Sequence[str]) -> Request:
        """The request that the flags state, see `command_line.parse`."""
        return command_line.parse(argv, self.presets, self.extra, self.fixed)

    def content(self, request: Request, **kwargs: Any) -> dict[str, Any]:
        """Measures; returns the bench's JSON. kwargs: passed to `measure`."""
        rows, values = self.measure(request, **kwargs)
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

    def deliver(self, request: Request, content: Mapping[str, Any]) -> None:
        """Prints tables and figures, and writes --out."""
        if callable(self.table):
            self.table(content["rows"])
        else:
            show(self.table, content["rows"])
        show_figures(content["figures"], self.limits)
        if request.out is not None:
            files.write_json(request.out, content)
            terminal.say(f"written: {request.out}")


def show(table: Table, rows: Sequence[Row]):
    """Prints a table of rows."""

    def cell(row, column):
        return column(row) if callable(column) else str(row[column] or "")

    lines = [[cell(row, column) for column in table.values()] for row in rows]
    terminal.say(f"\n{terminal.table(list(table), lines, numbers=True)}")


def show_figures(figures: Mapping[str, Mapping[str, Any]], limits: Limits):
    """Prints a table of {ID: figure} and names the figures that miss their limits."""
    if not figures:
        terminal.say("\nno limit applies at these sizes on this device\n")
        return
    show(FIGURES, [_figure_row(name, f, limits[name]) for name, f in figures.items()])
    terminal.say()
    missed = [name for name, f in figures.items() if not f["holds"]]
    if missed:
        terminal.say(
            f"does not hold: {', '.join(missed)}. This is a measurement and no "
            "failure: the exit code is 0"
        )


def _figure_row(name: str, figure: Mapping[str, Any], limit: Limit) -> Row:
    sign, goal = ">=" if limit.at_least else "<=", figure["goal"]
    return {
        "figure": f"{name} ({figure['unit']})",
        "value": figure["value"],
        "value_quartiles": figure["spread"],
        "must": f"{sign} {figure['must']:g}",
        "goal": "-" if goal is None else f"{sign} {goal:g}",
        "holds": "yes" if figure["holds"] else "NO",
    }


def number(value: float | None, digits: int = 2) -> str:
    """Formats with `digits` decimals; values too small for them as 1.2e-07."""
    if value is None:
        return "-"
    small = 0 < abs(value) < 10**-digits
    return f"{value:.1e}" if small else f"{value:,.{digits}f}"


def interval(low_high: Sequence[float], digits: int = 2) -> str:
    """Formats quartiles as "low to high"."""
    return f"{number(low_high[0], digits)} to {number(low_high[1], digits)}"


def aliased(row: Row) -> str:
    """How many leaves of the state the program updates in place."""
    return f"{row['aliased_leaves']}/{row['state_leaves']}"


def reason(error: Exception) -> str:
    """The kind and message of an error on one line, for a row's column "failed"."""
    return f"{type(error).__name__}: {errors.one_line(error)}"
