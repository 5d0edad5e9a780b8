"""Plotly figures of a table: differences, and curves of means over seeds."""

import math
import statistics
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go
from plotly import offline

from rsmatch_jax.metrics import names
from rsmatch_jax.report import styles
from rsmatch_jax.report.collect import Run
from rsmatch_jax.report.styles import Style
from rsmatch_jax.report.tables import CONFIDENCE, Table

HEIGHT = 300  # pixels
MOST_MARKS = 12  # on a line
FEW = 6  # lines that one hover label can list
EACH = 5  # runs that a hover label lists
WIDTH = 24  # letters of a name on an axis or in a hover label, in a line
# Pixels of a heat map: least and most of a row, and about all rows.
ROW_LEAST, ROW_MOST, ROWS = 6, 24, 480
ACCURACY = "eval/test_accuracy"
# {title: key of metrics.jsonl} of charts with a line per row, beside test accuracy.
COMPARED = {
    "Detector: accuracy on unlabelled images (Fig. 4a)": "eval/detector_accuracy",
    "Detector: balanced accuracy": "eval/detector_balanced_accuracy",
    "Queue purity (share of synthetic images)": "eval/queue_purity",
}


class Entry(NamedTuple):
    """A line of a legend. is_line: it is drawn as a line with marks, not marks alone"""

    style: Style
    name: str
    is_line: bool = True


class Chart(NamedTuple):
    """html: a part of a page that has `script`, without the title and the legend.
    legend: of the drawn lines in their order."""

    title: str
    html: str
    legend: tuple[Entry, ...] = ()


class Line(NamedTuple):
    """points: (step, value). notes: the texts after the values, None = the unit."""

    name: str
    points: Sequence[tuple[int, float]]
    notes: Sequence[str] | None = None


def script() -> str:
    """Returns plotly.js itself, so that a page needs no network."""
    return offline.get_plotlyjs()


def of_table(table: Table) -> list[Chart | None]:
    """Returns charts of test accuracy by column, then of detector and queue. A row has
    the same style in all charts."""
    charts: list[Chart | None] = []
    several = len(table.columns) > 1
    for column in table.columns:
        title = f"Test accuracy, {column}" if several else "Test accuracy"
        cells = [c for c in table.cells if c.column == column and c.runs]
        lines = [mean_line(c.row, c.runs, ACCURACY) for c in cells]
        charts.append(chart(title, lines))
    for title, key in COMPARED.items():
        cells = [c for c in table.cells if c.runs]
        lines = [mean_line(table.place(c), c.runs, key) for c in cells]
        charts.append(chart(title, lines))
    return charts


def of_differences(table: Table) -> Chart | None:
    """Returns each row's paired difference to the baseline, a colour per column; None
    without a baseline or pairs. Of the last four evaluations, or of the best one where
    runs have fewer."""
    name = names.LATE if any(c.stat(names.LATE) for c in table.cells) else "best"
    figure, legend, drawn = go.Figure(), [], set()
    for i, column in enumerate(table.columns):
        cells = [cell for cell in table.cells if cell.column == column]
        made = [(cell.row, table.difference(cell, name)) for cell in cells]
        points = [(row, *difference) for row, difference in made if difference]
        if points:
            style = styles.of(i)
            rows, means, halves = zip(*points, strict=True)
            figure.add_scatter(
                x=means,
                y=[_wrapped(row) for row in rows],
                orientation="h",  # which `scattermode` groups along y
                error_x={"array": [half or 0 for half in halves]},
                # One pair has no interval.
                customdata=["" if x is None else f" ± {x:.2f}" for x in halves],
                name=column,
                mode="markers",
                marker={"color": style.colour, "symbol": style.mark, "size": 9},
                hovertemplate="%{y}: %{x:+.2f}%{customdata}<extra></extra>",
            )
            legend.append(Entry(style, column, is_line=False))
            drawn |= {_wrapped(row) for row in rows}
    if not figure.data:
        return None
    axes = layout("percentage points", "")
    axes["hovermode"] = "closest"
    axes["xaxis"] |= {"zeroline": True, "zerolinecolor": "gray"}
    axes["yaxis"] |= {"automargin": True, "autorange": "reversed"}
    # Columns side by side, not one behind the other.
    axes |= {"scattermode": "group", "scattergap": 0.5}
    title = f"Difference to {table.baseline}, {CONFIDENCE:.0%} intervals"
    figure.update_layout(**axes)
    lines = sum(row.count("<br>") + 1.4 for row in drawn)
    height = 90 + round(15 * lines * max(1, len(legend) / 2))
    return from_figure(title, figure, legend if len(legend) > 1 else (), height)


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
            notes.append(f" % ({_each(shares)})" if len(shares) > 1 else " %")
    return Line(name, points, notes)


