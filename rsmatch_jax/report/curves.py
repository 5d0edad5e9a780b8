"""Curves over training as plotly figures: means over seeds, a line a cell."""

import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go
from plotly import offline

from rsmatch_jax.report.collect import Run
from rsmatch_jax.report.tables import Cell, Table

HEIGHT = 340  # pixels
# Colour-blind safe (Okabe and Ito), without the yellow that no light page shows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#999999")
DASHES = ("solid", "dash", "dot", "dashdot")


class Chart(NamedTuple):
    """html: a part of a page that has `script`, without the title."""

    title: str
    html: str


@dataclasses.dataclass(frozen=True)
class Line:
    """notes: what stands after each value on hover, None = the unit."""

    name: str
    steps: Sequence[int]
    values: Sequence[float]
    notes: Sequence[str] | None = None


def script() -> str:
    """plotly.js itself, so that a page needs no network."""
    return offline.get_plotlyjs()


def of_table(table: Table) -> list[Chart]:
    """The table's charts: test accuracy, a chart a column; then the detector's
    accuracy (Fig. 4a), its balanced accuracy and the queue's purity, where there are
    any, all cells together."""
    charts = []
    for column in table.columns:
        cells = [c for c in table.cells if c.column == column]
        title = (
            f"Test accuracy, {column}" if len(table.columns) > 1 else "Test accuracy"
        )
        charts.append(_means(title, [(c.row, c) for c in cells], "eval/test_accuracy"))
    for title, key in (
        ("Detector: accuracy on unlabelled images (Fig. 4a)", "detector_accuracy"),
        ("Detector: balanced accuracy", "detector_balanced_accuracy"),
        ("Queue: share of synthetic images", "queue_purity"),
    ):
        named = [
            (c.row if len(table.columns) == 1 else f"{c.row}, {c.column}", c)
            for c in table.cells
        ]
        charts.append(_means(title, named, f"eval/{key}"))
    return [chart for chart in charts if chart]


def mean_curve(
    runs: Iterable[Run], key: str
) -> tuple[list[int], list[float], list[str]]:
    """(steps, mean over runs in percent, the single values as text) of an evaluation
    metric; steps that not all runs have are left out."""
    values: dict[int, list[float]] = {}
    runs = list(runs)
    for run in runs:
        for line in run.evaluations:
            if line.get(key) is not None:
                values.setdefault(line["step"], []).append(100 * line[key])
    steps = sorted(step for step, v in values.items() if len(v) == len(runs))
    means = [statistics.fmean(values[step]) for step in steps]
    singles = [" / ".join(f"{v:.2f}" for v in values[step]) for step in steps]
    return steps, means, singles


def _means(title: str, named: Sequence[tuple[str, Cell]], key: str) -> Chart | None:
    lines = []
    for name, cell in named:
        steps, means, singles = mean_curve(cell.runs, key)
        lines.append(Line(name, steps, means, [f" % ({s})" for s in singles]))
    return chart(title, lines)


def chart(title: str, lines: Sequence[Line], unit: str = " %") -> Chart | None:
    """None where no line has a point. unit: of its axis."""
    figure = go.Figure()
    for line in lines:
        if line.steps:
            i = len(figure.data)
            figure.add_scatter(
                x=line.steps,
                y=line.values,
                name=line.name,
                customdata=line.notes or [unit] * len(line.steps),
                line={
                    "color": COLOURS[i % len(COLOURS)],
                    "dash": DASHES[i // len(COLOURS) % len(DASHES)],
                },
                mode="lines+markers" if len(line.steps) < 40 else "lines",
                hovertemplate="%{y:.2f}%{customdata}",
            )
    if not figure.data:
        return None
    return made(title, figure.update_layout(**layout("step", unit)))


def made(title: str, figure: go.Figure) -> Chart:
    """The chart of a figure."""
    html = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        default_height=f"{HEIGHT}px",
        config={"responsive": True, "displayModeBar": False},
    )
    return Chart(title, html)


def layout(x: str, unit: str) -> dict[str, Any]:
    """Of a figure. x: its axis' title; unit: of its values."""
    axis = {"gridcolor": "rgba(128,128,128,0.25)", "zeroline": False}
    return {
        "showlegend": True,
        "hovermode": "x unified",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 48, "r": 12, "t": 8, "b": 40},
        # Of the container: many entries must not cover the axis on a narrow screen.
        "legend": {
            "orientation": "h",
            "yref": "container",
            "y": 0,
            "yanchor": "bottom",
        },
        "xaxis": {**axis, "title": {"text": x}},
        "yaxis": {**axis, "ticksuffix": unit},
    }
