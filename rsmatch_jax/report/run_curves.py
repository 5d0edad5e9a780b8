"""The charts of one run."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from rsmatch_jax.metrics import scores
from rsmatch_jax.report import curves
from rsmatch_jax.report.curves import Chart, Line

Lines = Sequence[Mapping[str, Any]]
MOST_CLASSES = 12  # with a line each; of more the spread over classes is drawn
QUANTILES = {"lowest": 0, "a tenth below": 10, "median": 50, "highest": 100}
# {title: {name of the line: key of metrics.jsonl}}; shares of one.
CLASSIFIER = {
    "Test accuracy": {
        "test": "eval/test_accuracy",
        "validation": "eval/validation_accuracy",
    },
    "Calibration error (ECE)": {"ECE": "eval/test_ece"},
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
        "purity (synthetic share)": "eval/queue_purity",
        "fill": "eval/queue_fill",
    },
}


def of_classifier(lines: Lines) -> list[Chart]:
    """Charts of test figures, pseudo-labels and calibration."""
    charts = [_shares(title, lines, keys) for title, keys in CLASSIFIER.items()]
    return _there([*charts, reliability(lines)])


def of_detector(lines: Lines, class_names: Sequence[str]) -> list[Chart]:
    """Charts of the detector and the queue, overall, by generator and by
    class; empty without a detector."""
    origins = dict.fromkeys(
        name
        for line in lines
        for name in line.get("eval/detector_accuracy_per_generator") or {}
    )
    return _there(
        [
            *(_shares(title, lines, keys) for title, keys in DETECTOR.items()),
            curves.chart(
                "Detector accuracy by origin",
                [_origin(lines, name) for name in origins],
            ),
            *(
                _by_class(title, lines, key, class_names)
                for title, key in (
                    ("Detector accuracy by class", "detector_accuracy_per_class"),
                    ("Queue purity by class", "queue_purity_per_class"),
                )
            ),
        ]
    )


def of_losses(lines: Lines) -> list[Chart]:
    """Charts of losses and of gradient norms, means over log intervals."""
    keys = sorted({k for line in lines for k in line if k.startswith("train/")})
    groups = {
        "Losses": [k for k in keys if "loss" in k],
        "Gradient norms": [k for k in keys if k.endswith("grad_norm")],
    }
    return _there(
        curves.chart(
            title,
            [_line(k.removeprefix("train/"), lines, k, 1.0) for k in own],
            unit="",
        )
        for title, own in groups.items()
    )


def reliability(lines: Lines) -> Chart | None:
    """The last evaluation's reliability diagram: a bar's height is the accuracy of the
    test images of that confidence, the diagonal is perfect calibration."""
    found = [x["eval/test_reliability"] for x in lines if "eval/test_reliability" in x]
    if not found:
        return None
    bins, edges = found[-1], np.linspace(0, 100, scores.BINS + 1)
    shown = [i for i, count in enumerate(bins["count"]) if count]
    figure = go.Figure()
    figure.add_bar(
        x=[(edges[i] + edges[i + 1]) / 2 for i in shown],
        y=[100 * bins["accuracy"][i] for i in shown],
        width=100 / scores.BINS * 0.94,
        name="accuracy",
        marker={"color": curves.COLOURS[0]},
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
        line={"color": curves.COLOURS[1], "dash": "dash"},
        hoverinfo="skip",
    )
    layout = curves.layout("confidence", " %")
    layout["hovermode"] = "closest"
    layout["xaxis"] |= {"range": [0, 100], "ticksuffix": " %"}
    layout["yaxis"] |= {"range": [0, 100]}
    return curves.made("Reliability, last evaluation", figure.update_layout(**layout))


def _shares(title: str, lines: Lines, keys: Mapping[str, str]) -> Chart | None:
    return curves.chart(
        title, [_line(name, lines, key, 100.0) for name, key in keys.items()]
    )


def _line(name: str, lines: Lines, key: str, scale: float) -> Line:
    own = [(x["step"], scale * x[key]) for x in lines if x.get(key) is not None]
    return Line(name, [step for step, _ in own], [value for _, value in own])


def _origin(lines: Lines, name: str) -> Line:
    key = "eval/detector_accuracy_per_generator"
    own = [(x["step"], x[key][name]) for x in lines if name in (x.get(key) or {})]
    return Line(name, [step for step, _ in own], [100 * value for _, value in own])


def _by_class(
    title: str, lines: Lines, key: str, class_names: Sequence[str]
) -> Chart | None:
    rows = [(x["step"], x[f"eval/{key}"]) for x in lines if x.get(f"eval/{key}")]
    if len(class_names) <= MOST_CLASSES:
        drawn = []
        for k, name in enumerate(class_names):
            own = [(step, row[k]) for step, row in rows if row[k] is not None]
            drawn.append(Line(name, [s for s, _ in own], [100 * v for _, v in own]))
        return curves.chart(title, drawn)
    known = [(s, [100 * v for v in row if v is not None]) for s, row in rows]
    known = [(step, row) for step, row in known if row]
    steps = [step for step, _ in known]
    return curves.chart(
        f"{title} ({len(class_names)} classes)",
        [
            Line(name, steps, [float(np.percentile(row, q)) for _, row in known])
            for name, q in QUANTILES.items()
        ],
    )


def _there(charts: Iterable[Chart | None]) -> list[Chart]:
    return [chart for chart in charts if chart]
