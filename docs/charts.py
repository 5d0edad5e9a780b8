"""Draws the charts of results, and prints the study's tables, from the runs' figures.

    python docs/charts.py             # writes pictures/digits-*.svg
    python docs/charts.py --tables    # prints the tables of study.md

Reads results/*.csv, one line a run, and needs no package.
"""

import csv
import functools
import math
import pathlib
import statistics
import sys

DOCS = pathlib.Path(__file__).parent
MIXED_ROWS = {  # row of the table: what the chart calls it
    "FixMatch": "FixMatch",
    "FixMatch (real only)": "FixMatch, real images only (truth)",
    "RSMatch": "RSMatch, the paper's",
    "screening, prior": "RSMatch with both options",
}
LOWEST, HIGHEST = 94.0, 98.5  # percent
LEFT, WIDTH, TOP, HEIGHT = 300, 560, 62, 46
POOLS, RATIOS = ("easy", "medium", "hard", "mixed"), (0.3, 0.5, 0.7)
STUDY_ROWS = {
    "FixMatch (real only)": "FixMatch, real images only (truth)",
    "FlexMatch": "FlexMatch",
    "SoftMatch": "SoftMatch",
    "RSMatch": "RSMatch, the paper's",
    "RSMatch, oracle": "RSMatch, routed by truth",
    "RSMatch, screening, prior": "RSMatch with both options",
}
STUDY_FIGURES = (  # row, figure at the end of a run, what the tables call it
    ("FixMatch", "synthetic_used", "synthetic images that FixMatch uses"),
    ("FixMatch", "synthetic_labels_right", "of these labelled right"),
    ("RSMatch", "detector_balanced_accuracy", "RSMatch's detector, balanced accuracy"),
    ("RSMatch", "queue_purity", "RSMatch's queue, purity"),
    (
        *("RSMatch, screening, prior", "detector_balanced_accuracy"),
        "detector with both options",
    ),
)
# Of Okabe and Ito, for all eyes, on light ground; marks in a square of 2 x 2.
COLOURS = ("#1b2430", "#e69f00", "#a65f00", "#0072b2", "#009e73", "#d55e00")
MARKS = (
    "M-1 -1H1V1H-1Z",  # square
    "M-1 -.3H-.3V-1H.3V-.3H1V.3H.3V1H-.3V.3H-1Z",  # cross
    "M-1 -1L0 -.3L1 -1L.3 0L1 1L0 .3L-1 1L-.3 0Z",  # star
    "M0 -1.2L1.1 .9H-1.1Z",  # triangle
    "M0 -1.3L1.3 0L0 1.3L-1.3 0Z",  # diamond
    "M0 1.2L1.1 -.9H-1.1Z",  # triangle, on its tip
)
CIFAR10_FIGURES = {  # figure at the last step: what its column is called
    "last": "test accuracy, %",
    "detector_balanced_accuracy": "detector's balanced accuracy, %",
    "queue_purity": "queue's purity, %",
    "synthetic_used": "synthetic images used, %",
    "synthetic_labels_right": "of these labelled right, %",
}
PANEL, STUDY_HEIGHT = 196, 300  # pixels
# Student's t, 95 % quantile, by degrees of freedom: half of a 90 % interval.
QUANTILES = {1: 6.314, 2: 2.920, 3: 2.353, 4: 2.132, 9: 1.833}
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


def charts() -> dict[str, str]:
    """Returns {file in pictures/: the chart as SVG}."""
    return {"digits-mixed.svg": mixed(), "digits-study.svg": study()}


def mixed() -> str:
    """Returns accuracies on mixed digits. A dot is a run, the line their mean."""
    title = "Digits between two classes: test accuracy in percent, a dot a seed"
    runs = [line for line in _runs("digits-mixed.csv") if line["sweep"] == "repairs"]
    bottom = TOP + HEIGHT * len(MIXED_ROWS)
    parts = [HEAD.format(height=bottom + 44, panel=bottom + 42, title=title)]
    for tick in range(int(LOWEST), int(HIGHEST) + 1):
        x = _percent(tick)
        parts.append(f'  <path class="grid" d="M{x:.1f} {TOP}V{bottom}"/>\n')
        parts.append(_text(x, bottom + 22, str(tick), "middle"))
    for i, (row, name) in enumerate(MIXED_ROWS.items()):
        values = [
            100 * float(run["last_four"])
            for run in runs
            if run["row"] == row and int(run["seed"]) < 5
        ]
        parts += _mixed_row(TOP + HEIGHT * (i + 0.5), name, values)
    return "".join([*parts, "</svg>\n"])


