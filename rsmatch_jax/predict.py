"""Predicts class, probability and synthetic score of images, as JSON lines.

    rsmatch predict --workdir=DIR [--step=last|best|N] [--top=K]
        [--batch_size=N] [--background=COLOUR] [--out=FILE.jsonl] [--trust_code]
        IMAGE...

IMAGE: a file (PNG, JPEG, WebP, BMP, GIF, TIFF, PPM, PGM; AVIF where Pillow has it, HEIC
with the package pillow-heif), a folder with all images below it, symbolic links
followed, or a pattern with * ? [ ] (** = any folders). Each line: image (its path),
class, label, probability, synthetic_score (null if the run has no detector), verdict
(synthetic, unsure or real by the threshold that `rsmatch sift` has put into the
workdir for this step, else null), size (width and height in the file), changes (how the
image was brought to the size and kind of the training images). A transparent image is
put on --background first, as by the importer: white, or any colour's name or #rrggbb.
--top=K adds the K most probable classes. --trust_code lets a network that is not of
this package run its code. A summary and the list of unreadable files go to stderr. The
command uses the first local device.
Exit codes: 0 done, 1 some images could not be read, 2 the request was wrong.
"""

import argparse
import collections
import contextlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

import numpy as np

from rsmatch_jax import files, progress, terminal
from rsmatch_jax.data.images import alpha, image_files, image_source
from rsmatch_jax.data.images.folder_tree import some
from rsmatch_jax.deploy import frozen, saved
from rsmatch_jax.errors import RequestError
from rsmatch_jax.metrics import verdicts
from rsmatch_jax.runs import workdir
from rsmatch_jax.runtime import compilation
from rsmatch_jax.terminal import Parser, counted


def run(
    model: frozen.Model,
    paths: Sequence[str],
    out: TextIO,
    *,
    top: int = 0,
    background: str = alpha.BACKGROUND,
    note: Callable[[str], None] = lambda line: None,
) -> dict[str, str]:
    """Writes the JSON line of each image to `out`, in order.

    Args:
        top: how many of the most probable classes each line lists.
        background: the colour that transparent images are put on.
        note: takes the lines of progress and summary.

    Returns:
        {path: reason} of the files that cannot be read.
    """
    unreadable: dict[str, str] = {}
    invisible: list[str] = []
    counts, changed, begin = 0, collections.Counter(), time.monotonic()
    done = progress.Progress("predict", "images", len(paths), note)
    rows = min(model.batch_size, max(len(paths), 1))
    threshold = verdicts.detector_threshold(model.run.folder, model.step)

    def readable() -> Iterator[list[image_files.Loaded]]:
        for loaded in model.open(paths, rows, background):
            good = [image for image in loaded if image.pixels is not None]
            bad = {x.path: x.reason for x in loaded if x.pixels is None}
            unreadable.update(bad)
            if bad:
                done.advance(len(bad))
            if good:
                yield good

    # The model takes batches ahead of its predictions; tee keeps them until then.
    batches, ahead = itertools.tee(readable())
    pixels = (np.asarray([x.pixels for x in batch], np.uint8) for batch in ahead)
    outputs = model.predict_batches(pixels, rows)
    with done:
        for batch, predictions in zip(batches, outputs, strict=True):
            for line in _lines(model.class_names, predictions, batch, top, threshold):
                if alpha.FULLY_TRANSPARENT in line["changes"]:
                    invisible.append(line["image"])
                changed.update(map(image_source.kind_of_change, line["changes"]))
                out.write(json.dumps(line) + "\n")
            counts += len(batch)
            done.advance(len(batch))
    out.flush()
    seconds = max(time.monotonic() - begin, 1e-9)
    note(
        f"{counted(counts, 'image')} in {seconds:.1f} s, {counts / seconds:.0f} "
        f"images/s, by step {model.step} of {model.run.folder}"
    )
    if changed:
        note("changed: " + ", ".join(f"{n} {kind}" for kind, n in changed.items()))
    if invisible:
        note(f"{alpha.FULLY_TRANSPARENT}, nothing of them is seen: {some(invisible)}")
    return unreadable


def _lines(
    names: Sequence[str],
    predictions: frozen.Predictions,
    images: Sequence[image_files.Loaded],
    top: int,
    threshold: float | None,
) -> Iterator[Mapping[str, Any]]:
    # All numbers become Python's at once: one by one they take ten times as long.
    labels = predictions.labels.tolist()
    best = predictions.probabilities.max(axis=1).tolist()
    scores = words = [None] * len(images)
    if predictions.synthetic_scores is not None:
        scores = predictions.synthetic_scores.tolist()
        words = verdicts.of_scores(predictions.synthetic_scores, threshold)
    for row, image in enumerate(images):
        line = {
            "image": image.path,
            "class": names[labels[row]],
            "label": labels[row],
            "probability": best[row],
            "synthetic_score": scores[row],
            "verdict": words[row],
            "size": list(image.size),
            "changes": list(image.changes),
        }
        if top:
            p = predictions.probabilities[row]
            order = np.argsort(-p, kind="stable")[:top]
            line["top"] = {names[k]: float(p[k]) for k in order}
        yield line


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 some images unreadable, 2 a wrong request."""
    parser = Parser("predict", __doc__)
    saved.add_flags(parser)
    parser.add_argument("--top", metavar="K", type=int, default=0)
    parser.add_argument("--batch_size", metavar="N", type=int, default=frozen.BATCH)
    parser.add_argument("--background", metavar="COLOUR", default=alpha.BACKGROUND)
    parser.add_argument("--out", metavar="FILE.jsonl")
    parser.add_argument("images", metavar="IMAGE", nargs="+")
    return terminal.run_command(parser, argv, _run, "the same command starts over")


def _run(args: argparse.Namespace):
    for flag, least in (("top", 0), ("batch_size", 1)):
        value = getattr(args, flag)
        if value < least:
            raise RequestError(f"--{flag}={value}: it must be {least} or more")
    alpha.colour(args.background)
    workdir.check_out(args.out, args.workdir, ".jsonl")
    paths = image_files.find(args.images, progress.note)
    compilation.use_cache(None)
    model = frozen.load(
        args.workdir,
        args.step,
        batch_size=args.batch_size,
        trust_code=args.trust_code,
    )
    with contextlib.ExitStack() as stack:
        out = sys.stdout
        if args.out is not None:
            out = stack.enter_context(files.writing(args.out))
        stack.enter_context(image_source.bombs_refused_by_name())
        options = {"top": args.top, "background": args.background}
        unreadable = run(model, paths, out, **options, note=progress.note)
    image_files.require_readable(unreadable, len(paths), "predicted")


if __name__ == "__main__":
    sys.exit(main())
