"""One run's section of the page, ready for its template."""

import base64
import io
import os
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from rsmatch_jax import contact_sheet, files, terminal
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.errors import RequestError
from rsmatch_jax.metrics import mistakes, names, scores
from rsmatch_jax.report import run_curves, text
from rsmatch_jax.report.collect import Run
from rsmatch_jax.runs import workdir

PAIRS = 10
CONFUSED = "Most confused pairs"
# Titles of what result.json has beside its shares.
OTHER_TITLES = {
    "status": "status",
    "steps": "steps",
    "best_step": "best step",
    "seed": "seed",
    "images_per_second": "images a second",
    "fingerprint": "fingerprint of the state",
}


class Picture(NamedTuple):
    """A picture in a run's folder; command: of `rsmatch`, that draws it."""

    title: str
    legend: str
    command: str | None = None


GRADCAM, TSNE = "gradcam.png", "tsne.png"
PICTURES = {
    workdir.QUEUE_PICTURE: Picture(
        "What the queue holds",
        "The images that the detector learns as synthetic, a row per class. The frames "
        "tell the true origin, as the legend says; a real image is a mistake.",
    ),
    GRADCAM: Picture(
        "What the networks look at",
        "Grad-CAM++: beside each image is what speaks for the class that is named "
        "above, in the classifier, and what speaks for synthetic, in the detector. "
        "Behind the name is its probability; a mistake is bold and coloured. Each map "
        "has a separate scale, from nothing to its highest value: an even map says "
        "that all parts speak alike.",
        "see",
    ),
    TSNE: Picture(
        "Features of unlabelled images",
        "t-SNE of each network's features: images lie close together if the network "
        "sees them alike. A colour and a name are a class, a dot is a real image, a "
        "triangle a synthetic one. The table says how well a linear probe of these "
        "features separates real from synthetic (50 % is chance), and how far the real "
        "centroid of a class lies from its synthetic one (1 is as far as from the "
        "centroid of another class).",
        "tsne",
    ),
}


def section(run: Run, elsewhere: Collection[str] = ()) -> dict[str, Any]:
    """Returns what `run.html.jinja` shows; RequestError if a file is broken.

    elsewhere: keys of metrics.jsonl whose curves the page has already.
    """
    result = workdir.read_result(run.folder) or {}
    lines = workdir.read_metrics(run.folder)
    confusion = _confusion(os.path.join(run.folder, workdir.CONFUSION_FILE))
    classes = _class_names(run.folder, confusion)
    worst = mistakes.read(os.path.join(run.folder, workdir.MISTAKES_FILE))
    groups = {
        "Classifier": run_curves.of_classifier(lines, elsewhere),
        "Detector and queue": run_curves.of_detector(lines, classes, elsewhere),
        "Losses and gradients": run_curves.of_losses(lines),
    }
    pairs = [
        (classes[truth], classes[predicted], f"{count} of {total}")
        for truth, predicted, count, total in (
            [] if confusion is None else scores.most_confused(confusion, PAIRS)
        )
    ]
    drawn, missing = [], []
    for name, picture in PICTURES.items():
        if os.path.exists(os.path.join(run.folder, name)):
            drawn.append(_drawn(run, name))
        elif picture.command:
            missing.append((picture.title, command(name, run.folder)))
    return {
        "method": f"{run.method} on {run.dataset}, seed {run.seed}",
        "folder": run.folder,
        "summary": _summary(run),
        "warnings": result.get("warnings") or [],
        "known": names.known_line(result.get("known")),
        "figures": list(_figures(result)),
        "groups": [
            (title, [chart for chart in group if chart])
            for title, group in groups.items()
            if any(group)
        ],
        "classes": confusion is not None and _classes(confusion, classes, lines),
        "pairs": pairs,
        "tiles": [] if worst is None else _tiles(worst, classes),
        "pictures": drawn,
        "missing": missing,
        "config": sorted(workdir.flat(run.config).items()),
    }


def _summary(run: Run) -> str:
    """The run in a sentence."""
    accuracy, duration = run.figures["last"], terminal.duration(run.seconds)
    sentence = f"{run.status.capitalize()} after {run.steps:,} steps in {duration}"
    if accuracy is not None:
        sentence += f", test accuracy {_percent(accuracy)} %"
    return f"{sentence}."


def command(name: str, folder: str) -> str:
    """Returns the command that draws one of PICTURES into a run's folder."""
    return f"rsmatch {PICTURES[name].command} --workdir={shlex.quote(folder)}"


def facts(path: str) -> Mapping[str, Any]:
    """Returns the JSON beside a picture; its "step" is that of the checkpoint."""
    return files.read_json(os.path.splitext(path)[0] + ".json") or {}


def outdated(run: Run, content: Mapping[str, Any], made: str) -> str:
    """Returns a sentence if what another command made is not of the last step."""
    step = content.get("step")
    at_the_end = step in (None, run.steps)
    return "" if at_the_end else f"{made} at step {step}, not the last one."


