"""Features of both networks as two maps of points (paper, Fig. 2).

    python -m rsmatch_jax.analysis.tsne --workdir=DIR [--step=last|best|N] [--images=N]
        [--seed=N] [--out=FILE.png] [--data_dir=DIR] [--synthetic_pool=DIR]

Unlabelled images, as many real as synthetic ones and all classes alike, coloured by
class, dots real, crosses synthetic. Beside the picture FILE.json: how well a linear
probe tells real from synthetic in the features, and how far a class's real and
synthetic images lie apart. FILE is DIR/tsne.png unless given.
Exit codes: 0 done, 1 it failed, 2 the request was wrong.
"""

import argparse
import os
import sys
from collections.abc import Mapping

import numpy as np

from rsmatch_jax import inference, logbook, saved, workdir
from rsmatch_jax.analysis import choice, features
from rsmatch_jax.errors import RequestError, exit_code
from rsmatch_jax.terminal import Parser, say

FEWEST, MOST = 10, 20_000
IMAGES = 1500
TITLES = {
    "images": "images",
    "synthetic": "  of them synthetic",
    "probe_balanced_accuracy": "linear probe, real or synthetic",
    "centroid_distance": "real to synthetic centroid of a class",
}


def embed(
    model: inference.Model, chosen: choice.Chosen, seed: int = 0
) -> dict[str, features.Embedded]:
    """{classifier, and where there is one detector: its map and figures}."""
    return {
        part: features.embed(
            model.features(chosen.images, part), chosen.labels, chosen.synthetic, seed
        )
        for part in model.parts
    }


def draw(
    path: str, found: Mapping[str, features.Embedded], chosen: choice.Chosen, names
):
    """Writes the picture: one panel a network."""
    from matplotlib.figure import Figure  # lazy: half a second

    figure = Figure(figsize=(6.4 * len(found), 6.6), dpi=100)
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (part, embedded) in zip(panels, found.items(), strict=True):
        for label in range(len(names)):
            for synthetic, marker in ((False, "o"), (True, "x")):
                own = (chosen.labels == label) & (chosen.synthetic == synthetic)
                axes.scatter(
                    *embedded.points[own].T,
                    s=10,
                    marker=marker,
                    linewidths=0 if marker == "o" else 0.8,
                    color=_colour(label, len(names)),
                    label=names[label] if not synthetic else None,
                )
        probe = embedded.figures["probe_balanced_accuracy"]
        told = "" if probe is None else f": a linear probe tells origins by {probe:.3f}"
        axes.set_title(f"{part}{told}", fontsize=10, loc="left")
        axes.set_xticks([])
        axes.set_yticks([])
    if len(names) <= 20:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="lower center", ncols=10, fontsize=8, frameon=False
        )
    figure.suptitle("dots: real, crosses: synthetic", fontsize=9, x=0.01, ha="left")
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path)


def _colour(label: int, count: int):
    from matplotlib import colormaps

    return colormaps["tab10"](label) if count <= 10 else colormaps["hsv"](label / count)


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 the request was wrong."""
    parser = Parser(
        prog="python -m rsmatch_jax.analysis.tsne",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--workdir", metavar="DIR", required=True)
    parser.add_argument("--step", metavar="last|best|N", default="last")
    parser.add_argument("--images", metavar="N", type=int, default=IMAGES)
    parser.add_argument("--seed", metavar="N", type=int, default=0)
    parser.add_argument("--out", metavar="FILE.png")
    parser.add_argument("--data_dir", metavar="DIR")
    parser.add_argument("--synthetic_pool", metavar="DIR")

    def command():
        args = parser.parse_args(argv)
        if not FEWEST <= args.images <= MOST:
            raise RequestError(
                f"--images={args.images}: it must lie between {FEWEST} and {MOST}"
            )
        out = args.out or os.path.join(args.workdir, "tsne.png")
        run = saved.load(args.workdir, args.step)
        workdir.check_out(out, args.workdir, ".png")
        task = saved.load_task(run, args.data_dir, args.synthetic_pool)
        chosen = choice.of_set(
            task, "unlabelled", choice.balanced(task, args.images, args.seed)
        )
        found = embed(inference.Model(run), chosen, args.seed)
        draw(out, found, chosen, run.class_names)
        figures = {part: dict(embedded.figures) for part, embedded in found.items()}
        logbook.write_json(
            f"{out.removesuffix('.png')}.json",
            {"step": run.step, "seed": args.seed, **figures},
        )
        for part, values in figures.items():
            say(part)
            for key, title in TITLES.items():
                if values[key] is not None:
                    say(f"  {title:<40}{np.round(values[key], 4)}")
        say(f"written: {out}")

    return exit_code(command, "the same command starts over")


if __name__ == "__main__":
    sys.exit(main())