def study() -> str:
    """Returns differences to FixMatch by pool and ratio, with 90 % intervals."""
    title = "Difference to FixMatch in points, 90 % intervals by pairs of equal seeds"
    cells = {
        (pool, ratio, row): differences([pool], [ratio], row)
        for pool in POOLS
        for ratio in RATIOS
        for row in STUDY_ROWS
    }
    low = math.floor(min(mean - half for mean, half in cells.values()))
    high = math.ceil(max(mean + half for mean, half in cells.values()))
    bottom = TOP + 24 + STUDY_HEIGHT

    def y(points):
        return bottom - STUDY_HEIGHT * (points - low) / (high - low)

    parts = [HEAD.format(height=bottom + 106, panel=bottom + 104, title=title)]
    for tick in range(low, high + 1):
        style = "mean" if tick == 0 else "grid"
        width = ' style="stroke-width:1.5"' if tick == 0 else ""
        line = f"M60 {y(tick):.1f}H{60 + 4 * PANEL}"
        parts.append(f'  <path class="{style}"{width} d="{line}"/>\n')
        parts.append(_text(50, y(tick) + 5, f"{tick:+d}" if tick else "0", "end"))
    for i, pool in enumerate(POOLS):
        left = 60 + PANEL * i
        parts.append(f'  <path class="grid" d="M{left} {TOP}V{bottom}"/>\n')
        parts.append(_text(left + PANEL / 2, TOP + 12, pool, "middle", ""))
        for j, ratio in enumerate(RATIOS):
            middle = left + PANEL * (j + 0.5) / len(RATIOS)
            parts.append(_text(middle, bottom + 20, f"r = {ratio}", "middle"))
            for k, row in enumerate(STUDY_ROWS):
                mean, half = cells[pool, ratio, row]
                x = middle + 9 * (k - (len(STUDY_ROWS) - 1) / 2)
                parts.append(_interval(x, y(mean - half), y(mean + half), k))
                parts.append(_mark(x, y(mean), k))
    for k, name in enumerate(STUDY_ROWS.values()):
        x, line = 74 + 262 * (k % 3), bottom + 52 + 28 * (k // 3)
        parts += [_mark(x, line, k), _text(x + 14, line + 5, name)]
    return "".join([*parts, "</svg>\n"])


def tables() -> str:
    """Returns study.md's tables: means over cells, the cells of each pool, CIFAR-10."""
    return "\n".join([_means(), *(_cells(pool) for pool in POOLS), _cifar10()])


def differences(pools, ratios, row, figure="last_four") -> tuple[float, float]:
    """Returns a row's mean difference to FixMatch and half of its interval, points.

    Several cells count as one: their mean by seed.
    """
    runs = _study_runs(figure)
    by_seed: dict[int, list[float]] = {}
    for pool in pools:
        for ratio in ratios:
            base = runs[pool, ratio, "FixMatch"]
            for seed, value in runs[pool, ratio, row].items():
                by_seed.setdefault(seed, []).append(100 * (value - base[seed]))
    means = [statistics.fmean(values) for values in by_seed.values()]
    half = QUANTILES[len(means) - 1] * statistics.stdev(means) / len(means) ** 0.5
    return statistics.fmean(means), half


def _means():
    columns = {
        "all": (POOLS, RATIOS),
        **{f"r = {ratio}": (POOLS, (ratio,)) for ratio in RATIOS},
        **{pool: ((pool,), RATIOS) for pool in POOLS},
    }
    lines = _head("mean over", columns)
    for row, name in STUDY_ROWS.items():
        lines.append(
            _line(name, [differences(*cell, row) for cell in columns.values()])
        )
    return "\n".join(lines) + "\n"


def _cells(pool):
    lines = _head(pool, (f"r = {ratio}" for ratio in RATIOS))
    runs = _study_runs("last_four")
    values = [[*runs[pool, ratio, "FixMatch"].values()] for ratio in RATIOS]
    figures = [_mean_and_spread(cell) for cell in values]
    lines.append(f"| FixMatch, % | {' | '.join(figures)} |")
    for row, name in STUDY_ROWS.items():
        lines.append(_line(name, [differences([pool], [r], row) for r in RATIOS]))
    for row, figure, name in STUDY_FIGURES:
        runs = _study_runs(figure)
        means = [statistics.fmean(runs[pool, r, row].values()) for r in RATIOS]
        figures = [f"{100 * mean:.1f}" for mean in means]
        lines.append(f"| {name}, % | {' | '.join(figures)} |")
    return "\n".join(lines) + "\n"


def _cifar10():
    pool, ratio = "cifake", 0.7
    first, *others = CIFAR10_FIGURES.values()
    lines = _head("at the last step", [first, "- FixMatch", *others])
    for row, name in {"FixMatch": "FixMatch", **STUDY_ROWS}.items():
        if (pool, ratio, row) not in _study_runs("last"):
            continue
        seeds = [_study_runs(f).get((pool, ratio, row)) for f in CIFAR10_FIGURES]
        cells = [_mean_and_spread(x.values()) if x else "" for x in seeds]
        pair = differences([pool], [ratio], row, "last")
        cells.insert(1, "" if row == "FixMatch" else _difference(pair))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _mean_and_spread(shares):
    values = [100 * share for share in shares]
    return f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}"


