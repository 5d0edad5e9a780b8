"""Shows what the classifier and the detector look at, by Grad-CAM++ (paper, Fig. 4b).

    rsmatch see --workdir=DIR [IMAGE...] [--step=last|best|N]
        [--set=unlabelled|test] [--index=I,J,...] [--images=N] [--class=NAME]
        [--stage=NAME] [--out=FILE.png] [--trust_code] [--data_dir=DIR]
        [--synthetic_pool=DIR] [--labeled=PLACE] [--unlabeled=PLACE] [--test=PLACE]
        [--origins=FILE.csv]

IMAGE: files, folders and patterns, as for `predict`. Without any, the command
takes images of the run's data: those of --index, or --images of the set (20), real and
synthetic ones of all classes in turn. FILE.png shows for each image: the image, what
speaks for its predicted class (or --class) in the classifier, what speaks for
"synthetic" in the detector, with probabilities; mistakes are bold. --trust_code lets a
network that is not of this package run its code. --stage: of the
networks, by default the last one; earlier stages are finer, but tell less about the
class. The last six flags name the places of data that have moved. FILE is
DIR/gradcam.png by default; FILE.dark.png, beside it, is for dark pages. FILE.json has
the step, the stages with their height and width in positions, and for each image its
path or index, truth, class, probability and synthetic score.
Exit codes: 0 done, 1 some images could not be read, 2 the request was wrong.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rsmatch_jax import terminal
from rsmatch_jax.analysis import choice, gradcam, output, overlay
from rsmatch_jax.data.images import image_files, image_source
from rsmatch_jax.deploy import frozen, saved
from rsmatch_jax.errors import RequestError
from rsmatch_jax.terminal import Parser, counted, say

IMAGES, MOST = 20, 200
BATCH = 32  # gradients take far more memory than predictions


def maps(
    model: frozen.Model,
    images: np.ndarray,
    label: int | None = None,
    stage: str | None = None,
) -> dict[str, gradcam.Maps]:
    """Returns maps by network, for the predicted classes or `label`, and synthetic."""
    classes = {
        "classifier": None if label is None else np.full(len(images), label),
        "detector": np.full(len(images), overlay.SYNTHETIC),
    }
    return {
        part: gradcam.gradcam(model, images, classes[part], part=part, stage=stage)
        for part in model.parts
    }


def describe(
    chosen: choice.Chosen, shown: Mapping[str, gradcam.Maps], names: Sequence[str]
) -> list[dict[str, Any]]:
    """Returns a JSON-ready object for each image.

    path: null for the run's images. index: in the set, null for files. label and origin
    (real, or the generator's name): null if unknown. class, probability: as predicted.
    seen: the class of the map. synthetic_score: null without a detector.
    """
    classifier, detector = shown["classifier"], shown.get("detector")
    lines = []
    for i, name in enumerate(chosen.names):
        p, index = classifier.probabilities[i], int(chosen.indices[i])
        label = chosen.labels[i]
        score = detector and float(detector.probabilities[i, overlay.SYNTHETIC])
        lines.append(
            {
                "path": name if index < 0 else None,
                "index": index if index >= 0 else None,
                "label": names[label] if label >= 0 else None,
                "origin": chosen.origins[i],
                "class": names[p.argmax()],
                "probability": float(p.max()),
                "seen": names[classifier.classes[i]],
                "synthetic_score": score,
            }
        )
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 some images unreadable, 2 a wrong request."""
    parser = Parser("see", __doc__)
    saved.add_flags(parser, data=True)
    parser.add_argument("--set", choices=choice.SETS)
    parser.add_argument("--index", metavar="I,J,...")
    parser.add_argument("--images", metavar="N", type=int)
    parser.add_argument("--class", metavar="NAME", dest="label")
    parser.add_argument("--stage", metavar="NAME")
    parser.add_argument("--out", metavar="FILE.png")
    parser.add_argument("paths", metavar="IMAGE", nargs="*")
    # Intermixed: an IMAGE may stand behind any flag.
    parse, go_on = parser.parse_intermixed_args, "the same command starts over"
    return terminal.run_command(parser, argv, _run, go_on, parse=parse)


def _run(args: argparse.Namespace):
    paths, indices = _check(args)
    run, out = output.open_run(args, "gradcam.png")
    names, label = run.class_names, None
    if args.label is not None:
        label = choice.label(args.label, names)
    model = frozen.Model(run, batch_size=BATCH)
    stages, positions = {}, {}
    for name, part in model.parts.items():
        stages[name] = gradcam.choose_stage(part, args.stage)
        positions[name] = gradcam.positions(part, stages[name], model.image_size)
    unreadable, set_name = {}, None
    if paths:
        chosen, unreadable = _from_disk(model, paths)
    else:
        set_name = args.set or "unlabelled"
        task = saved.load_task(run, saved.places(args))
        if indices is None:
            indices = choice.balanced(task, set_name, args.images or IMAGES)
        chosen = choice.of_set(task, set_name, indices)
    shown = maps(model, chosen.images, label, args.stage)
    title = f"Grad-CAM++ at step {run.step}: the image"
    for name, (height, width) in positions.items():
        title += f", the {name} ({stages[name]}, {height} x {width})"
    content = {"step": run.step, "set": set_name, "stages": stages}
    content |= {"positions": positions, "images": describe(chosen, shown, names)}
    output.write(
        out,
        lambda theme: overlay.draw(chosen, shown, names, title, theme=theme),
        content,
    )
    for name in [name for name, shape in positions.items() if shape == (1, 1)]:
        say(
            f"note: {stages[name]} of the {name} has one position, so its maps are "
            "even; --stage names an earlier one"
        )
    if "detector" not in shown:
        say(f"{run.exp.config.method.name} has no detector: the classifier alone")
    count = counted(len(chosen.images), "image")
    say(f"{count} by step {run.step} of {run.folder}: {out}")
    image_files.require_readable(unreadable, len(paths), "drawn")


def _check(args: argparse.Namespace) -> tuple[list[str], np.ndarray | None]:
    """Returns the files and the positions of --index; checks all that needs no run."""
    if args.paths:
        for flag in ("set", "index", "images"):
            if getattr(args, flag) is not None:
                raise RequestError(
                    f"--{flag} chooses among the run's images; leave it out, or the "
                    f"IMAGE arguments ({args.paths[0]} ...)"
                )
    if args.images is not None and not 1 <= args.images <= MOST:
        raise RequestError(f"--images={args.images}: it must lie between 1 and {MOST}")
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
                f"--index={args.index}: numbers separated by commas, such as 0,5,17"
            ) from None
    paths = image_files.find(args.paths, say)
    count = len(paths) if indices is None else len(indices)
    if count > MOST:
        raise RequestError(f"{count} images are too many for a picture: at most {MOST}")
    return paths, indices


def _from_disk(
    model: frozen.Model, paths: Sequence[str]
) -> tuple[choice.Chosen, dict[str, str]]:
    """The readable files, and {path: reason} of the others; RunFailed if all are."""
    with image_source.bombs_refused_by_name():
        images = [image for batch in model.open(paths) for image in batch]
    good = [image for image in images if image.pixels is not None]
    unreadable = {x.path: x.reason for x in images if x.pixels is None}
    if not good:
        image_files.require_readable(unreadable, len(paths), "drawn")
    pixels = np.asarray([image.pixels for image in good], np.uint8)
    return choice.from_disk(pixels, [image.path for image in good]), unreadable


if __name__ == "__main__":
    sys.exit(main())
