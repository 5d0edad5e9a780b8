"""The charts of one run."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from rsmatch_jax.metrics import scores
from rsmatch_jax.report import curves, styles
from rsmatch_jax.report.curves import Chart, Entry, Line

Lines = Sequence[Mapping[str, Any]]
MOST_CLASSES = 100  # with a row each; more classes are drawn as quantiles
QUANTILES = {"lowest": 0, "a tenth below": 10, "median": 50, "highest": 100}
# {title: {name of the line: key of metrics.jsonl}}; shares of one.
CLASSIFIER = {
    "Accuracy": {
        "test": "eval/test_accuracy",
        "validation": "eval/validation_accuracy",
    },
    "Calibration error (ECE)": {"": "eval/test_ece"},
    "Pseudo-labels: accuracy": {
        "all": "eval/pseudo_label_accuracy",
        "real images": "eval/pseudo_label_accuracy_real",
        "synthetic images": "eval/pseudo_label_accuracy_synthetic",
    },
    "Pseudo-labels: utilisation (share above the threshold)": {
        "all": "eval/utilisation",
        "real images": "eval/utilisation_real",
        "synthetic images": "eval/utilisation_synthetic",
        "in training": "train/utilisation",
    },
}
DETECTOR = {
    "Detector accuracy on unlabelled images (Fig. 4a)": {
        "all": "eval/detector_accuracy",
        "balanced": "eval/detector_balanced_accuracy",
        "labelled": "eval/detector_accuracy_labelled",
        "other real": "eval/detector_accuracy_real",
        "synthetic": "eval/detector_accuracy_synthetic",
    },
    "Queue": {
        "purity (share of synthetic images)": "eval/queue_purity",
        "fill": "eval/queue_fill",
    },
}
# Parts of names of losses and norms.
WORDS = {"sup": "supervised", "unsup": "unsupervised", "grad": "gradient"}
ORIGINS = "eval/detector_accuracy_per_generator"
BY_CLASS = {
    "Detector accuracy by class": "eval/detector_accuracy_per_class",
    "Queue purity by class": "eval/queue_purity_per_class",
}


def of_classifier(lines: Lines, elsewhere: Collection[str] = ()) -> list[Chart | None]:
    """Returns charts of test figures, pseudo-labels and calibration; elsewhere: keys of
    metrics.jsonl that the page draws in another chart."""
    charts = [
        _shares(title, lines, keys, elsewhere) for title, keys in CLASSIFIER.items()
    ]
    return [*charts, reliability(lines)]


def of_detector(
    lines: Lines, class_names: Sequence[str], elsewhere: Collection[str] = ()
) -> list[Chart | None]:
    """Returns charts of detector and queue: overall, by origin and by class."""
    shares = [line.get(ORIGINS) or {} for line in lines]
    origins = [
        _line(name, lines, [x.get(name) for x in shares])
        for name in dict.fromkeys(name for x in shares for name in x)
    ]
    if len(origins) < 3:  # real and one generator, as in the chart of all
        origins = []
    return [
        *(_shares(title, lines, keys, elsewhere) for title, keys in DETECTOR.items()),
        curves.chart("Detector accuracy by origin", origins),
        *(_by_class(title, lines, key, class_names) for title, key in BY_CLASS.items()),
    ]


def of_losses(lines: Lines) -> list[Chart | None]:
    """Returns charts of losses and gradient norms, means over log intervals."""
    losses, norms = [], []
    for key in sorted({k for x in lines for k in x if k.startswith("train/")}):
        words = key.removeprefix("train/").split("_")
        name = " ".join(WORDS.get(word, word) for word in words)
        line = _line(name, lines, [x.get(key) for x in lines], 1.0)
        if "loss" in key:
            losses.append(line)
        if key.endswith("grad_norm"):
            norms.append(line)
    return [
        curves.chart("Losses", losses, unit=""),
        curves.chart("Gradient norms", norms, unit=""),
    ]


def reliability(lines: Lines) -> Chart | None:
    """Returns the last evaluation's reliability diagram. A bar's height is the accuracy
    on the test images of that confidence; the diagonal is perfect calibration."""
    key = "eval/test_reliability"
    bins = next((line[key] for line in reversed(lines) if key in line), None)
    if bins is None:
        return None
    edges = np.linspace(0, 100, scores.BINS + 1)
    shown = [i for i, count in enumerate(bins["count"]) if count]
    figure = go.Figure()
    bars = styles.of(0)._replace(mark="square")
    diagonal = styles.of(1)._replace(dash="dash", mark=None)
    figure.add_bar(
        x=[(edges[i] + edges[i + 1]) / 2 for i in shown],
        y=[100 * bins["accuracy"][i] for i in shown],
        width=100 / scores.BINS * 0.94,
        name="accuracy",
        marker={"color": bars.colour},
        customdata=[
            [bins["count"][i], 100 * bins["confidence"][i], edges[i], edges[i + 1]]
            for i in shown
        ],
        hovertemplate="%{customdata[2]:.1f} to %{customdata[3]:.1f} %: accuracy "
        "%{y:.2f} %, mean confidence %{customdata[1]:.2f} %, %{customdata[0]} images"
        "<extra></extra>",
    )
    figure.add_scatter(
        x=[0, 100],
        y=[0, 100],
        mode="lines",
        name="perfectly calibrated",
        line={"color": diagonal.colour, "dash": diagonal.dash},
        hoverinfo="skip",
    )
    layout = curves.layout("confidence", " %")
    layout["hovermode"] = "closest"
    layout["xaxis"] |= {"range": [0, 100], "ticksuffix": " %"}
    layout["yaxis"] |= {"range": [0, 100]}
    figure.update_layout(**layout)
    legend = (
        Entry(bars, "accuracy", is_line=False),
        Entry(diagonal, "perfectly calibrated"),
    )
    return curves.from_figure("Reliability, last evaluation", figure, legend)


def _shares(
    title: str, lines: Lines, keys: Mapping[str, str], elsewhere: Collection[str]
) -> Chart | None:
    return curves.chart(
        title,
        [
            _line(name, lines, [x.get(key) for x in lines])
            for name, key in keys.items()
            if key not in elsewhere
        ],
    )


def _line(
    name: str, lines: Lines, values: Iterable[float | None], scale: float = 100.0
) -> Line:
    """The values at the steps of `lines`, without those that are None."""
    pairs = zip(lines, values, strict=True)
    return Line(name, [(x["step"], scale * v) for x, v in pairs if v is not None])


def _by_class(
    title: str, lines: Lines, key: str, class_names: Sequence[str]
) -> Chart | None:
    lines = [x for x in lines if x.get(key)]
    if not lines:
        return None
    if len(class_names) <= MOST_CLASSES:
        shares = [
            [None if line[key][k] is None else 100 * line[key][k] for line in lines]
            for k in range(len(class_names))
        ]
        steps = [line["step"] for line in lines]
        return curves.heat_map(title, class_names, steps, shares)
    rows = [[v for v in line[key] if v is not None] for line in lines]
    drawn = [
        _line(name, lines, [float(np.percentile(r, q)) if r else None for r in rows])
        for name, q in QUANTILES.items()
    ]
    return curves.chart(f"{title} ({len(class_names)} classes)", drawn)
