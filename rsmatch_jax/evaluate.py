"""Figures of a saved run, recomputed from one of its checkpoints.

    python -m rsmatch_jax.evaluate --workdir=DIR [--step=last|best|N] [--out=FILE.json]
        [--data_dir=DIR] [--synthetic_pool=DIR]

On the test set: accuracy, top-5, macro precision, recall and F1, recall per class, the
most confused classes; on the unlabelled set: detector, pseudo-labels and queue against
ground truth. The workdir is only read. --data_dir and --synthetic_pool say where the
data are now, if not where the run had them.
Exit codes: 0 done, 1 it failed, 2 the request was wrong.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from rsmatch_jax import files, terminal
from rsmatch_jax.deploy import saved
from rsmatch_jax.errors import exit_code
from rsmatch_jax.metrics import measure, scores
from rsmatch_jax.runs import workdir
from rsmatch_jax.terminal import Parser

MOST_CONFUSED = 5
TITLES = {
    "test_accuracy": "test accuracy",
    "test_top5": "  top-5",
    "test_macro_precision": "  macro precision",
    "test_macro_recall": "  macro recall",
    "test_macro_f1": "  macro F1",
    "test_ece": "  calibration error",
    "validation_accuracy": "validation accuracy",
    "detector_accuracy": "detector accuracy",
    "detector_balanced_accuracy": "  balanced",
    "detector_auroc": "  AUROC",
    "detector_accuracy_labelled": "  on labelled images",
    "detector_accuracy_real": "  on other real images",
    "detector_accuracy_synthetic": "  on synthetic images",
    "utilisation": "utilisation",
    "utilisation_real": "  of real images",
    "utilisation_synthetic": "  of synthetic images",
    "pseudo_label_accuracy": "pseudo-label accuracy",
    "pseudo_label_accuracy_real": "  of real images",
    "pseudo_label_accuracy_synthetic": "  of synthetic images",
    "queue_purity": "queue purity",
    "queue_fill": "queue fill",
}


def evaluate(
    folder: str,
    step: str = "last",
    *,
    data_dir: str | None = None,
    synthetic_pool: str | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> dict[str, Any]:
    """All figures of the run in `folder` at a saved step, JSON-ready.

    step: last, best (the best evaluation that the newest checkpoint knows of) or N.
    data_dir, synthetic_pool: where the data are now; None = where the run had them.
    devices: None = all local ones; more or fewer than in training are fine.
    Keys: the figures and details of `evaluation.Measured`, and step, confusion (rows of
    counts, row = truth), class_names. Raises RequestError where there is no such run or
    step, or where its data are gone or others; RunFailed where the checkpoint is
    damaged.
    """
    devices = list(devices or jax.local_devices())
    run = saved.load(folder, step, devices)
    task = saved.load_task(run, data_dir, synthetic_pool)
    found = measure.measure(
        measure.mapped_forward(run.exp.nets, devices, run.exp.method.training_heads),
        run.state,
        task,
        queue=run.exp.method.queue(run.state.extra),
        threshold=run.exp.config.method.threshold,
        batch_size=run.exp.config.eval.batch_size,
        devices=devices,
    )
    return files.plain(
        {
            "step": run.step,
            **found.figures,
            **found.details,
            "confusion": found.confusion.tolist(),
            "class_names": list(task.class_names),
        }
    )


def describe(found: dict[str, Any]) -> Iterator[str]:
    """Lines for people about what `evaluate` returns; what a run lacks is left out."""
    yield f"step {found['step']}"
    for key, title in TITLES.items():
        if found.get(key) is not None:
            yield f"{title:<24}{found[key]:.4f}"
    for origin, share in (found.get("detector_accuracy_per_generator") or {}).items():
        yield f"  detector on {origin}: {share:.4f}"
    names, confusion = found["class_names"], np.asarray(found["confusion"])
    totals = confusion.sum(axis=1)
    width = max(map(len, names))
    detector = found.get("detector_accuracy_per_class") or [None] * len(names)
    yield "recall per class" + (
        "" if all(own is None for own in detector) else ", detector accuracy"
    )
    for name, right, total, own in zip(
        names, np.diag(confusion), totals, detector, strict=True
    ):
        if total:
            said = f"  {name:<{width}}  {right / total:.4f}  ({right} of {total})"
            yield said if own is None else f"{said:<{width + 30}}{own:.4f}"
    pairs = scores.most_confused(confusion, MOST_CONFUSED)
    if pairs:
        yield "most confused"
    for truth, said, count, total in pairs:
        yield f"  {names[truth]} taken for {names[said]}: {count} of {total}"


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 the request was wrong."""
    parser = Parser("evaluate", __doc__)
    saved.add_flags(parser)
    saved.add_data_flags(parser)
    parser.add_argument("--out", metavar="FILE.json")

    def command():
        args = parser.parse_args(argv)
        workdir.check_out(args.out, args.workdir)
        found = evaluate(
            args.workdir,
            args.step,
            data_dir=args.data_dir,
            synthetic_pool=args.synthetic_pool,
        )
        for line in describe(found):
            terminal.say(line)
        if args.out is not None:
            files.write_json(args.out, found)

    return exit_code(command, "nothing was changed; the same command starts over")


if __name__ == "__main__":
    sys.exit(main())
