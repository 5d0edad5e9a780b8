"""What the classifier and the detector look at: Grad-CAM++ over the images (Fig. 4b).

    python -m rsmatch_jax.analysis.see --workdir=DIR [IMAGE...] [--step=last|best|N]
        [--set=unlabelled|test] [--index=I,J,...] [--images=N] [--class=NAME]
        [--stage=NAME] [--out=FILE.png] [--data_dir=DIR] [--synthetic_pool=DIR]

IMAGE: files, folders and patterns, as of rsmatch_jax.predict. Without any, images of
the run's own data: those of --index, else --images of the set, real and synthetic ones
of all classes in turn. A row an image: the image, what speaks for its predicted class
(or --class), what speaks for "synthetic" in the detector. FILE is DIR/gradcam.png
unless given.
Exit codes: 0 done, 1 some images could not be read, 2 the request was wrong.
"""

import argparse
import os
import sys
from collections.abc import Mapping

import numpy as np

from rsmatch_jax import inference, saved, workdir
from rsmatch_jax.analysis import choice, gradcam
from rsmatch_jax.data import image_files
from rsmatch_jax.errors import RequestError, RunFailed, exit_code
from rsmatch_jax.terminal import Parser, say

IMAGES, MOST = 16, 200
SYNTHETIC = 1  # the detector's class


def maps(
    model: inference.Model,
    images: np.ndarray,
    label: int | None = None,
    stage: str | None = None,
) -> dict[str, gradcam.Maps]:
    """{classifier: for the predicted classes or for `label`, detector: for synthetic}
    of uint8 images [N, S, S, 3]."""
    wanted = None if label is None else np.full(len(images), label)
    found = {"classifier": gradcam.gradcam(model, images, wanted, stage=stage)}
    if "detector" in model.parts:
        synthetic = np.full(len(images), SYNTHETIC)
        found["detector"] = gradcam.gradcam(
            model, images, synthetic, part="detector", stage=stage
        )
    return found


def draw(
    path: str,
    chosen: choice.Chosen,
    found: Mapping[str, gradcam.Maps],
    names: tuple[str, ...],
    label: int | None = None,
):
    """Writes the picture: a row an image, columns image, classifier, detector."""
    from matplotlib.figure import Figure  # lazy: half a second

    rows, columns = len(chosen.images), 1 + len(found)
    figure = Figure(figsize=(2.1 * columns, 2.3 * rows), dpi=100)
    grid = figure.subplots(rows, columns, squeeze=False)
    for row, (image, axes) in enumerate(zip(chosen.images, grid, strict=True)):
        axes[0].imshow(image, interpolation="nearest")
        axes[0].set_title(_origin(chosen, row, names), fontsize=7, loc="left")
        for panel, (part, of_part) in zip(axes[1:], found.items(), strict=True):
            panel.imshow(image, interpolation="nearest")
            panel.imshow(of_part.maps[row], cmap="jet", alpha=0.45, vmin=0, vmax=1)
            p = of_part.probabilities[row]
            if part == "detector":
                said = f"synthetic {p[SYNTHETIC]:.3f}"
            else:
                shown = int(p.argmax()) if label is None else label
                said = f"{names[shown]} {p[shown]:.3f}"
            panel.set_title(said, fontsize=7, loc="left")
        for panel in axes:
            panel.set_axis_off()
    figure.tight_layout(pad=0.4)
    figure.savefig(path)


def _origin(chosen: choice.Chosen, row: int, names: tuple[str, ...]) -> str:
    parts = [chosen.names[row]]
    if chosen.labels[row] >= 0:
        generator = chosen.generators[row]
        parts.append(
            f"{names[chosen.labels[row]]}, "
            + (f"synthetic ({generator})" if generator else "real")
        )
    return "\n".join(parts)


def _from_disk(
    paths: list[str], size: int
) -> tuple[choice.Chosen, list[image_files.Loaded]]:
    """What could be read of the files, and what could not."""
    loaded = [image_files.load(path, size) for path in paths]
    good = [x for x in loaded if x.pixels is not None]
    if not good:
        raise RunFailed("no image could be read: " + _reasons(loaded))
    none = np.zeros(len(good), bool)
    chosen = choice.Chosen(
        images=np.stack([x.pixels for x in good]),
        names=tuple(os.path.basename(x.path) for x in good),
        labels=np.full(len(good), -1),
        synthetic=none,
        generators=("",) * len(good),
    )
    return chosen, [x for x in loaded if x.pixels is None]


def _reasons(loaded: list[image_files.Loaded]) -> str:
    return "; ".join(f"{x.path}: {x.reason}" for x in loaded)


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 some images could not be read, 2 the request was wrong."""
    parser = Parser(
        prog="python -m rsmatch_jax.analysis.see",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--workdir", metavar="DIR", required=True)
    parser.add_argument("--step", metavar="last|best|N", default="last")
    parser.add_argument("--set", metavar="NAME", default="unlabelled")
    parser.add_argument("--index", metavar="I,J,...", default="")
    parser.add_argument("--images", metavar="N", type=int, default=IMAGES)
    parser.add_argument("--class", metavar="NAME", dest="label")
    parser.add_argument("--stage", metavar="NAME")
    parser.add_argument("--out", metavar="FILE.png")
    parser.add_argument("--data_dir", metavar="DIR")
    parser.add_argument("--synthetic_pool", metavar="DIR")
    parser.add_argument("paths", metavar="IMAGE", nargs="*")

    def command():
        _run(parser.parse_args(argv))

    return exit_code(command, "the same command starts over")


def _run(args: argparse.Namespace):
    if not 1 <= args.images <= MOST:
        raise RequestError(f"--images={args.images}: it must lie between 1 and {MOST}")
    out = args.out or os.path.join(args.workdir, "gradcam.png")
    paths = image_files.find(args.paths) if args.paths else []
    if len(paths) > MOST:
        raise RequestError(
            f"{len(paths)} images are too many for one picture: at most {MOST}"
        )
    run = saved.load(args.workdir, args.step)
    workdir.check_out(out, args.workdir, ".png")
    names, label, unreadable = run.class_names, None, []
    if args.label is not None:
        if args.label not in names:
            raise RequestError(f"--class={args.label} is none of {', '.join(names)}")
        label = names.index(args.label)
    model = inference.Model(run, batch_size=min(inference.BATCH, 32))
    if paths:
        chosen, unreadable = _from_disk(paths, model.image_size)
    else:
        task = saved.load_task(run, args.data_dir, args.synthetic_pool)
        chosen = choice.of_set(task, args.set, _indices(args, task))
    found = maps(model, chosen.images, label, args.stage)
    draw(out, chosen, found, names, label)
    say(f"{len(chosen.images)} images by step {run.step} of {run.folder}: {out}")
    if unreadable:
        raise RunFailed(
            f"{len(unreadable)} images could not be read: {_reasons(unreadable)}"
        )


def _indices(args: argparse.Namespace, task) -> np.ndarray:
    if args.index:
        try:
            return np.asarray([int(i) for i in args.index.split(",")])
        except ValueError:
            raise RequestError(
                f"--index={args.index}: numbers with commas between, as 0,5,17"
            ) from None
    if args.set == "test":
        order = np.random.default_rng(0).permutation(len(task.test_images))
        return order[: args.images]
    return choice.balanced(task, args.images)


if __name__ == "__main__":
    sys.exit(main())
