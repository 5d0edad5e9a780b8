"""Sorts pictures of unknown origin into real, synthetic and unsure ones.

    rsmatch sift --labeled=PLACE --unlabeled=PLACE [--test=PLACE]
        [--size=32] [--cache_dir=DIR]
    rsmatch sift --workdir=RUN [IMAGE...] [--step=last|best|N]
        [--by=detector|statistics|both] [--trust_code]
    both: [--out=DIR] [--false_alarm=0.05] [--link=DIR | --copy=DIR]
        [--origins=FILE.csv]

The first form needs no run: it learns from the labelled pictures, which are real, and
the unlabelled ones how statistics of their pixels differ; where the files of either are
compressed less, it first stores them once more as JPEG, like the others. The second
takes the run's unlabelled pictures, or the IMAGEs, and the run's detector, those
statistics, or a weighted mean of the ranks by both: what does best where origins are
known, otherwise both if 50 real pictures are held out to weigh them, else the
statistics. --labeled, --unlabeled, --test, --data_dir and --synthetic_pool
name places of data that have moved. --trust_code lets a network that is not of this
package run its code.
Real pictures that trained nothing set the threshold: the next real picture is called
synthetic with a probability of at most --false_alarm. These are the test and validation
pictures; below 50, --by=statistics takes the labelled ones if there are more of them,
each scored by models that did not see it. A score from 0.5 up to the threshold is
unsure.
Writes to --out (RUN/sift, or the unlabelled folder's name with -sift): images.csv
(path,class,probability,synthetic_score,verdict), summary.json with the estimated share
of synthetic pictures, sheet.png, and sift.html, on which people tick what they see and
save it as a CSV for --config.data.origins. --link and --copy also make folders
real/, synthetic/ and unsure/, with a folder for each predicted class.
Exit codes: 0 done, 1 it failed, 2 the request was wrong.
"""

import argparse
import contextlib
import csv
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

from rsmatch_jax import errors, files, progress, terminal
from rsmatch_jax.data import sources
from rsmatch_jax.data.images import image_source, user_pictures
from rsmatch_jax.data.images.folder_tree import some
from rsmatch_jax.deploy import saved
from rsmatch_jax.errors import RequestError
from rsmatch_jax.forensics import share, threshold
from rsmatch_jax.metrics import verdicts
from rsmatch_jax.runs import workdir
from rsmatch_jax.runtime import compilation
from rsmatch_jax.sift import folders, judge, material, page, sheet
from rsmatch_jax.sift.material import Material
from rsmatch_jax.sift.rows import Row
from rsmatch_jax.terminal import Parser, say

SMALLEST = 8  # pixels a side
# Messages about pictures name the keys of a run's config; these are flags here.
_FLAGS = {key: f"--{key}" for key in (*sources.OWN_PLACES, "cache_dir")}
# The flags that the form without a run does not read.
_OF_RUNS = ("step", "trust_code", "data_dir", "synthetic_pool")


def run(args: argparse.Namespace):
    """Sifts by the command's flags."""
    try:
        _sift(args)
    except RequestError as e:
        if args.workdir is not None:
            raise
        raise RequestError(errors.with_flags(str(e), _FLAGS)) from None


def _sift(args: argparse.Namespace):
    out = _check(args)
    compilation.use_cache(args.cache_dir)
    with contextlib.ExitStack() as stack:
        stack.enter_context(image_source.bombs_refused_by_name())
        pictures = _read(args, stack)
        with progress.busy("judging the pictures"):
            made = judge.scores(pictures, args.by)
        name, known = judge.best(made, pictures.origins)
        name = args.by or name
        summary = judge.summary(made, name, args.false_alarm)
        rows = _rows(pictures, made[name], summary["threshold"])
        summary |= {
            "pictures": len(rows),
            "workdir": args.workdir,
            "step": pictures.step,
            "known_origins": known,
        }
        _write(out, rows, pictures, summary)
        if folder := args.link or args.copy:
            _fill("link" if args.link else "copy", folder, rows, pictures)
    for line in _lines(summary):
        say(line)
    names = verdicts.TABLE_FILE, verdicts.SUMMARY_FILE
    names += verdicts.SHEET_FILE, verdicts.PAGE_FILE
    say(f"written to {out}: {', '.join(names)}")