def _difference(pair):
    return "{:+.2f} ± {:.2f}".format(*pair)


def _head(corner, columns):
    columns = list(columns)
    return [f"| {corner} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]


def _line(name, pairs):
    return f"| {name} | {' | '.join(map(_difference, pairs))} |"


@functools.cache
def _study_runs(figure):
    """Returns {(pool, ratio, row): {seed: figure}}; real only is of all pools of the
    digits."""
    runs: dict[tuple, dict[int, float]] = {}
    for line in [*_runs("digits-study.csv"), *_runs("cifar10-study.csv")]:
        for pool in [line["pool"]] if line["pool"] else POOLS:
            if line[figure]:
                cell = runs.setdefault((pool, float(line["ratio"]), line["row"]), {})
                cell[int(line["seed"])] = float(line[figure])
    return runs


def _runs(name):
    with open(DOCS / "results" / name, encoding="utf-8", newline="") as f:
        return list(csv.DictReader(f))


def _mixed_row(y, name, values):
    yield _text(LEFT - 16, y + 5, name, "end", "")
    for value in values:
        yield f'  <circle class="run" cx="{_percent(value):.1f}" cy="{y}" r="6"/>\n'
    mean = statistics.fmean(values)
    x = _percent(mean)
    yield f'  <path class="mean" d="M{x:.1f} {y - 13}V{y + 13}"/>\n'
    yield _text(_percent(max(values)) + 14, y + 5, f"{mean:.2f}")


def _percent(value):
    return LEFT + WIDTH * (value - LOWEST) / (HIGHEST - LOWEST)


def _text(x, y, text, anchor="start", style="small"):
    kind = f' class="{style}"' if style else ""
    end = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'  <text{kind} x="{x:.1f}" y="{y:.1f}"{end}>{text}</text>\n'


def _interval(x, first, last, k):
    path = f'd="M{x:.1f} {first:.1f}V{last:.1f}"'
    return f'  <path {path} stroke="{COLOURS[k]}" stroke-width="1.5"/>\n'


def _mark(x, y, k):
    place = f'transform="translate({x:.1f} {y:.1f}) scale(4.5)"'
    return f'  <path d="{MARKS[k]}" fill="{COLOURS[k]}" {place}/>\n'


def draw():
    """Writes all charts."""
    for name, chart in charts().items():
        (DOCS / "pictures" / name).write_text(chart, encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] == ["--tables"]:
        sys.stdout.write(tables())
    else:
        draw()
