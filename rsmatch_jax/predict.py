"""Class, probability and synthetic score of images, as JSON lines.

    python -m rsmatch_jax.predict --workdir=DIR [--step=last|best|N] [--top=K]
        [--batch_size=N] [--out=FILE.jsonl] IMAGE...

IMAGE: a file (PNG, JPEG, WebP, BMP, GIF), a folder with all images below it, or a
pattern with * ? [ ] (** = any folders). Each line: image (its path), class, label,
probability, synthetic_score (null where the run has no detector), size (width and
height in the file), changes (what was done to bring it to the size of the training
images). A summary, and what could not be read, goes to stderr.
Exit codes: 0 done, 1 some images could not be read, 2 the request was wrong.
"""

import argparse
import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

import numpy as np

from rsmatch_jax import inference, workdir
from rsmatch_jax.data import image_files
from rsmatch_jax.errors import RequestError, RunFailed, exit_code
from rsmatch_jax.terminal import Parser, Progress

SHOWN = 20  # unreadable files that are listed


def predict(
    model: inference.Model,
    paths: Sequence[str],
    write: Callable[[dict[str, Any]], None],
    *,
    top: int = 0,
    note: Callable[[str], None] = lambda line: None,
) -> dict[str, str]:
    """Calls `write` with the JSON-ready line of every image, in order.

    top: how many classes are listed by falling probability, none with 0. note: takes
    lines for people. Returns {path: reason} of the files that are no whole images.
    """
    unreadable: dict[str, str] = {}
    read: list[list[image_files.Loaded]] = []
    progress = Progress("predict", "images", len(paths), note)

    def batches() -> Iterator[np.ndarray]:
        for loaded in image_files.batches(paths, model.image_size, model.batch_size):
            good = [x for x in loaded if x.pixels is not None]
            unreadable.update({x.path: x.reason for x in loaded if x.pixels is None})
            progress.advance(len(loaded) - len(good))
            if good:
                read.append(good)
                yield np.stack([x.pixels for x in good])

    for found in model.predict_batches(batches()):
        loaded = read.pop(0)
        for row, image in enumerate(loaded):
            write(_line(model, found, row, image, top))
        progress.advance(len(loaded))
    return unreadable


def _line(model, found, row, image, top):
    p = found.probabilities[row]
    label, scores = int(p.argmax()), found.synthetic_scores
    line = {
        "image": image.path,
        "class": model.class_names[label],
        "label": label,
        "probability": float(p[label]),
        "synthetic_score": None if scores is None else float(scores[row]),
        "size": list(image.size),
        "changes": list(image.changes),
    }
    if top:
        order = np.argsort(-p, kind="stable")[:top]
        line["top"] = {model.class_names[k]: float(p[k]) for k in order}
    return line


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 some images could not be read, 2 the request was wrong."""
    parser = Parser(
        prog="python -m rsmatch_jax.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--workdir", metavar="DIR", required=True)
    parser.add_argument("--step", metavar="last|best|N", default="last")
    parser.add_argument("--top", metavar="K", type=int, default=0)
    parser.add_argument("--batch_size", metavar="N", type=int, default=inference.BATCH)
    parser.add_argument("--out", metavar="FILE.jsonl")
    parser.add_argument("images", metavar="IMAGE", nargs="+")

    def command():
        args = parser.parse_args(argv)
        for flag in ("top", "batch_size"):
            if getattr(args, flag) < (flag == "batch_size"):
                raise RequestError(
                    f"--{flag}={getattr(args, flag)}: it must be "
                    f"{int(flag == 'batch_size')} or more"
                )
        workdir.check_out(args.out, args.workdir, ".jsonl")
        paths = image_files.find(args.images)
        model = inference.load(args.workdir, args.step, batch_size=args.batch_size)
        with contextlib.ExitStack() as stack:
            out = sys.stdout
            if args.out is not None:
                out = stack.enter_context(open(args.out, "w", encoding="utf-8"))
            _run(model, paths, out, args.top)

    return exit_code(command, "the same command starts over")


def _run(model: inference.Model, paths: Sequence[str], out: TextIO, top: int):
    counts, changed, begin = Counter(), Counter(), time.monotonic()

    def write(line):
        counts[line["class"]] += 1
        changed.update(change.split(" ")[0] for change in line["changes"])
        out.write(json.dumps(line) + "\n")

    def note(line):
        sys.stderr.write(line + "\n")

    unreadable = predict(model, paths, write, top=top, note=note)
    out.flush()
    seconds = max(time.monotonic() - begin, 1e-9)
    note(
        f"{counts.total()} images in {seconds:.1f} s, "
        f"{counts.total() / seconds:.0f} images/s, by step {model.step} of "
        f"{model.run.folder}"
    )
    if changed:
        note("changed: " + ", ".join(f"{n} {what}" for what, n in changed.items()))
    if unreadable:
        listed = [f"  {path}: {why}" for path, why in unreadable.items()]
        more = len(listed) - SHOWN
        raise RunFailed(
            f"{len(listed)} of {len(paths)} images could not be read, the others are "
            "predicted:\n"
            + "\n".join(listed[:SHOWN] + [f"  and {more} more"] * (more > 0))
        )


if __name__ == "__main__":
    sys.exit(main())