def _read(args: argparse.Namespace, stack: contextlib.ExitStack) -> Material:
    """Reads the pictures and says what they are."""
    if args.workdir is None:
        pictures = material.of_places(args, stack)
    else:
        pictures = material.of_run(args, stack)
        if pictures.predicted is not None and not pictures.predicted.scores:
            say("this run has no detector: statistics judge the pictures")
    for note in pictures.notes:
        say(note if args.workdir else errors.with_flags(note, _FLAGS))
    names = pictures.class_names
    say(f"{terminal.counted(len(names), 'class')}: {some(names)}")
    held_out = len(pictures.held_out)
    say(
        f"sifting {terminal.counted(len(pictures.images), 'picture')} by "
        f"{len(pictures.labelled)} labelled "
        f"{f'and {held_out} held-out ' if held_out else ''}real ones ..."
    )
    return pictures


def _check(args: argparse.Namespace) -> str:
    """Checks the flags; returns the folder to write to."""
    if not 0 < args.false_alarm < 1:
        raise RequestError(f"--false_alarm={args.false_alarm} must lie between 0 and 1")
    if args.workdir is None:
        if args.labeled is None or args.unlabeled is None:
            raise RequestError(
                "name a run by --workdir=RUN, or pictures by --labeled=PLACE and "
                "--unlabeled=PLACE"
            )
        if args.images:
            raise RequestError(f"{args.images[0]}: images are sifted by a --workdir")
        if args.by not in (None, judge.STATISTICS):
            raise RequestError(f"--by={args.by} needs a --workdir; leave it out")
        for key in _OF_RUNS:
            if value := getattr(args, key):
                raise RequestError(f"--{key}={value} needs a --workdir; leave it out")
        if args.size is not None and args.size < SMALLEST:
            raise RequestError(f"--size={args.size}: it must be {SMALLEST} or more")
        first = user_pictures.parts(args.unlabeled)[0]
        first = os.path.expanduser(first.rstrip("/"))
        if os.path.basename(first) in ("", ".", ".."):
            first = os.path.abspath(first)  # which has a name
        if os.path.isfile(first):
            first = os.path.splitext(first)[0].removesuffix(".tar")
        out = args.out or f"{first}-sift"
    else:
        if args.size is not None:
            reason = "the run has a size, its data.size; leave it out"
            raise RequestError(f"--size={args.size}: {reason}")
        if args.images and args.origins:
            reason = "is about the run's pictures, not about the images named"
            raise RequestError(f"--origins={args.origins} {reason}; leave it out")
        out = args.out or os.path.join(args.workdir, verdicts.FOLDER)
    workdir.check_writable(out, "--out")
    inputs = _inputs(args)
    folders.check_outside("out", out, inputs)
    for flag in ("link", "copy"):
        if folder := getattr(args, flag):
            folders.check_outside(flag, folder, inputs)
            folders.check(flag, folder)
    return out


