"""Turns images on disk into a TFDS dataset folder: a synthetic pool or a real dataset.

    python -m rsmatch_jax.data.import_images --layout=cifake --source=ZIP --out=DIR
    python -m rsmatch_jax.data.import_images --layout=folders --source=DIR --out=DIR
    python -m rsmatch_jax.data.import_images --layout=tiny_imagenet --source=ZIP
        --out=DATA_DIR/tiny_imagenet/1.0.0

Layouts: `cifake` is the archive of CIFAKE (arXiv:2303.14126). `folders` is one folder
per class: class/img is a real dataset, or with --generator a pool; train|test/class/img
a real dataset with both splits; generator/class/img a pool of several generators.
`tiny_imagenet` is the archive of Tiny-ImageNet; its val folder becomes `test`.
With --full_size images of any sizes keep theirs, to be trained on with data.image_size.
"""

import argparse
import dataclasses
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from rsmatch_jax.data.images import image_source
from rsmatch_jax.data.images.import_layouts import LAYOUTS, SPLITS, Plan
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.errors import RequestError, RunFailed, exit_code
from rsmatch_jax.terminal import Parser, Progress, say

_SHOWN = 10
SIZE, SIZES = 32, {"tiny_imagenet": 64}  # pixels a side, where none are asked for
NOTHING = "nothing was written, start again"


@dataclasses.dataclass
class Tally:
    """Counts of one import."""

    kept: Counter = dataclasses.field(default_factory=Counter)
    per_generator: Counter = dataclasses.field(default_factory=Counter)
    unreadable: list[str] = dataclasses.field(default_factory=list)
    duplicates: int = 0
    two_classes: int = 0
    two_splits: int = 0
    resized: int = 0
    cropped: int = 0


def run(args: argparse.Namespace):
    """Imports by the parsed flags and writes a summary to the terminal."""
    out = os.path.abspath(os.path.expanduser(args.out))
    if os.path.lexists(out):
        raise RequestError(
            f"--out={out} exists already; choose another folder, or delete it first"
        )
    args.size = _asked_size(args)
    root = os.path.abspath(os.path.expanduser(args.source))
    if args.generator is not None and not args.generator.strip():
        raise RequestError("--generator= is empty; name what made the images")
    class_names = _read_names(args.class_names) if args.class_names else ()
    with image_source.open_source(args.source) as (files, rest):
        others = len(rest)
        plan = LAYOUTS[args.layout](files, rest, root, args.generator, class_names)
        if arrays.REAL_ORIGIN in plan.generators:
            raise RequestError(
                f'no generator may be called "{arrays.REAL_ORIGIN}", as real images '
                "are; give it another name"
            )
        tf_write = _tf_write()
        tally = Tally()
        report: dict[str, Any] = {}
        splits = {s: [] for s in SPLITS if any(i.split == s for i in plan.items)}
        for item in plan.items:
            splits[item.split].append(item)
        examples = _examples(tf_write, splits, args, plan, tally, report)
        tf_write.write(
            out,
            examples,
            class_names=plan.class_names,
            size=(args.size, args.size),
            generator_names=tuple(plan.generators),
            pool=report if plan.generators else None,
            description=plan.source,
            licence=plan.licence,
        )
    say(_summary(out, plan, tally, others, args))


def _asked_size(args: argparse.Namespace) -> int | None:
    """Pixels a side; None = every image as it is."""
    if args.full_size:
        if args.size is not None:
            raise RequestError("--size and --full_size exclude each other; give one")
        return None
    size = SIZES.get(args.layout, SIZE) if args.size is None else args.size
    if size < 1:
        raise RequestError(f"--size={size} must be at least 1")
    return size


def _examples(
    tf_write, splits: dict, args: argparse.Namespace, plan: Plan, tally: Tally, report
) -> dict[str, Iterator]:
    """A stream of examples per split; the last one completes the report."""
    seen: dict[bytes, set[tuple[str, int]]] = {}
    progress = Progress("reading", "images", len(plan.items), say)
    last = list(splits)[-1]

    def stream(split: str):
        for item in splits[split]:
            progress.advance(1)
            try:
                picture = image_source.fit(item.file.read(), args.size)
            except image_source.Unreadable as e:
                tally.unreadable.append(f"{item.file.path} ({e})")
                continue
            places = seen.setdefault(picture.digest(), set())
            place = (split, item.label)
            if place in places:
                tally.duplicates += 1
                if not args.keep_duplicates:
                    continue
            elif places:
                tally.two_classes += any(label != item.label for _, label in places)
                tally.two_splits += any(other != split for other, _ in places)
            places.add(place)
            tally.kept[place] += 1
            tally.per_generator[item.generator] += 1
            tally.resized += picture.resized
            tally.cropped += picture.cropped
            yield tf_write.Example(
                image=picture.pixels if picture.encoded is None else picture.encoded,
                label=item.label,
                id=item.file.path,
                generator=item.generator,
            )
        if split == last:
            _refuse_unreadable(tally, args)
            report.update(_report(plan, tally, args))

    return {split: stream(split) for split in splits}


