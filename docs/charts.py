"""Draws the README's chart of results, pictures/digits-mixed.svg, from its figures.

    python docs/charts.py

A dot is a run, the line their mean. Reads results/digits-mixed.csv, needs no package.
"""

import csv
import pathlib
import statistics

DOCS = pathlib.Path(__file__).parent
FIGURES, PICTURE = DOCS / "results/digits-mixed.csv", DOCS / "pictures/digits-mixed.svg"
ROWS = {  # row of the table: what the chart calls it
    "FixMatch": "FixMatch",
    "FixMatch (real only)": "FixMatch, real images only (truth)",
    "RSMatch": "RSMatch, the paper's",
    "screening, prior": "RSMatch with both options",
}
LOWEST, HIGHEST = 94.0, 98.5  # percent
LEFT, WIDTH, TOP, HEIGHT = 300, 560, 62, 46
HEAD = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 {height}" role="img" \
aria-label="{title}">
  <style>
    text {{ font: 15px system-ui, "Segoe UI", sans-serif; fill: #1b2430; }}
    .small {{ font-size: 13px; fill: #48535f; }}
    .panel {{ fill: #f7f9fc; stroke: #cfd6de; }}
    .grid {{ stroke: #d9dfe6; }}
    .run {{ fill: #2f6fd0; fill-opacity: 0.55; }}
    .mean {{ stroke: #1b2430; stroke-width: 3; }}
  </style>
  <rect class="panel" x="1" y="1" width="898" height="{panel}" rx="12"/>
  <text x="24" y="34">{title}</text>
"""
TITLE = "Digits between two classes: test accuracy in percent, a dot a seed (0 to 4)"


def drawn() -> str:
    """Returns the chart as SVG."""
    with open(FIGURES, encoding="utf-8", newline="") as f:
        runs = [line for line in csv.DictReader(f) if line["sweep"] == "repairs"]
    bottom = TOP + HEIGHT * len(ROWS)
    parts = [HEAD.format(height=bottom + 44, panel=bottom + 42, title=TITLE)]
    for tick in range(int(LOWEST), int(HIGHEST) + 1):
        x = _x(tick)
        parts.append(
            f'  <path class="grid" d="M{x:.1f} {TOP}V{bottom}"/>\n'
            f'  <text class="small" x="{x:.1f}" y="{bottom + 22}" '
            f'text-anchor="middle">{tick}</text>\n'
        )
    for i, (row, name) in enumerate(ROWS.items()):
        values = [
            100 * float(run["last_four"])
            for run in runs
            if run["row"] == row and int(run["seed"]) < 5
        ]
        parts += _row(TOP + HEIGHT * (i + 0.5), name, values)
    return "".join([*parts, "</svg>\n"])


def _row(y, name, values):
    yield f'  <text x="{LEFT - 16}" y="{y + 5}" text-anchor="end">{name}</text>\n'
    for value in values:
        yield f'  <circle class="run" cx="{_x(value):.1f}" cy="{y}" r="6"/>\n'
    mean = statistics.fmean(values)
    x = _x(mean)
    yield f'  <path class="mean" d="M{x:.1f} {y - 13}V{y + 13}"/>\n'
    end = _x(max(values)) + 14
    yield f'  <text class="small" x="{end:.1f}" y="{y + 5}">{mean:.2f}</text>\n'


def _x(value):
    return LEFT + WIDTH * (value - LOWEST) / (HIGHEST - LOWEST)


if __name__ == "__main__":
    PICTURE.write_text(drawn(), encoding="utf-8")