def _inputs(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Returns (key, place) of all pictures that are read."""
    config = {} if args.workdir is None else workdir.read_config(args.workdir) or {}
    places = [("IMAGE", image) for image in args.images or ()]
    for key in sources.OWN_PLACES:
        place = getattr(args, key) or config.get("data", {}).get(key)
        several = key == "unlabeled" and place
        parts = user_pictures.parts(place) if several else [place]
        places += [(f"data.{key}", part) for part in parts if part]
    return places


def _rows(pictures: Material, chosen: judge.Scores, limit: float | None) -> list[Row]:
    count = len(pictures.names)
    classes, probabilities = [""] * count, [None] * count
    if pictures.predicted is not None:
        classes = pictures.predicted.classes.tolist()
        probabilities = pictures.predicted.probabilities.tolist()
    words = verdicts.of_scores(chosen.images, limit)
    columns = (pictures.names, classes, probabilities, chosen.images.tolist(), words)
    return [Row(*row) for row in zip(*columns, strict=True)]


def _write(out: str, rows: list[Row], pictures: Material, summary: dict[str, Any]):
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(("path", "class", "probability", "synthetic_score", "verdict"))
    for row in rows:
        writer.writerow("" if value is None else value for value in row)

    def path(name: str) -> str:
        return os.path.join(out, name)

    with files.written_to("--out", out):
        os.makedirs(out, exist_ok=True)
        # A file's name may be no UTF-8; it keeps its bytes.
        content = table.getvalue().encode(errors="surrogateescape")
        files.write_bytes(path(verdicts.TABLE_FILE), content)
        files.write_json(path(verdicts.SUMMARY_FILE), summary)
        sheet.draw(path(verdicts.SHEET_FILE), rows, pictures.images, summary)
        page.write(path(verdicts.PAGE_FILE), rows, pictures.images, summary)


def _fill(flag: str, folder: str, rows: list[Row], pictures: Material):
    if pictures.sources is None:
        raise RequestError(
            f"--{flag}={folder}: the run's images come from a dataset and are no files "
            "of their own; name images, or train on pictures by --config=own"
        )
    folders.fill(flag, folder, rows, pictures.sources)
    say(f"made {folder}: {', '.join(verdicts.VERDICTS)}")


def _lines(summary: dict[str, Any]):
    """Yields the summary as lines for the terminal."""
    figures = list(verdicts.figures(summary))
    width = max(len(title) for _, title, _ in figures)
    for _, title, text in figures:
        yield f"{title:<{width}}  {text}"
    if summary["threshold"] is None:
        more = "name more by --test"
        if summary["workdir"] is not None:
            more = "hold more out in the next run (data.test, data.test_share)"
        yield (
            f"no threshold, so no verdicts: {summary['held_out_real']} real pictures "
            f"are held out, and --false_alarm={summary['false_alarm']} needs "
            f"{summary['held_out_needed']}; {more}, or raise --false_alarm"
        )
    if summary["estimated_share"] is None:
        few = f"it needs {share.MIN_REAL} held-out real pictures or more"
        if summary["pictures"] < judge.FEWEST_IMAGES:
            few = f"it needs {judge.FEWEST_IMAGES} pictures to sift or more"
        yield f"no estimated share: {few}"
    known = summary["known_origins"]
    left_out = summary["by"] == judge.STATISTICS and judge.BOTH in known["auroc"]
    if left_out and not judge.can_choose(known):
        yield (
            "the run's detector is left out: to weigh it beside the statistics takes "
            f"{judge.ENOUGH_HELD_OUT} held-out real pictures; --by=both gives them "
            "equal weights"
        )
    if None not in known["auroc"].values():
        listed = ", ".join(f"{k} {v:.3f}" for k, v in known["auroc"].items())
        yield (
            f"AUROC on {known['real']} real and {known['synthetic']} synthetic "
            f"pictures of known origin: {listed}"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 done, 1 failed, 2 wrong request."""
    parser = Parser("sift", __doc__)
    add = parser.add_argument
    add("images", metavar="IMAGE", nargs="*")
    add("--workdir", metavar="RUN")
    add("--step", metavar="last|best|N")
    add("--trust_code", action="store_true")
    for key in saved.PLACES:
        add(f"--{key}", metavar="PLACE")
    add("--cache_dir", metavar="DIR")
    add("--size", type=int, help=f"pixels a side, without a run ({material.SIZE})")
    add("--by", choices=tuple(verdicts.BY))
    add("--false_alarm", type=float, default=threshold.FALSE_ALARM)
    add("--out", metavar="DIR")
    place = parser.add_mutually_exclusive_group().add_argument
    place("--link", metavar="DIR")
    place("--copy", metavar="DIR")
    return terminal.run_command(parser, argv, run, "the same command starts over")


if __name__ == "__main__":
    sys.exit(main())