def embedded(path: str) -> dict[str, Any]:
    """Returns a picture, its dark twin (None without one) and its width in pixels.
    Raises RequestError if it cannot be read."""
    twin = contact_sheet.dark_twin(path)
    try:
        with Image.open(path) as picture:
            width = picture.width
        dark = _as_base64(twin) if os.path.exists(twin) else None
        return {"data": _as_base64(path), "dark": dark, "width": width}
    except OSError as e:
        raise RequestError(f"{path} cannot be read ({e}); move it away") from None


def _as_base64(path: str) -> str:
    with open(path, "rb") as f:
        return base64.b64encode(f.read()).decode()


def _confusion(path: str) -> np.ndarray | None:
    """int64 [K, K], row = truth."""
    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        raise RequestError(
            f"{path} cannot be read: {e}. Move it away: the next evaluation makes it"
        ) from None


def _class_names(folder: str, confusion: np.ndarray | None) -> Sequence[str]:
    """The names of the classes, or their numbers for a run of an earlier version."""
    path = os.path.join(folder, workdir.DATA_FILE)
    if not os.path.exists(path):
        return [str(k) for k in range(0 if confusion is None else len(confusion))]
    try:
        return [str(name) for name in workdir.read_data(folder)["class_names"]]
    except (KeyError, TypeError) as e:
        raise RequestError(
            f"{path} cannot be read ({e!r}); restore it, or move it away"
        ) from None


def _figures(result: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(key, title, value as text)."""
    values = {**result, **workdir.flat({"test": result["test"]})}
    for key, title in {**names.RESULT_TITLES, **OTHER_TITLES}.items():
        value = values.get(key)
        if value is None:
            continue
        if key in names.RESULT_TITLES:
            value = f"{100 * value:.2f} %"
        elif isinstance(value, float):
            value = f"{value:,.0f}"
        yield key, title, str(value)
    yield "seconds", "time", terminal.duration(result["seconds"])


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f}"


def _classes(
    confusion: np.ndarray, classes: Sequence[str], lines: run_curves.Lines
) -> tuple[list[str], list[list[str]]]:
    """(head, lines) of the last evaluation, without what the run has not."""
    last = next((x for x in reversed(lines) if "eval/test_accuracy" in x), {})
    none = [None] * len(classes)
    detector = last.get("eval/detector_accuracy_per_class") or none
    purity = last.get("eval/queue_purity_per_class") or none
    recall = [
        row[k] / row.sum() if row.any() else None for k, row in enumerate(confusion)
    ]
    columns = [[_percent(x) for x in column] for column in (recall, detector, purity)]
    head = ("class", "recall, %", "detector accuracy, %", "queue purity, %")
    return text.without_empty(head, list(zip(classes, *columns, strict=True)))


def _tiles(
    worst: mistakes.Mistakes, classes: Sequence[str]
) -> list[tuple[str, list[dict[str, str]]]]:
    """(title, tiles) of each kind of mistakes."""
    detector = worst.of == mistakes.DETECTOR
    real = worst.origin == arrays.REAL_ORIGIN
    groups = {
        "Real images that the detector takes for synthetic": detector & real,
        "Synthetic images that the detector takes for real": detector & ~real,
        "Test images of the most confused pairs": ~detector,
    }
    return [
        (title, [_tile(worst, int(i), classes) for i in np.flatnonzero(group)])
        for title, group in groups.items()
        if group.any()
    ]


def _tile(m: mistakes.Mistakes, i: int, classes: Sequence[str]) -> dict[str, str]:
    truth, score = "unknown class", f"{100 * m.score[i]:.1f} %"
    if m.labels[i] >= 0:
        truth = classes[m.labels[i]]
    if m.of[i] == mistakes.DETECTOR:
        where = f"unlabelled image {m.index[i]}, {m.origin[i]}"
        caption = f"{truth}: {score} synthetic"
    else:
        where = f"test image {m.index[i]}"
        caption = f"{truth} taken for {classes[m.predicted[i]]}, {score} sure"
    file = io.BytesIO()
    Image.fromarray(m.images[i]).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    return {"caption": caption, "where": where, "data": data}


def _drawn(run: Run, name: str) -> dict[str, Any]:
    path = os.path.join(run.folder, name)
    title, legend, drawn_by = PICTURES[name]
    content = facts(path) if drawn_by else {}
    return {
        "title": title,
        "legend": f"{legend} {outdated(run, content, 'Drawn')}".rstrip(),
        **embedded(path),
        "features": list(_features(content)) if name == TSNE else [],
    }


def _features(content: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(network, probe, distance) from the file of the t-SNE command."""
    for part in ("classifier", "detector"):
        figures = content.get(part)
        if isinstance(figures, Mapping):
            probe = _percent(figures.get("probe_balanced_accuracy"))
            distance = figures.get("centroid_distance")
            yield part, probe, "" if distance is None else f"{distance:.3f}"
