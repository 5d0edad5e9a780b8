"""What an exported model is and where it comes from, as JSON and as Markdown."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from rsmatch_jax import terminal
from rsmatch_jax.data import normalise
from rsmatch_jax.data.images import image_source
from rsmatch_jax.data.stores import encoded
from rsmatch_jax.deploy.saved import Saved
from rsmatch_jax.runs import workdir
from rsmatch_jax.version import __version__

# This checkpoint's from metrics.jsonl, then the whole run's from result.json.
FIGURES = {
    "test_accuracy": "test accuracy of this checkpoint",
    "validation_accuracy": "validation accuracy of this checkpoint",
    "test_accuracy_best": "test accuracy of the run's best evaluation",
    "test_accuracy_median20": "test accuracy, median of the run's last 20 evaluations",
}
LISTED = 20  # classes in the Markdown; the JSON has all


def card(
    run: Saved, *, size: int, digest: str, platforms: Sequence[str]
) -> dict[str, Any]:
    """JSON-ready. size, digest: bytes and SHA-256 of the file. Figures that the workdir
    does not hold are None."""
    c, dims = run.exp.config, run.exp.dims
    side = dims.image_shape[0]
    mean, std = normalise.normalisation(run.dataset)
    result = workdir.read_result(run.folder) or {}
    unlabelled = run.exp.method.uses_unlabeled
    generators = list(run.generator_names) if unlabelled else []
    measured = _evaluation(run.folder, run.step)
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
            "synthetic_ratio": c.data.synthetic_ratio if generators else 0.0,
            "generators": generators,
        },
        "figures": {
            key: measured.get(f"eval/{key}", result.get(key) if i > 1 else None)
            for i, key in enumerate(FIGURES)
        },
        "versions": {"rsmatch_jax": __version__, "jax": jax.__version__},
    }


def _other_sizes(config: Any, side: int) -> str:
    """How images of other sizes are to be brought to `side`."""
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


def _evaluation(folder: str, step: int) -> dict[str, Any]:
    """What metrics.jsonl says of the evaluation at a step, {} where there was none."""
    found: dict[str, Any] = {}
    try:
        with open(os.path.join(folder, workdir.METRICS_FILE), "rb") as f:
            for line in f:
                # A killed run may leave half a line.
                if b'"eval/test_accuracy"' in line and line.endswith(b"\n"):
                    metrics = json.loads(line)
                    found = metrics if metrics["step"] == step else found
    except (OSError, ValueError, KeyError):
        return {}  # a card without figures says less, and nothing wrong
    return found


def text(made: Mapping[str, Any], file: str) -> str:
    """The same for people, as Markdown. file: its name."""
    training, network, classes = made["training"], made["network"], made["classes"]
    side = made["input"]["shape"][1]
    synthetic = (
        f", {100 * training['synthetic_ratio']:g} % of the latter synthetic "
        f"({', '.join(training['generators'])})"
        if training["generators"]
        else ""
    )
    count = training["unlabelled_images"]
    unlabelled = f" and {count} unlabelled" if count else ""
    figures = [
        [title, f"{100 * made['figures'][key]:.2f} %"]
        for key, title in FIGURES.items()
        if made["figures"].get(key) is not None
    ]
    listed = [f"{i}: {name}" for i, name in enumerate(classes[:LISTED])]
    if len(classes) > LISTED:
        listed.append(f"and {len(classes) - LISTED} more, in `{file}.json`")
    paragraphs = [
        f"# {file}",
        f"A {network['encoder']} that tells {len(classes)} classes of "
        f"{made['dataset']} apart, trained by {training['method']} on "
        f"{training['labelled_images']} labelled{unlabelled} images{synthetic}. "
        f"Step {training['step']} of {training['steps']}, seed {training['seed']}, "
        f"{network['dtype']}, weights: {network['weights']}.",
        f"- In: {made['input']['meaning']}, uint8; the normalisation is inside.\n"
        f"- Images of other sizes: {made['input']['other_sizes']}.\n"
        f"- Out: {made['output']['meaning']}, float32.",
        "```python\n"
        "import jax\n"
        "import numpy as np\n\n"
        f'with open("{file}", "rb") as f:\n'
        "    model = jax.export.deserialize(bytearray(f.read()))\n"
        f"images = np.zeros((5, {side}, {side}, 3), np.uint8)\n"
        "probabilities = np.asarray(jax.jit(model.call)(images))\n"
        "```",
        "Classes: " + ", ".join(listed) + ".",
        *([terminal.table(["figure", "value"], figures)] if figures else []),
        "Only the encoder and the head for real images are in the file: no detector, "
        "no queue, no head for synthetic images. The accuracies are on the dataset's "
        "own images, and the best one is chosen on them where the run had no "
        "validation images; of other images they say nothing.",
        f"Made by rsmatch_jax {made['versions']['rsmatch_jax']} and jax "
        f"{made['versions']['jax']} for {', '.join(made['file']['platforms'])}; "
        f"{made['file']['bytes']} bytes, SHA-256\n`{made['file']['sha256']}`.",
    ]
    return "\n\n".join(paragraphs) + "\n"
