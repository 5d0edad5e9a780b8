"""The card of an exported model: what it is and where it comes from."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from rsmatch_jax import terminal
from rsmatch_jax.data import normalise, sources
from rsmatch_jax.data.images import image_source
from rsmatch_jax.data.stores import encoded
from rsmatch_jax.deploy.saved import Saved
from rsmatch_jax.errors import RequestError
from rsmatch_jax.metrics import names
from rsmatch_jax.runs import workdir
from rsmatch_jax.version import __version__

CHECKPOINT_FIGURES = ("test_accuracy", "validation_accuracy")
RUN_FIGURES = (names.BEST, names.MEDIAN)
CLASSES = 20  # in the Markdown; the JSON lists all


def card(
    run: Saved, *, size: int, digest: str, platforms: Sequence[str]
) -> dict[str, Any]:
    """Returns the JSON-ready card. A figure that the workdir lacks, or that is not of
    the exported weights and statistics, is None. size, digest: bytes and SHA-256 of the
    exported file."""
    c, dims = run.exp.config, run.exp.dims
    side = dims.image_shape[0]
    mean, std = normalise.normalisation(run.dataset)
    unlabelled = run.exp.method.uses_unlabeled
    generators = list(run.generator_names) if unlabelled else []
    result = workdir.read_result(run.folder) or {}
    return {
        "file": {
            "format": "jax.export",
            "bytes": size,
            "sha256": digest,
            "platforms": list(platforms),
        },
        "input": {
            "shape": ["b", side, side, 3],
            "dtype": "uint8",
            "meaning": f"RGB images of {side} x {side} pixels, any number b >= 1",
            "other_sizes": _other_sizes(c, side),
            "normalised_inside_by": {"mean": list(mean), "std": list(std)},
        },
        "output": {
            "shape": ["b", dims.num_classes],
            "dtype": "float32",
            "meaning": "probability of each class, in the order of `classes`",
        },
        "dataset": run.dataset,
        "classes": list(run.class_names),
        "network": {
            "encoder": c.model.classifier,
            "head": "real",
            "weights": f"moving average, decay {c.optim.ema_decay}",
            "dtype": c.model.dtype,
        },
        "training": {
            "method": c.method.name,
            "step": run.step,
            "steps": c.train.num_steps,
            "seed": c.seed,
            "labelled_images": dims.num_labeled,
            "labels_per_class": c.data.labels_per_class,
            "unlabelled_images": dims.num_unlabeled if unlabelled else 0,
            "synthetic_ratio": _synthetic_ratio(run, result) if unlabelled else 0.0,
            "generators": generators,
        },
        "figures": _figures(run, result),
        "versions": {"rsmatch_jax": __version__, "jax": jax.__version__},
    }


def _synthetic_ratio(run: Saved, result: Mapping[str, Any]) -> float | None:
    """The synthetic share of the unlabelled images; None if nobody knows it. result:
    the content of result.json."""
    data, known = run.exp.config.data, result.get("known")
    of_user = data.name == sources.OWN  # the config does not know the share
    if known["origins"] < known["images"] if known else of_user:
        return None
    if not run.generator_names:
        return 0.0
    return None if of_user else data.synthetic_ratio


def _other_sizes(config: Any, side: int) -> str:
    """How a user brings images of other sizes to `side`."""
    if config.data.image_size is not None:
        return (
            f"as in training: the central square of {encoded.CENTRE:g} times the "
            f"shorter side, resized to {side} x {side} by an antialiased bilinear "
            "kernel; images of any size, also of this one"
        )
    return (
        f"crop the central square and resize it to {side} x {side} by "
        f"{image_source.KERNEL}"
    )


def _figures(run: Saved, result: Mapping[str, Any]) -> dict[str, float | None]:
    if run.exp.config.eval.real_bn:  # of other BatchNorm statistics than the file's
        return dict.fromkeys(CHECKPOINT_FIGURES + RUN_FIGURES)
    metrics: dict[str, Any] = {}
    with contextlib.suppress(RequestError):  # without these figures it is still right
        for line in workdir.read_metrics(run.folder):
            if line.get("step") == run.step and "eval/test_accuracy" in line:
                metrics = line
    return {key: metrics.get(f"eval/{key}") for key in CHECKPOINT_FIGURES} | {
        key: result.get(key) for key in RUN_FIGURES
    }


def text(card: Mapping[str, Any], file: str) -> str:
    """Returns the card as Markdown for the exported file of this name."""
    training, network, classes = card["training"], card["network"], card["classes"]
    side = card["input"]["shape"][1]
    synthetic, figures = "", []
    if training["synthetic_ratio"] is None:
        synthetic = ", an unknown share of the latter synthetic"
    elif training["generators"]:
        synthetic = (
            f", {100 * training['synthetic_ratio']:g} % of the latter synthetic "
            f"({', '.join(training['generators'])})"
        )
    count = training["unlabelled_images"]
    unlabelled = f" and {count} unlabelled" if count else ""
    titles = {k: f"{names.TITLES[k]}, this checkpoint" for k in CHECKPOINT_FIGURES}
    titles |= {key: names.RESULT_TITLES[key] for key in RUN_FIGURES}
    for key, title in titles.items():
        if card["figures"][key] is not None:
            figures.append([title, f"{100 * card['figures'][key]:.2f} %"])
    labels = [f"{i}: {name}" for i, name in enumerate(classes[:CLASSES])]
    if len(classes) > CLASSES:
        labels.append(f"and {len(classes) - CLASSES} more, in `{file}.json`")
    paragraphs = [
        f"# {file}",
        f"A {network['encoder']} that tells {len(classes)} classes of "
        f"{card['dataset']} apart, trained by {training['method']} on "
        f"{training['labelled_images']} labelled{unlabelled} images{synthetic}. "
        f"Step {training['step']} of {training['steps']}, seed {training['seed']}, "
        f"{network['dtype']}, weights: {network['weights']}.",
        f"- In: {card['input']['meaning']}, uint8; the normalisation is inside.\n"
        f"- Images of other sizes: {card['input']['other_sizes']}.\n"
        f"- Out: {card['output']['meaning']}, float32.",
        "```python\n"
        "import jax\n"
        "import numpy as np\n\n"
        f'with open("{file}", "rb") as f:\n'
        "    model = jax.export.deserialize(bytearray(f.read()))\n"
        f"images = np.zeros((5, {side}, {side}, 3), np.uint8)\n"
        "probabilities = np.asarray(jax.jit(model.call)(images))\n"
        "```",
        "Classes: " + ", ".join(labels) + ".",
        *([terminal.table(["figure", "value"], figures)] if figures else []),
        "The file holds only the encoder and the head for real images: no detector, "
        "no queue, no head for synthetic images. The accuracies are those on the "
        "dataset's own images, and say nothing about others. The best evaluation is "
        "chosen on the test set if the run had no validation images.",
        f"Made by rsmatch_jax {card['versions']['rsmatch_jax']} and jax "
        f"{card['versions']['jax']} for {', '.join(card['file']['platforms'])}; "
        f"{card['file']['bytes']} bytes, SHA-256\n`{card['file']['sha256']}`.",
    ]
    return "\n\n".join(paragraphs) + "\n"
