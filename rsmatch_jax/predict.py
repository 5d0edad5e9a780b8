"""Class, probability and synthetic score of images, as JSON lines.

    python -m rsmatch_jax.predict --workdir=DIR [--step=last|best|N] [--top=K]
        [--batch_size=N] [--out=FILE.jsonl] IMAGE...

IMAGE: a file (PNG, JPEG, WebP, BMP, GIF), a folder with all images below it, or a
pattern with * ? [ ] (** = any folders). Each line: image (its path), class, label,
probability, synthetic_score (null where the run has no detector), size (width and
height in the file), changes (what was done to bring it to the size and kind of the
training images; an alpha channel is dropped, as the importer does). A summary, and
what could not be read, goes to stderr. It takes the first local device.
Exit codes: 0 done, 1 some images could not be read, 2 the request was wrong.
"""

import collections
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

import numpy as np

from rsmatch_jax import files
from rsmatch_jax.data.images import image_files, image_source
from rsmatch_jax.deploy import frozen, saved
from rsmatch_jax.errors import RequestError, RunFailed, exit_code
from rsmatch_jax.runs import workdir
from rsmatch_jax.runtime import compilation
from rsmatch_jax.terminal import Parser, Progress


def predict(
    model: frozen.Model,
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
    read: collections.deque[list[image_files.Loaded]] = collections.deque()
    progress = Progress("predict", "images", len(paths), note)
    rows = min(model.batch_size, max(len(paths), 1))

    def batches() -> Iterator[np.ndarray]:
        for loaded in image_files.batches(
            paths, model.image_size, rows, central=model.central
        ):
            good = [x for x in loaded if x.pixels is not None]
            unreadable.update({x.path: x.reason for x in loaded if x.pixels is None})
            if len(good) < len(loaded):
                progress.advance(len(loaded) - len(good))
            if good:
                read.append(good)
                yield np.stack([x.pixels for x in good])

    for found in model.predict_batches(batches(), rows):
        loaded = read.popleft()
        for line in lines(model.class_names, found, loaded, top):
            write(line)
        progress.advance(len(loaded))
    return unreadable


def lines(
    names: Sequence[str],
    found: frozen.Predictions,
    loaded: Sequence[image_files.Loaded],
    top: int = 0,
) -> Iterator[dict[str, Any]]:
    """The JSON-ready lines of a batch; as in `predict`."""
    # Python's numbers, all at once: numpy's one by one take ten times as long.
    labels, best = found.labels.tolist(), found.probabilities.max(axis=1).tolist()
    scores = found.synthetic_scores
    scores = [None] * len(loaded) if scores is None else scores.tolist()
    for row, image in enumerate(loaded):
        line = {
            "image": image.path,
            "class": names[labels[row]],
            "label": labels[row],
            "probability": best[row],
            "synthetic_score": scores[row],
            "size": list(image.size),
            "changes": list(image.changes),
        }
        if top:
            p = found.probabilities[row]
            order = np.argsort(-p, kind="stable")[:top]
            line["top"] = {names[k]: float(p[k]) for k in order}
        yield line


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 some images could not be read, 2 the request was wrong."""
    parser = Parser("predict", __doc__)
    saved.add_flags(parser)
    parser.add_argument("--top", metavar="K", type=int, default=0)
    parser.add_argument("--batch_size", metavar="N", type=int, default=frozen.BATCH)
    parser.add_argument("--out", metavar="FILE.jsonl")
    parser.add_argument("images", metavar="IMAGE", nargs="+")

    def command():
        args = parser.parse_args(argv)
        for flag, least in (("top", 0), ("batch_size", 1)):
            value = getattr(args, flag)
            if value < least:
                raise RequestError(f"--{flag}={value}: it must be {least} or more")
        workdir.check_out(args.out, args.workdir, ".jsonl")
        paths = image_files.find(args.images, _note)
        compilation.use_cache(None)
        model = frozen.load(args.workdir, args.step, batch_size=args.batch_size)
        with contextlib.ExitStack() as stack:
            out = sys.stdout
            if args.out is not None:
                out = stack.enter_context(files.writing(args.out))
            stack.enter_context(image_source.bombs_refused_by_name())
            unreadable = run(model, paths, out, top=args.top, note=_note)
        if unreadable:
            done = len(paths) - len(unreadable)
            raise RunFailed(
                f"{len(unreadable)} of {len(paths)} files could not be read"
                + (", the others are predicted" if done else "")
                + ":\n"
                + "\n".join(f"  {path}: {why}" for path, why in unreadable.items())
            )

    return exit_code(command, "the same command starts over")


def run(
    model: frozen.Model,
    paths: Sequence[str],
    out: TextIO,
    *,
    top: int = 0,
    note: Callable[[str], None] = lambda line: None,
) -> dict[str, str]:
    """Writes the JSON lines to `out`, and tells `note` what was done; {path: reason} of
    the files that are no whole images."""
    counts, changed, begin = 0, collections.Counter(), time.monotonic()

    def write(line):
        nonlocal counts
        counts += 1
        changed.update(line["changes"])
        out.write(json.dumps(line) + "\n")

    unreadable = predict(model, paths, write, top=top, note=note)
    out.flush()
    seconds = max(time.monotonic() - begin, 1e-9)
    note(
        f"{counts} images in {seconds:.1f} s, {counts / seconds:.0f} images/s, by step "
        f"{model.step} of {model.run.folder}"
    )
    kinds: collections.Counter = collections.Counter()
    for change, number in changed.items():
        kinds[change.split(" from ")[0]] += number
    if kinds:
        note("changed: " + ", ".join(f"{n} {kind}" for kind, n in kinds.items()))
    return unreadable


def _note(line: str):
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
