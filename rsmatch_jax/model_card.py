"""What an exported model is and where it comes from, as JSON and as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from rsmatch_jax import __version__, markdown
from rsmatch_jax.data import normalise
from rsmatch_jax.saved import Saved

# Figures of result.json that say what the classifier is worth.
FIGURES = {
    "test_accuracy": "test accuracy, last step",
    "test_accuracy_best": "test accuracy, best evaluation",
    "test_accuracy_median20": "test accuracy, median of the last 20",
}


def card(
    run: Saved,
    *,
    size: int,
    digest: str,
    platforms: Sequence[str],
    result: Mapping[str, Any],
) -> dict[str, Any]:
    """JSON-ready. size, digest: bytes and SHA-256 of the file. result: result.json."""
    c, dims = run.exp.config, run.exp.dims
    side = dims.image_shape[0]
    mean, std = normalise.normalisation(run.dataset)
    figures = {key: result.get(key) for key in FIGURES}
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
            "unlabelled_images": dims.num_unlabeled,
            "synthetic_ratio": c.data.synthetic_ratio,
            "generators": list(run.generator_names),
        },
        "figures": {**figures, "of_the_run": result.get("status")},
        "versions": {"rsmatch_jax": __version__, "jax": jax.__version__},
    }


def text(made: Mapping[str, Any], file: str) -> str:
    """The same for people, as Markdown. file: its name."""
    training, network = made["training"], made["network"]
    side = made["input"]["shape"][1]
    figures = [
        [title, f"{100 * made['figures'][key]:.2f} %"]
        for key, title in FIGURES.items()
        if made["figures"].get(key) is not None
    ]
    synthetic = (
        f", {100 * training['synthetic_ratio']:g} % of them synthetic "
        f"({', '.join(training['generators'])})"
        if training["generators"]
        else ""
    )
    paragraphs = [
        f"# {file}",
        f"A {network['encoder']} that tells {len(made['classes'])} classes of "
        f"{made['dataset']} apart, trained by {training['method']} on "
        f"{training['labelled_images']} labelled and {training['unlabelled_images']} "
        f"unlabelled images{synthetic}; step {training['step']} of "
        f"{training['steps']}, seed {training['seed']}.",
        f"In: {made['input']['meaning']}, uint8; the normalisation is inside. Out: "
        f"{made['output']['meaning']}, float32.",
        "```python\n"
        "import jax, numpy as np\n"
        f'model = jax.export.deserialize(bytearray(open("{file}", "rb").read()))\n'
        f"model.call(np.zeros((5, {side}, {side}, 3), np.uint8))\n"
        "```",
        "Classes: " + ", ".join(f"{i} {n}" for i, n in enumerate(made["classes"])),
        *([markdown.table(["figure", "value"], figures)] if figures else []),
        "Only the encoder and the head for real images are in the file: no detector, "
        "no queue, no head for synthetic images. The accuracies are those of the run "
        "on the dataset's test images; of other images they say nothing.",
        f"Made by rsmatch_jax {made['versions']['rsmatch_jax']} and jax "
        f"{made['versions']['jax']} for {', '.join(made['file']['platforms'])}; "
        f"SHA-256 `{made['file']['sha256']}`.",
    ]
    return "\n\n".join(paragraphs) + "\n"