def _refuse_unreadable(tally: Tally, args: argparse.Namespace):
    if tally.unreadable and not args.skip_unreadable:
        raise RequestError(
            f"{len(tally.unreadable)} files are no whole images, nothing was written: "
            f"{_some(tally.unreadable)}. Replace or delete them, or leave them out "
            "with --skip_unreadable"
        )


def _report(plan: Plan, tally: Tally, args: argparse.Namespace) -> dict[str, Any]:
    """The content of pool.json."""
    return {
        "generators": {
            name: {"how": how, "images": tally.per_generator[i]}
            for i, (name, how) in enumerate(plan.generators.items())
        },
        "resize": {
            "kernel": image_source.KERNEL if tally.resized else None,
            "size": args.size,
            "resized": tally.resized,
            "cropped_to_square": tally.cropped,
        },
        "exact_duplicates": tally.duplicates,
        "exact_duplicates_dropped": 0 if args.keep_duplicates else tally.duplicates,
        "same_pixels_in_two_classes": tally.two_classes,
        "unreadable_left_out": tally.unreadable,
        "licence": plan.licence,
        "source": plan.source,
    }


def _summary(
    out: str, plan: Plan, tally: Tally, others: int, args: argparse.Namespace
) -> str:
    kind = f"pool of {', '.join(plan.generators)}" if plan.generators else "dataset"
    size = "their own sizes" if args.size is None else f"{args.size}x{args.size}"
    lines = [f"{kind}: {sum(tally.kept.values())} images of {size}"]
    for split in SPLITS:
        counts = [tally.kept[split, c] for c in range(len(plan.class_names))]
        if sum(counts):
            lines.append(f"{split}: {sum(counts)}")
            for name, count in zip(plan.class_names, counts, strict=True):
                lines.append(f"  {name}: {count}")
    fate = "kept" if args.keep_duplicates else "dropped"
    lines.append(f"exact duplicates {fate}: {tally.duplicates}")
    for count, what in (
        (tally.two_classes, "kept although the same pixels have another class as well"),
        (
            tally.two_splits,
            "kept although the same pixels are in another split as well",
        ),
        (tally.resized, f"resized by {image_source.KERNEL} and stored as PNG"),
        (tally.cropped, "of these were cropped to their central square"),
        (others, "other files ignored"),
        *((n, f"images ignored: {why}") for why, n in plan.ignored.items()),
    ):
        if count:
            lines.append(f"{count} {what}")
    if tally.unreadable:
        unreadable = _some(tally.unreadable)
        lines.append(f"{len(tally.unreadable)} unreadable left out: {unreadable}")
    if not plan.generators and len({split for split, _ in tally.kept}) == 1:
        lines.append("no test split: training on it needs train/ and test/ folders")
    flag = "data.synthetic_pool" if plan.generators else "data.name"
    lines.append(f"written to {out}; use it with --config.{flag}={out}")
    return "\n".join(lines)


def _some(texts: list[str]) -> str:
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more


def _read_names(path: str) -> tuple[str, ...]:
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as f:
            return tuple(line.strip() for line in f if line.strip())
    except (OSError, UnicodeDecodeError) as e:
        raise RequestError(f"--class_names={path} cannot be read: {e}") from None


def _tf_write():
    try:
        from rsmatch_jax.data.stores import (
            tf_write,  # lazy: mistakes are told without TF
        )
    except ImportError as e:
        raise RequestError(
            f"importing images needs TensorFlow and tensorflow-datasets ({e}): "
            "pip install -r requirements.txt"
        ) from e
    return tf_write


def _parser() -> Parser:
    parser = Parser("data.import_images", __doc__)
    add = parser.add_argument
    add("--layout", required=True, choices=sorted(LAYOUTS))
    add("--source", required=True, help="folder or zip; a zip is read in place")
    add("--out", required=True, help="new dataset folder; must not exist")
    add("--generator", help="name of what made the images; makes the result a pool")
    add("--size", type=int, help="pixels a side (default 32; 64 for tiny_imagenet)")
    add("--full_size", action="store_true", help="keep every image's own size")
    add("--keep_duplicates", action="store_true", help="keep equal images of a class")
    add("--skip_unreadable", action="store_true", help="leave out damaged images")
    add("--class_names", help="file with a class name a line, in the order of labels")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0 done, 1 failed, 2 the request was wrong."""

    def command():
        args = _parser().parse_args(argv)
        try:
            run(args)
        except OSError as e:
            raise RunFailed(f"{e}; {NOTHING}") from e

    return exit_code(command, NOTHING)


if __name__ == "__main__":
    sys.exit(main())
