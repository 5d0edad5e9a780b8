"""Features of both networks as two maps of points (paper, Fig. 2).

    python -m rsmatch_jax.analysis.tsne --workdir=DIR [--step=last|best|N] [--images=N]
        [--class=NAME ...] [--seed=N] [--out=FILE.png] [--data_dir=DIR]
        [--synthetic_pool=DIR]

--images unlabelled images (1500), as many real as synthetic ones and all classes alike
as far as there are any (of very many classes some, by chance), or only those of each
--class; drawn by t-SNE of scikit-learn,
coloured by class, dots real, triangles synthetic. Beside the picture FILE.json with the
points, and for each network how well a linear probe tells real from synthetic in its
features (balanced accuracy, 0.5 = not at all), and how far a class's real and synthetic
centroids lie apart (in units of the distance between classes). FILE is DIR/tsne.png
unless given. --data_dir and --synthetic_pool say where the data are now, if not where
the run had them.
Exit codes: 0 done, 1 it failed, 2 the request was wrong.
"""

import argparse
import os
import sys
from typing import Any

from rsmatch_jax.analysis import choice, features, output, scatter
from rsmatch_jax.deploy import frozen, saved
from rsmatch_jax.errors import RequestError, exit_code
from rsmatch_jax.runtime import compilation
from rsmatch_jax.terminal import Parser, say

FEWEST, MOST = 10, 20_000
IMAGES = 1500
LEAST = 5  # of a class and origin, where not all classes can be shown so
LAST_SEED = 2**32 - 1  # of scikit-learn
TITLES = {
    "images": "images",
    "synthetic": "  of them synthetic",
    "probe_balanced_accuracy": "linear probe, real or synthetic",
    "centroid_distance": "real to synthetic centroid of a class",
}
MISSING = {
    "probe_balanced_accuracy": "too few images of an origin",
    "centroid_distance": "it takes two classes, and both origins of one",
}


def embed(
    model: frozen.Model, chosen: choice.Chosen, seed: int = 0
) -> dict[str, features.Embedded]:
    """{classifier, and where there is one detector: its map and figures}."""
    return {
        part: features.embed(
            model.features(chosen.images, part), chosen.labels, chosen.synthetic, seed
        )
        for part in model.parts
    }


def describe(chosen: choice.Chosen, found: dict[str, features.Embedded]):
    """JSON-ready: indices in the unlabelled set, labels, synthetic, and of each network
    its figures and points, rows in the same order."""
    content: dict[str, Any] = {
        "indices": chosen.indices.tolist(),
        "labels": chosen.labels.tolist(),
        "synthetic": chosen.synthetic.tolist(),
    }
    for part, embedded in found.items():
        points = [[round(x, 3) for x in row] for row in embedded.points.tolist()]
        content[part] = {**embedded.figures, "points": points}
    return content


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 the request was wrong."""
    parser = Parser("analysis.tsne", __doc__)
    saved.add_flags(parser)
    saved.add_data_flags(parser)
    parser.add_argument("--images", metavar="N", type=int, default=IMAGES)
    parser.add_argument("--class", metavar="NAME", dest="classes", action="append")
    parser.add_argument("--seed", metavar="N", type=int, default=0)
    parser.add_argument("--out", metavar="FILE.png")

    def command():
        _run(parser.parse_args(argv))

    return exit_code(command, "the same command starts over")


def _run(args: argparse.Namespace):
    for flag, low, high in (("images", FEWEST, MOST), ("seed", 0, LAST_SEED)):
        value = getattr(args, flag)
        if not low <= value <= high:
            raise RequestError(
                f"--{flag}={value}: it must lie between {low} and {high}"
            )
    compilation.use_cache(None)
    run = saved.load(args.workdir, args.step)
    out = args.out or os.path.join(args.workdir, "tsne.png")
    output.check(out, args.workdir)
    names, classes = run.class_names, None
    if args.classes is not None:
        classes = [choice.label(name, names) for name in args.classes]
    task = saved.load_task(run, args.data_dir, args.synthetic_pool)
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
    found = embed(model, chosen, args.seed)
    title = f"t-SNE of unlabelled images of {task.name} at step {run.step}"
    output.write(
        out,
        scatter.draw(found, chosen, names, title),
        {"step": run.step, "seed": args.seed, **describe(chosen, found)},
    )
    if "detector" not in found:
        say(f"{run.exp.config.method.name} has no detector: the classifier alone")
    for part, embedded in found.items():
        say(part)
        for key, shown in TITLES.items():
            value = embedded.figures[key]
            if value is None:
                say(f"  {shown:<40}none: {MISSING[key]}")
            else:
                text = f"{value:.4f}" if isinstance(value, float) else value
                say(f"  {shown:<40}{text}")
    say(f"written: {out}")


if __name__ == "__main__":
    sys.exit(main())
