"""What the classifier and the detector look at: Grad-CAM++ over the images (Fig. 4b).

    python -m rsmatch_jax.analysis.explain --workdir=DIR [IMAGE...] [--step=last|best|N]
        [--set=unlabelled|test] [--index=I,J,...] [--images=N] [--class=NAME]
        [--stage=NAME] [--out=FILE.png] [--data_dir=DIR] [--synthetic_pool=DIR]

IMAGE: files, folders and patterns, as of rsmatch_jax.predict. Without any, images of
the run's own data: those of --index, else --images of the set (20), real and synthetic
ones of all classes in turn. Of each image: the image, what speaks for its predicted
class (or --class) in the classifier, what speaks for "synthetic" in the detector, with
probabilities; in bold what is wrong. --stage: of the networks, the last one unless
given; earlier ones see more finely, and less of the class. --data_dir and
--synthetic_pool say where the data are now, if not where the run had them.
FILE is DIR/gradcam.png unless given; beside it FILE.json: step, stages with their
height and width in positions, and of each image its path or index, truth, class,
probability and synthetic score.
Exit codes: 0 done, 1 some images could not be read, 2 the request was wrong.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rsmatch_jax.analysis import choice, gradcam, output, overlay
from rsmatch_jax.data.images import image_files, image_source
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.deploy import frozen, saved
from rsmatch_jax.errors import RequestError, RunFailed, exit_code
from rsmatch_jax.runtime import compilation
from rsmatch_jax.terminal import Parser, say

IMAGES, MOST = 20, 200
BATCH = 32  # gradients take far more memory than predictions


def maps(
    model: frozen.Model,
    images: np.ndarray,
    label: int | None = None,
    stage: str | None = None,
) -> dict[str, gradcam.Maps]:
    """{classifier: for the predicted classes or for `label`, detector: for synthetic}
    of uint8 images [N, S, S, 3]."""
    wanted = None if label is None else np.full(len(images), label)
    found = {"classifier": gradcam.gradcam(model, images, wanted, stage=stage)}
    if "detector" in model.parts:
        synthetic = np.full(len(images), overlay.SYNTHETIC)
        found["detector"] = gradcam.gradcam(
            model, images, synthetic, part="detector", stage=stage
        )
    return found


def describe(
    chosen: choice.Chosen, found: Mapping[str, gradcam.Maps], names: Sequence[str]
) -> list[dict[str, Any]]:
    """Of each image, JSON-ready: path (null: of the run's own), index in the set (null:
    from disk), label and origin (real, or the generator's name; null: unknown), class
    and probability as predicted, seen: the class whose map is drawn, synthetic_score
    (null without detector)."""
    own, detector = found["classifier"], found.get("detector")
    lines = []
    for i, name in enumerate(chosen.names):
        p, known = own.probabilities[i], chosen.labels[i] >= 0
        index = int(chosen.indices[i])
        score = detector and float(detector.probabilities[i, overlay.SYNTHETIC])
        lines.append(
            {
                "path": name if index < 0 else None,
                "index": index if index >= 0 else None,
                "label": names[chosen.labels[i]] if known else None,
                "origin": (chosen.generators[i] or arrays.REAL_ORIGIN)
                if known
                else None,
                "class": names[p.argmax()],
                "probability": float(p.max()),
                "seen": names[own.classes[i]],
                "synthetic_score": score,
            }
        )
    return lines


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 some images could not be read, 2 the request was wrong."""
    parser = Parser("analysis.explain", __doc__)
    saved.add_flags(parser)
    saved.add_data_flags(parser)
    parser.add_argument("--set", metavar="NAME")
    parser.add_argument("--index", metavar="I,J,...")
    parser.add_argument("--images", metavar="N", type=int)
    parser.add_argument("--class", metavar="NAME", dest="label")
    parser.add_argument("--stage", metavar="NAME")
    parser.add_argument("--out", metavar="FILE.png")
    parser.add_argument("paths", metavar="IMAGE", nargs="*")

    def command():
        # Intermixed: an IMAGE may stand behind any flag.
        _run(parser.parse_intermixed_args(argv))

    return exit_code(command, "the same command starts over")


def _run(args: argparse.Namespace):
    paths, indices = _check(args)
    compilation.use_cache(None)
    run = saved.load(args.workdir, args.step)
    out = args.out or os.path.join(args.workdir, "gradcam.png")
    output.check(out, args.workdir)
    names, label = run.class_names, None
    if args.label is not None:
        label = choice.label(args.label, names)
    model = frozen.Model(run, batch_size=BATCH)
    stages, positions = {}, {}
    for name, part in model.parts.items():
        stage = stages[name] = gradcam.choose_stage(part, args.stage)
        positions[name] = gradcam.positions(part, stage, model.image_size)
    unreadable, own_set = [], None if paths else args.set or "unlabelled"
    if paths:
        with image_source.bombs_refused_by_name():
            chosen, unreadable = _from_disk(paths, model.image_size, model.central)
    else:
        task = saved.load_task(run, args.data_dir, args.synthetic_pool)
        if indices is None:
            indices = choice.balanced(task, own_set, args.images or IMAGES)
        chosen = choice.of_set(task, own_set, indices)
    found = maps(model, chosen.images, label, args.stage)
    shown = "".join(
        ", the {} ({}, {} x {})".format(name, stages[name], *positions[name])
        for name in stages
    )
    title = f"Grad-CAM++ at step {run.step}: the image{shown}"
    images = describe(chosen, found, names)
    output.write(
        out,
        overlay.draw(chosen, found, names, title),
        {
            "step": run.step,
            "set": own_set,
            "stages": stages,
            "positions": positions,
            "images": images,
        },
    )
    for name in [name for name, shape in positions.items() if shape == (1, 1)]:
        say(
            f"note: {stages[name]} of the {name} has one position, so its maps are "
            "even; --stage names an earlier one"
        )
    if "detector" not in found:
        say(f"{run.exp.config.method.name} has no detector: the classifier alone")
    say(f"{len(images)} images by step {run.step} of {run.folder}: {out}")
    if unreadable:
        raise RunFailed(
            f"{len(unreadable)} of {len(paths)} images could not be read, the others "
            f"are drawn:\n{_reasons(unreadable)}"
        )


def _check(args: argparse.Namespace) -> tuple[list[str], np.ndarray | None]:
    """The files and the positions asked for, as far as they can be told yet."""
    if args.paths:
        for flag in ("set", "index", "images"):
            if getattr(args, flag) is not None:
                raise RequestError(
                    f"--{flag} chooses among the run's own images; leave it out, or "
                    f"the IMAGE arguments ({args.paths[0]} ...)"
                )
    if args.images is not None and not 1 <= args.images <= MOST:
        raise RequestError(f"--images={args.images}: it must lie between 1 and {MOST}")
    if args.set is not None:
        choice.check_set(args.set)
    indices = None
    if args.index is not None:
        if args.images is not None:
            raise RequestError(
                "--index names the images, --images their number: leave one of them out"
            )
        try:
            indices = np.asarray([int(i) for i in args.index.split(",")], np.int64)
        except (ValueError, OverflowError):
            raise RequestError(
                f"--index={args.index}: numbers with commas between, as 0,5,17"
            ) from None
    paths = image_files.find(args.paths, say)
    count = len(paths) if indices is None else len(indices)
    if count > MOST:
        raise RequestError(
            f"{count} images are too many for one picture: at most {MOST}"
        )
    return paths, indices


def _from_disk(
    paths: list[str], size: int, central: bool
) -> tuple[choice.Chosen, list[image_files.Loaded]]:
    """What could be read of the files, and what could not."""
    batches = image_files.batches(paths, size, BATCH, central=central)
    loaded = [x for some in batches for x in some]
    good = [x for x in loaded if x.pixels is not None]
    if not good:
        raise RunFailed(f"no image could be read:\n{_reasons(loaded)}")
    images = np.stack([x.pixels for x in good])
    chosen = choice.from_disk(images, [x.path for x in good])
    return chosen, [x for x in loaded if x.pixels is None]


def _reasons(loaded: list[image_files.Loaded]) -> str:
    return "\n".join(f"  {x.path}: {x.reason}" for x in loaded)


if __name__ == "__main__":
    sys.exit(main())
