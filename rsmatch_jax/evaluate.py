"""Recomputes the figures of a run from one of its checkpoints.

    rsmatch evaluate --workdir=DIR [--step=last|best|N] [--out=FILE.json]
        [--trust_code] [--data_dir=DIR] [--synthetic_pool=DIR] [--labeled=PLACE]
        [--unlabeled=PLACE] [--test=PLACE] [--origins=FILE.csv] [--real_bn]

On the test set: accuracy, top-5, macro precision, recall and F1, recall per class, the
most confused classes. On the unlabelled set: detector, pseudo-labels and queue against
ground truth, on the images of known origin or class. The command only reads the
workdir. --trust_code lets a network that is not of this package run its code. The six
flags with a PLACE or a FILE.csv name the places of data that have moved; --origins also
those of a CSV that the run did not have. --real_bn evaluates with eval.real_bn=True.
Exit codes: 0 done, 1 it failed, 2 the request was wrong.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from rsmatch_jax import files, terminal
from rsmatch_jax.deploy import saved
from rsmatch_jax.engine import run_figures
from rsmatch_jax.metrics import names, scores
from rsmatch_jax.runs import workdir
from rsmatch_jax.runtime import compilation
from rsmatch_jax.terminal import Parser

MOST_CONFUSED = 5


def evaluate(
    folder: str,
    step: str | int = "last",
    *,
    places: Mapping[str, str] | None = None,
    devices: Sequence[jax.Device] | None = None,
    trust_code: bool = False,
    real_bn: bool = False,
) -> dict[str, Any]:
    """Returns all figures of the run in `folder` at a saved step, JSON-ready: figures
    and details of `measure.Measured`, step, confusion (rows of counts, row = truth) and
    class_names.

    Arguments and errors are those of `saved.load` and `saved.load_task`. devices: None
    means all local ones; their number may differ from training's. real_bn: also
    without eval.real_bn in the config.
    """
    devices = list(devices or jax.local_devices())
    values = {"eval.real_bn": True} if real_bn else {}
    run = saved.load(folder, step, devices, trust_code=trust_code, values=values)
    assert run.state is not None
    task = saved.load_task(run, places)
    measured = run_figures.Evaluator(run.exp, task)(run.state)
    return files.plain(
        {
            "step": run.step,
            **measured.figures,
            **measured.details,
            "confusion": measured.confusion.tolist(),
            "class_names": list(task.class_names),
        }
    )


def describe(figures: dict[str, Any]) -> Iterator[str]:
    """Yields the output of `evaluate` as text lines, without the figures it lacks."""
    yield f"step {figures['step']}"
    for key, title in names.TITLES.items():
        if figures.get(key) is not None:
            yield f"{title:<40}{figures[key]:.4f}"
    for origin, share in (figures.get("detector_accuracy_per_generator") or {}).items():
        yield f"  detector on {origin}: {share:.4f}"
    if line := names.known_line(figures.get("known")):
        yield line
    classes, confusion = figures["class_names"], np.asarray(figures["confusion"])
    detector = figures.get("detector_accuracy_per_class") or [None] * len(classes)
    has_detector = any(share is not None for share in detector)
    yield "recall per class" + (", detector accuracy" if has_detector else "")
    width = max(map(len, classes))
    for k, (name, share) in enumerate(zip(classes, detector, strict=True)):
        right, total = confusion[k, k], confusion[k].sum()
        if total:
            recall = f"  {name:<{width}}  {right / total:.4f}  ({right} of {total})"
            yield recall if share is None else f"{recall:<{width + 30}}{share:.4f}"
    pairs = scores.most_confused(confusion, MOST_CONFUSED)
    if pairs:
        yield "most confused"
    for truth, predicted, count, total in pairs:
        yield f"  {classes[truth]} taken for {classes[predicted]}: {count} of {total}"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 failed, 2 the request was wrong."""
    parser = Parser("evaluate", __doc__)
    saved.add_flags(parser, data=True)
    parser.add_argument("--out", metavar="FILE.json")
    parser.add_argument("--real_bn", action="store_true")
    go_on = "nothing was changed; the same command starts over"
    return terminal.run_command(parser, argv, _run, go_on)


def _run(args: argparse.Namespace):
    workdir.check_out(args.out, args.workdir)
    compilation.use_cache(None)
    places = saved.places(args)
    figures = evaluate(
        args.workdir,
        args.step,
        places=places,
        trust_code=args.trust_code,
        real_bn=args.real_bn,
    )
    if args.out is not None:
        files.write_json(args.out, figures)
    for line in describe(figures):
        terminal.show(line)


if __name__ == "__main__":
    sys.exit(main())
