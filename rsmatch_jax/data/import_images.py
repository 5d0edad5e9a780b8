"""Turns images on disk into a TFDS dataset folder: a synthetic pool or a real dataset.

    python -m rsmatch_jax.data.import_images --layout=cifake --source=ZIP --out=DIR
    python -m rsmatch_jax.data.import_images --layout=folders --source=DIR --out=DIR
    python -m rsmatch_jax.data.import_images --layout=tiny_imagenet --source=ZIP
        --out=DATA_DIR/tiny_imagenet/1.0.0

Layouts: `cifake` is the archive of CIFAKE (arXiv:2303.14126). `folders` is one folder
per class: class/img is a real dataset, or with --generator a pool; train|test/class/img
a real dataset with both splits; generator/class/img a pool of several generators.
`tiny_imagenet` is the archive of Tiny-ImageNet; its val folder becomes `test`.
With --full_size images keep their sizes, for training with data.image_size.
"""

import argparse
import dataclasses
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from rsmatch_jax.data.images import image_source
from rsmatch_jax.data.images.import_layouts import LAYOUTS, SPLITS, Images, Item, Plan
from rsmatch_jax.data.stores import arrays, dataset_folder
from rsmatch_jax.errors import RequestError
from rsmatch_jax.terminal import Parser, Progress, run_command, say

_SHOWN = 10
SIZE, SIZES = 32, {"tiny_imagenet": 64}  # default pixels per side, by layout
NOTHING = "nothing was written, start again"


@dataclasses.dataclass
class Tally:
    """Counts of one import. images: by (split, label)."""

    images: Counter = dataclasses.field(default_factory=Counter)
    per_generator: Counter = dataclasses.field(default_factory=Counter)
    unreadable: list[str] = dataclasses.field(default_factory=list)
    duplicates: int = 0
    two_classes: int = 0
    two_splits: int = 0
    resized: int = 0
    cropped: int = 0


def run(args: argparse.Namespace):
    """Imports what the flags say and prints a summary."""
    out = os.path.abspath(os.path.expanduser(args.out))
    dataset_folder.refuse_existing(out)
    args.size = _size(args)
    root = os.path.abspath(os.path.expanduser(args.source))
    if args.generator is not None and not args.generator.strip():
        raise RequestError("--generator= is empty; name what made the images")
    class_names = _read_names(args.class_names) if args.class_names else ()
    with image_source.open_source(args.source) as (files, others):
        images = Images(files, others, root, args.generator, class_names)
        plan = LAYOUTS[args.layout](images)
        if arrays.REAL_ORIGIN in plan.generators:
            raise RequestError(
                f'no generator may be called "{arrays.REAL_ORIGIN}", the name that '
                "stands for real images; give it another name"
            )
        with dataset_folder.needs_tensorflow("importing images"):
            from rsmatch_jax.data.stores import tf_write  # lazy: after all checks
        tally, report = Tally(), {}
        tf_write.write(
            out,
            _examples(plan, args, tally, report, tf_write),
            class_names=plan.class_names,
            size=(args.size, args.size),
            generator_names=tuple(plan.generators),
            pool=report if plan.generators else None,
            description=plan.source,
            licence=plan.licence,
        )
    say(_summary(out, plan, tally, len(others), args))


def _size(args: argparse.Namespace) -> int | None:
    """Pixels per side; None keeps every image's size."""
    if args.full_size:
        if args.size is not None:
            raise RequestError("--size and --full_size exclude each other; give one")
        return None
    size = SIZES.get(args.layout, SIZE) if args.size is None else args.size
    if size < 1:
        raise RequestError(f"--size={size} must be at least 1")
    return size


