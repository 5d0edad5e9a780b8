"""One run's part of the page, ready for its template."""

import base64
import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from rsmatch_jax import terminal
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.metrics import mistakes, scores
from rsmatch_jax.report import run_curves
from rsmatch_jax.report.detail import COMMANDS, GRADCAM, PICTURES, QUEUE, TSNE, Detail
from rsmatch_jax.runs import workdir

# Keys of result.json (dots lead into it), their titles; shares are shown in percent.
SHARES = {
    "test_accuracy": "test accuracy, last",
    "test_accuracy_best": "test accuracy, best",
    "test_accuracy_median20": "test accuracy, median of the last 20",
    "test.top5": "top-5",
    "test.macro_precision": "macro precision",
    "test.macro_recall": "macro recall",
    "test.macro_f1": "macro F1",
    "test.ece": "calibration error (ECE)",
    "detector_accuracy": "detector accuracy",
    "detector_balanced_accuracy": "detector balanced accuracy",
    "detector_auroc": "detector AUROC",
    "queue_purity": "queue purity",
    "queue_fill": "queue fill",
    "pseudo_label_accuracy": "pseudo-label accuracy",
    "utilisation": "utilisation in training",
}
PLAIN = {
    "status": "status",
    "steps": "steps",
    "best_step": "best step",
    "seed": "seed",
    "images_per_second": "images a second",
    "fingerprint": "fingerprint of the state",
}
PAIRS = 10
LEGENDS = {
    QUEUE: "A row per class; green frames are synthetic images, red ones real images "
    "taken for synthetic.",
    GRADCAM: "Grad-CAM++: what speaks for the class named above it in the classifier, "
    "and for synthetic in the detector.",
    TSNE: "t-SNE of what each network makes of real and synthetic images.",
}


def section(detail: Detail) -> dict[str, Any]:
    """What `run.html.jinja` shows."""
    run, result = detail.run, detail.result
    return {
        "title": f"{run.method} on {run.dataset}, seed {run.seed}",
        "folder": run.folder,
        "warnings": result.get("warnings") or [],
        "figures": list(_figures(result)),
        "groups": [
            (title, charts)
            for title, charts in (
                ("Classifier", run_curves.of_classifier(detail.lines)),
                (
                    "Detector and queue",
                    run_curves.of_detector(detail.lines, detail.class_names),
                ),
                ("Losses", run_curves.of_losses(detail.lines)),
            )
            if charts
        ],
        "classes": _classes(detail),
        "pairs": _pairs(detail),
        "tiles": _tiles(detail),
        "pictures": [_picture(detail, name) for name in detail.pictures],
        "to_make": [
            {"title": PICTURES[name], "command": command.format(folder=run.folder)}
            for name, command in COMMANDS.items()
            if name not in detail.pictures
        ],
        "config": sorted(workdir.flat(run.config).items()),
    }


def shown(key: str, value: Any) -> str:
    """A figure of result.json as the page has it."""
    if key in SHARES:
        return f"{100 * value:.2f} %"
    if isinstance(value, float):
        return f"{value:,.0f}"
    return str(value)


def _figures(result: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    for key, title in {**SHARES, **PLAIN}.items():
        value: Any = result
        for part in key.split("."):
            value = (value or {}).get(part)
        if value is not None:
            yield {"key": key, "title": title, "text": shown(key, value)}
    yield {
        "key": "seconds",
        "title": "time",
        "text": terminal.duration(result["seconds"]),
    }


def _classes(detail: Detail) -> list[dict[str, str]]:
    """A line a class: recall on the test set, detector and queue of the last
    evaluation."""
    if detail.confusion is None:
        return []
    last: Mapping[str, Any] = next(
        (x for x in reversed(detail.lines) if "eval/test_accuracy" in x), {}
    )
    none = [None] * len(detail.class_names)
    totals = detail.confusion.sum(axis=1)
    recall = [
        right / total if total else None
        for right, total in zip(np.diag(detail.confusion), totals, strict=True)
    ]
    columns = {
        "recall": recall,
        "detector": last.get("eval/detector_accuracy_per_class") or none,
        "purity": last.get("eval/queue_purity_per_class") or none,
    }
    return [
        {
            "name": name,
            **{
                column: "" if values[k] is None else f"{100 * values[k]:.2f}"
                for column, values in columns.items()
            },
        }
        for k, name in enumerate(detail.class_names)
    ]


def _pairs(detail: Detail) -> list[dict[str, Any]]:
    if detail.confusion is None:
        return []
    names = detail.class_names
    return [
        {"truth": names[truth], "said": names[said], "count": count, "of": total}
        for truth, said, count, total in scores.most_confused(detail.confusion, PAIRS)
    ]


def _tiles(detail: Detail) -> list[dict[str, Any]]:
    """Groups of images that the run is most wrong about."""
    m, names = detail.mistakes, detail.class_names
    if m is None:
        return []
    detector, real = m.of == mistakes.DETECTOR, m.origin == arrays.REAL_ORIGIN
    groups = {
        "Real images that the detector takes for synthetic": detector & real,
        "Synthetic images that the detector takes for real": detector & ~real,
        "Test images of the most confused pairs": ~detector,
    }
    return [
        {"title": title, "tiles": [_tile(m, i, names) for i in np.flatnonzero(own)]}
        for title, own in groups.items()
        if own.any()
    ]


def _tile(m: mistakes.Mistakes, i: int, names: tuple[str, ...]) -> dict[str, str]:
    truth, score = names[m.labels[i]], f"{m.score[i]:.3f}"
    if m.of[i] == mistakes.DETECTOR:
        where = f"unlabelled image {m.index[i]}, {m.origin[i]}"
        caption = f"{truth} · synthetic {score}"
    else:
        where = f"test image {m.index[i]}"
        caption = f"{truth} → {names[m.predicted[i]]} {score}"
    return {"caption": caption, "where": where, "data": _png(m.images[i])}


def _png(image: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _picture(detail: Detail, name: str) -> dict[str, Any]:
    picture = detail.pictures[name]
    step, last = picture.facts.get("step"), detail.result.get("steps")
    old = (
        f" Drawn at step {step}, not the last one." if step not in (None, last) else ""
    )
    return {
        "title": PICTURES[name],
        "legend": LEGENDS[name] + old,
        "data": base64.b64encode(picture.png).decode(),
        "features": list(_features(picture.facts)) if name == TSNE else [],
    }


def _features(facts: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """The figures of the t-SNE command, a line a network."""
    for part in ("classifier", "detector"):
        found = facts.get(part)
        if isinstance(found, Mapping):
            probe = found.get("probe_balanced_accuracy")
            distance = found.get("centroid_distance")
            yield {
                "part": part,
                "probe": "" if probe is None else f"{100 * probe:.2f}",
                "distance": "" if distance is None else f"{distance:.3f}",
            }
