"""Draws the features of both networks as two maps of points (paper, Fig. 2).

    rsmatch tsne --workdir=DIR [--step=last|best|N] [--images=N]
        [--class=NAME ...] [--seed=N] [--out=FILE.png] [--trust_code] [--data_dir=DIR]
        [--synthetic_pool=DIR] [--labeled=PLACE] [--unlabeled=PLACE] [--test=PLACE]
        [--origins=FILE.csv]

The command takes --images unlabelled images (1500), balanced over real and synthetic
ones and over all classes as far as possible (of very many classes a random choice), or
only over each --class. --trust_code lets a network that is not of this package run its
code. FILE.png shows them by scikit-learn's t-SNE: colours are
classes (grey: unknown), dots real images, triangles synthetic ones, diamonds those of
unknown origin; FILE.dark.png, beside it, is for dark pages. FILE.json has the points,
and for each network how well a linear probe separates real from synthetic in its
features (balanced accuracy, 0.5 = not at all), and how far a class's real and synthetic
centroids lie apart (in units of the distance between classes), both over the images of
known origin. FILE is DIR/tsne.png by default. The last six flags name the places of
data that have moved.
Exit codes: 0 done, 1 it failed, 2 the request was wrong.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rsmatch_jax import progress, terminal
from rsmatch_jax.analysis import choice, features, output, scatter
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.deploy import frozen, saved
from rsmatch_jax.errors import RequestError
from rsmatch_jax.terminal import Parser, say

FEWEST, MOST = 10, 20_000
IMAGES = 1500
LEAST = 5  # of a class and origin, below which some classes are left out
LAST_SEED = 2**32 - 1  # of scikit-learn
TITLES = {
    "images": "images of known origin",
    "synthetic": "  synthetic ones",
    "probe_balanced_accuracy": "linear probe, real or synthetic",
    "centroid_distance": "real to synthetic centroid of a class",
}
MISSING = {
    "probe_balanced_accuracy": "too few images of an origin",
    "centroid_distance": "it takes two classes, and both origins of one",
}


def describe(
    chosen: choice.Chosen, embedded: Mapping[str, features.Embedded]
) -> dict[str, Any]:
    """Returns images and points as JSON-ready columns, rows in the same order."""
    content: dict[str, Any] = {
        "indices": chosen.indices.tolist(),
        "labels": chosen.labels.tolist(),
        "synthetic": [o and o != arrays.REAL_ORIGIN for o in chosen.origins],
    }
    for part, panel in embedded.items():
        points = [[round(x, 3) for x in row] for row in panel.points.tolist()]
        content[part] = {**panel.figures, "points": points}
    return content


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 failed, 2 the request was wrong."""
    parser = Parser("tsne", __doc__)
    saved.add_flags(parser, data=True)
    parser.add_argument("--images", metavar="N", type=int, default=IMAGES)
    parser.add_argument("--class", metavar="NAME", dest="classes", action="append")
    parser.add_argument("--seed", metavar="N", type=int, default=0)
    parser.add_argument("--out", metavar="FILE.png")
    return terminal.run_command(parser, argv, _run, "the same command starts over")


def _run(args: argparse.Namespace):
    for flag, low, high in (("images", FEWEST, MOST), ("seed", 0, LAST_SEED)):
        value = getattr(args, flag)
        if not low <= value <= high:
            raise RequestError(
                f"--{flag}={value}: it must lie between {low} and {high}"
            )
    run, out = output.open_run(args, "tsne.png")
    names, classes = run.class_names, None
    if args.classes is not None:
        classes = [choice.label(name, names) for name in args.classes]
    task = saved.load_task(run, saved.places(args))
    indices = choice.balanced(
        task, "unlabelled", args.images, args.seed, classes, least=LEAST
    )
    if len(indices) < FEWEST:
        raise RequestError(
            f"there are {len(indices)} unlabelled images of these classes, too few for "
            f"a map; it takes {FEWEST}"
        )
    chosen = choice.of_set(task, "unlabelled", indices)
    model = frozen.Model(run)
    say(f"t-SNE of {len(indices)} images, network by network: {', '.join(model.parts)}")
    truth = chosen.labels, chosen.synthetic, args.seed, chosen.origin_known
    embedded = {}
    for part in model.parts:
        with progress.busy(f"computing the {part}'s features"):
            of_part = model.features(chosen.images, part)
        with progress.Progress(
            f"t-SNE of the {part}", "iterations", features.ITERATIONS, last_line=False
        ) as iterations:
            embedded[part] = features.embed(of_part, *truth, iterations.advance)
    title = f"t-SNE of unlabelled images of {task.name} at step {run.step}"
    output.write(
        out,
        lambda theme: scatter.draw(embedded, chosen, names, title, theme=theme),
        {"step": run.step, "seed": args.seed, **describe(chosen, embedded)},
    )
    if "detector" not in embedded:
        say(f"{run.exp.config.method.name} has no detector: the classifier alone")
    for part, panel in embedded.items():
        say(part)
        for key, figure_title in TITLES.items():
            value = panel.figures[key]
            text = f"{value:.4f}" if isinstance(value, float) else str(value)
            if value is None:
                text = f"none: {MISSING[key]}"
            say(f"  {figure_title:<40}{text}")
    say(f"written: {out}")


if __name__ == "__main__":
    sys.exit(main())
