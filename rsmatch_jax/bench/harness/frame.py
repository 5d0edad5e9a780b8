"""The frame of a bench: flags in; tables, figures and JSON out."""

import dataclasses
import os
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
    """{ID: figure's JSON} of the limits that apply to the request.

    A figure that was not measured is absent. A row whose "fair" is False has no figure.
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
        def text(value):
            return number(value / self.unit, self.digits)

        value, quartiles = row.get(self.key), row.get(f"{self.key}_quartiles")
        if value is None:
            return "-"
        between = f" ({' to '.join(map(text, quartiles))})" if quartiles else ""
        return text(value) + between


# {title: what its cells show}: the key of a text, or a function of the row.
Table = Mapping[str, str | Callable[[Row], str]]
FIGURES: Table = {
    "figure": "figure",
    "median (quartiles)": Column("value", 3),
    **{name: name for name in ("must", "goal", "holds")},
}


@dataclasses.dataclass(frozen=True)
class Bench:
    """What a bench measures and how it is shown.

    name: the subcommand. measure: request -> (rows, {figure ID: value}). table: of the
    rows, or a function that prints them. presets, extra, fixed: see
    `command_line.parse`. environment: returns the variables of the child process that
    measures; None = this process.
    """

    name: str
    measure: Callable[..., Measured]
    table: Table | Callable[[Sequence[Row]], None]
    limits: Limits = dataclasses.field(default_factory=dict)
    presets: command_line.Presets = dataclasses.field(
        default_factory=command_line.PRESETS.copy
    )
    extra: command_line.Extra = dataclasses.field(default_factory=dict)
    fixed: Collection[str] = ()
    environment: Callable[[], Mapping[str, str]] | None = None

    def main(self, argv: Sequence[str]):
        """Measures, prints tables and figures, and writes --out=FILE.json.

        Raises RequestError if the flags cannot work, RunFailed if measuring cannot.
        """
        is_child = os.environ.get(child.MARKER) == self.name
        if self.environment is not None and not is_child:
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

    def deliver(self, request: Request, content: Mapping[str, Any]):
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
    lines = [
        [c(row) if callable(c) else str(row[c] or "") for c in table.values()]
        for row in rows
    ]
    terminal.say(f"\n{terminal.table(list(table), lines, numbers=True)}")


def show_figures(figures: Mapping[str, Mapping[str, Any]], limits: Limits):
    """Prints a table of {ID: figure} and names the figures that miss their limits."""
    if not figures:
        terminal.say("\nno limit applies at these sizes on this device\n")
        return
    rows = []
    for name, f in figures.items():
        must, goal = limits[name].bounds()
        rows.append(
            {
                "figure": f"{name} ({f['unit']})",
                "value": f["value"],
                "value_quartiles": f["spread"],
                "must": must,
                "goal": goal or "-",
                "holds": "yes" if f["holds"] else "NO",
            }
        )
    show(FIGURES, rows)
    terminal.say()
    missed = [name for name, f in figures.items() if not f["holds"]]
    if missed:
        terminal.say(
            f"does not hold: {', '.join(missed)}. This is a measurement and no "
            "failure: the exit code is 0"
        )


def number(value: float | None, digits: int = 2) -> str:
    """Formats with `digits` decimals; values too small for them as 1.2e-07."""
    if value is None:
        return "-"
    small = 0 < abs(value) < 10**-digits
    return f"{value:.1e}" if small else f"{value:,.{digits}f}"


def aliased(row: Row) -> str:
    """How many leaves of the state the program updates in place."""
    return f"{row['aliased_leaves']}/{row['state_leaves']}"


def reason(error: Exception) -> str:
    """The kind and message of an error on one line, for a row's column "failed"."""
    return f"{type(error).__name__}: {errors.one_line(error)}"