def _each(shares: Sequence[float]) -> str:
    if len(shares) <= EACH:
        return " / ".join(f"{x:.2f}" for x in shares)
    return f"{min(shares):.2f} to {max(shares):.2f} in {len(shares)} runs"


def chart(title: str, lines: Sequence[Line], unit: str = " %") -> Chart | None:
    """Returns a chart over steps, None if no line has a point; unit: of its axis.

    The place in `lines` gives a line's style. Lines with the same points are drawn
    once, under all their names.
    """
    figure, legend = go.Figure(), []
    equal: dict[tuple, list[int]] = {}
    for i, line in enumerate(lines):
        if line.points:
            equal.setdefault(tuple(line.points), []).append(i)
    for points, places in equal.items():
        style, line = styles.of(places[0]), lines[places[0]]
        steps, values = zip(*points, strict=True)
        name = " = ".join(lines[place].name for place in places)
        legend.append(Entry(style, name))
        figure.add_scatter(
            x=steps,
            y=values,
            name=_wrapped(name),
            customdata=line.notes or [unit] * len(steps),
            line={"color": style.colour, "dash": style.dash},
            marker={"symbol": style.mark, "size": 7, "maxdisplayed": MOST_MARKS},
            mode="lines+markers",
            hovertemplate="%{y:.2f}%{customdata}",
        )
    if not figure.data:
        return None
    axes = layout("step", unit)
    if len(equal) > FEW:
        axes["hovermode"] = "closest"
        figure.update_traces(
            hovertemplate="%{fullData.name}<br>step %{x}: %{y:.2f}%{customdata}"
            "<extra></extra>"
        )
    return from_figure(title, figure.update_layout(**axes), legend)


def _wrapped(name: str) -> str:
    return "<br>".join(textwrap.wrap(name, WIDTH, break_long_words=False))


def heat_map(
    title: str, rows: Sequence[str], steps: Sequence[int], shares: Sequence[Sequence]
) -> Chart:
    """Returns a chart with a row per name, a column per step, and shares in percent
    [rows, steps] as colours; None is left blank."""
    known = [x for line in shares for x in line if x is not None]
    low = 10 * math.floor(min(known, default=0) / 10)
    figure = go.Figure()
    figure.add_heatmap(
        x=[str(step) for step in steps],
        y=list(rows),
        z=[list(line) for line in shares],
        zmin=min(low, 90),
        zmax=100,
        colorscale="Cividis",  # Nuñez et al., 2018: even without colour vision
        xgap=1,
        ygap=1,
        colorbar={
            "orientation": "h",
            "y": 1,
            "yanchor": "bottom",
            "thickness": 10,
            "ticksuffix": " %",
            "outlinewidth": 0,
        },
        hovertemplate="%{y}, step %{x}: %{z:.2f} %<extra></extra>",
    )
    axes = layout("", "")
    axes["hovermode"] = "closest"
    axes["margin"] |= {"t": 48}
    axes["xaxis"] |= {
        "type": "category",
        "showgrid": False,
        "tickangle": 0,
        "nticks": 6,
    }
    # plotly puts an axis's title over the labels of categories.
    below = {"xref": "paper", "x": 0.5, "yref": "paper", "y": 0, "yshift": -22}
    word = {"text": "step", "showarrow": False, "yanchor": "top", **below}
    axes["yaxis"] |= {
        "type": "category",
        "autorange": "reversed",
        "showgrid": False,
        "automargin": True,
    }
    height = 110 + max(ROW_LEAST, min(ROW_MOST, ROWS // len(rows))) * len(rows)
    figure.update_layout(**axes, annotations=[word])
    return from_figure(title, figure, height=height)


def from_figure(
    title: str,
    figure: go.Figure,
    legend: Sequence[Entry] = (),
    height: int = HEIGHT,
) -> Chart:
    """Returns the chart of a plotly figure; height: in pixels."""
    html = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        default_height=f"{height}px",
        config={"responsive": True, "displayModeBar": False},
    )
    return Chart(title, html, tuple(legend))


def layout(x: str, unit: str) -> dict[str, Any]:
    """Returns a figure's layout; x: title of its axis, unit: of the values. The page
    draws the legend, because plotly cuts off what does not fit."""
    axis = {"gridcolor": "rgba(128,128,128,0.25)", "zeroline": False}
    # Ticks without colour keep the numbers of the two axes apart.
    axis |= {"ticks": "outside", "ticklen": 5, "tickcolor": "rgba(0,0,0,0)"}
    return {
        "showlegend": False,
        "hovermode": "x unified",
        "hoverlabel": {"namelength": -1},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 52, "r": 12, "t": 8, "b": 44},
        "xaxis": {**axis, "title": {"text": x}},
        "yaxis": {**axis, "ticksuffix": unit},
    }