def _examples(
    plan: Plan,
    args: argparse.Namespace,
    tally: Tally,
    report: dict[str, Any],
    tf_write: ModuleType,
) -> dict[str, Iterator]:
    """A stream of examples per split. The last one completes the report."""
    splits = {s: [i for i in plan.items if i.split == s] for s in SPLITS}
    splits = {s: items for s, items in splits.items() if items}
    last = list(splits)[-1]
    progress = Progress("reading", "images", len(plan.items), say)
    seen: dict[bytes, set[tuple[str, int]]] = {}  # digest -> (split, label)

    def stream(split: str) -> Iterator:
        for item in splits[split]:
            progress.advance(1)
            picture = _read(item, args, tally)
            if picture is None or not _is_new(picture, item, args, tally, seen):
                continue
            tally.images[split, item.label] += 1
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
            if tally.unreadable and not args.skip_unreadable:
                raise RequestError(
                    f"{len(tally.unreadable)} files are no complete images, nothing "
                    f"was written: {_some(tally.unreadable)}. Replace or delete them, "
                    "or leave them out with --skip_unreadable"
                )
            report.update(_report(plan, tally, args))

    return {split: stream(split) for split in splits}


def _read(
    item: Item, args: argparse.Namespace, tally: Tally
) -> image_source.Picture | None:
    try:
        return image_source.fit(item.file.read(), args.size)
    except image_source.Unreadable as e:
        tally.unreadable.append(f"{item.file.path} ({e})")
        return None


def _is_new(
    picture: image_source.Picture,
    item: Item,
    args: argparse.Namespace,
    tally: Tally,
    seen: dict[bytes, set[tuple[str, int]]],
) -> bool:
    """Whether an image is no duplicate to drop; counts equal pixels."""
    places = seen.setdefault(picture.digest(), set())
    place = (item.split, item.label)
    if place in places:
        tally.duplicates += 1
        return args.keep_duplicates
    if places:
        tally.two_classes += any(label != item.label for _, label in places)
        tally.two_splits += any(split != item.split for split, _ in places)
    places.add(place)
    return True


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
    out: str, plan: Plan, tally: Tally, num_others: int, args: argparse.Namespace
) -> str:
    kind = f"pool of {', '.join(plan.generators)}" if plan.generators else "dataset"
    size = "their own sizes" if args.size is None else f"{args.size}x{args.size}"
    lines = [f"{kind}: {sum(tally.images.values())} images of {size}"]
    for split in SPLITS:
        counts = [tally.images[split, c] for c in range(len(plan.class_names))]
        if sum(counts):
            lines.append(f"{split}: {sum(counts)}")
            for name, count in zip(plan.class_names, counts, strict=True):
                lines.append(f"  {name}: {count}")
    fate = "kept" if args.keep_duplicates else "dropped"
    lines.append(f"exact duplicates {fate}: {tally.duplicates}")
    for count, what in (
        (tally.two_classes, "kept although the same pixels have another class as well"),
        (tally.two_splits, "kept although the same pixels are also in another split"),
        (tally.resized, f"resized by {image_source.KERNEL} and stored as PNG"),
        (tally.cropped, "of these were cropped to their central square"),
        (num_others, "other files ignored"),
        *((n, f"images ignored: {reason}") for reason, n in plan.ignored.items()),
        (len(tally.unreadable), f"unreadable left out: {_some(tally.unreadable)}"),
    ):
        if count:
            lines.append(f"{count} {what}")
    if not plan.generators and len({split for split, _ in tally.images}) == 1:
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


def _parser() -> Parser:
    parser = Parser("data.import_images", __doc__)
    add = parser.add_argument
    add("--layout", required=True, choices=sorted(LAYOUTS))
    add("--source", required=True, help="folder or zip; a zip is read in place")
    add("--out", required=True, help="new dataset folder; must not exist")
    add("--generator", help="name of what made the images; makes the result a pool")
    add("--size", type=int, help="pixels per side (default 32; 64 for tiny_imagenet)")
    add("--full_size", action="store_true", help="keep every image's size")
    add("--keep_duplicates", action="store_true", help="keep equal images of a class")
    add("--skip_unreadable", action="store_true", help="leave out damaged images")
    add("--class_names", help="file with one class name per line, in label order")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 done, 1 failed, 2 wrong request."""
    return run_command(_parser(), argv, run, NOTHING)


if __name__ == "__main__":
    sys.exit(main())
