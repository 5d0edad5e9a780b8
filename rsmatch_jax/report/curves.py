"""Plotly figures of a table: differences, and curves of means over seeds."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go
from plotly import offline

from rsmatch_jax.metrics import names
from rsmatch_jax.report.collect import Run
from rsmatch_jax.report.tables import CONFIDENCE, Table

HEIGHT = 340  # pixels
# Colour-blind safe (Okabe and Ito), without yellow, which is faint on a light page.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#999999")
DASHES = ("solid", "dash", "dot", "dashdot")


class Chart(NamedTuple):
    """html: a part of a page that has `script`, without the title."""

    title: str
    html: str


class Line(NamedTuple):
    """points: (step, value). notes: the texts after the values, None = the unit."""

    name: str
    points: Sequence[tuple[int, float]]
    notes: Sequence[str] | None = None


def script() -> str:
    """Returns plotly.js itself, so that a page needs no network."""
    return offline.get_plotlyjs()


def of_table(table: Table) -> list[Chart | None]:
    """Returns charts of test accuracy by column, then of detector and queue."""
    charts: list[Chart | None] = []
    several = len(table.columns) > 1
    for column in table.columns:
        title = f"Test accuracy, {column}" if several else "Test accuracy"
        cells = [c for c in table.cells if c.column == column]
        lines = [mean_line(c.row, c.runs, "eval/test_accuracy") for c in cells]
        charts.append(chart(title, lines))
    for title, key in (
        ("Detector: accuracy on unlabelled images (Fig. 4a)", "detector_accuracy"),
        ("Detector: balanced accuracy", "detector_balanced_accuracy"),
        ("Queue: share of synthetic images", "queue_purity"),
    ):
        lines = [
            mean_line(
                f"{c.row}, {c.column}" if several else c.row, c.runs, f"eval/{key}"
            )
            for c in table.cells
        ]
        charts.append(chart(title, lines))
    return charts


def of_differences(table: Table) -> Chart | None:
    """Returns each row's paired difference to the baseline, a colour per column; None
    without a baseline or pairs. Of the last four evaluations, or of the best one where
    runs have fewer."""
    name = names.LATE if any(c.stat(names.LATE) for c in table.cells) else "best"
    figure = go.Figure()
    for i, column in enumerate(table.columns):
        cells = [cell for cell in table.cells if cell.column == column]
        made = [(cell.row, table.difference(cell, name)) for cell in cells]
        points = [(row, *difference) for row, difference in made if difference]
        if points:
            rows, means, halves = zip(*points, strict=True)
            figure.add_scatter(
                x=rows,
                y=means,
                error_y={"array": [half or 0 for half in halves]},
                name=column,
                mode="markers",
                marker={"color": COLOURS[i % len(COLOURS)], "size": 8},
                hovertemplate="%{y:+.2f} ± %{error_y.array:.2f}",
            )
    if not figure.data:
        return None
    axes = layout("", "")
    axes["yaxis"] |= {
        "title": {"text": "points"},
        "zeroline": True,
        "zerolinecolor": "gray",
    }
    # Columns side by side, not one behind the other.
    axes |= {"scattermode": "group", "scattergap": 0.5}
    title = f"Difference to {table.baseline}, {CONFIDENCE:.0%} intervals"
    return from_figure(title, figure.update_layout(**axes))


def mean_line(name: str, runs: Iterable[Run], key: str) -> Line:
    """Returns a metric's mean over runs in percent, at the steps that all runs have."""
    values: dict[int, list[float]] = {}
    runs = list(runs)
    for run in runs:
        for line in run.evaluations:
            if line.get(key) is not None:
                values.setdefault(line["step"], []).append(100 * line[key])
    points, notes = [], []
    for step, shares in sorted(values.items()):
        if len(shares) == len(runs):
            points.append((step, statistics.fmean(shares)))
            notes.append(f" % ({' / '.join(f'{x:.2f}' for x in shares)})")
    return Line(name, points, notes)


def chart(title: str, lines: Sequence[Line], unit: str = " %") -> Chart | None:
    """Returns a chart over steps, None if no line has a point; unit: of its axis."""
    figure = go.Figure()
    for i, line in enumerate(line for line in lines if line.points):
        steps, values = zip(*line.points, strict=True)
        figure.add_scatter(
            x=steps,
            y=values,
            name=line.name,
            customdata=line.notes or [unit] * len(steps),
            line={
                "color": COLOURS[i % len(COLOURS)],
                "dash": DASHES[i // len(COLOURS) % len(DASHES)],
            },
            mode="lines+markers" if len(steps) < 40 else "lines",
            hovertemplate="%{y:.2f}%{customdata}",
        )
    if not figure.data:
        return None
    return from_figure(title, figure.update_layout(**layout("step", unit)))


def from_figure(title: str, figure: go.Figure) -> Chart:
    """Returns the chart of a plotly figure."""
    html = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        default_height=f"{HEIGHT}px",
        config={"responsive": True, "displayModeBar": False},
    )
    return Chart(title, html)


def layout(x: str, unit: str) -> dict[str, Any]:
    """Returns a figure's layout; x: title of its axis, unit: of the values."""
    axis = {"gridcolor": "rgba(128,128,128,0.25)", "zeroline": False}
    # Below the plot: many entries must not cover the axis on a narrow screen.
    legend = {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"}
    return {
        "showlegend": True,
        "hovermode": "x unified",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 48, "r": 12, "t": 8, "b": 40},
        "legend": legend,
        "xaxis": {**axis, "title": {"text": x}},
        "yaxis": {**axis, "ticksuffix": unit},
    }
