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
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rsmatch_jax.data.images import image_source
from rsmatch_jax.data.images.import_layouts import LAYOUTS, SPLITS, Item, Plan
from rsmatch_jax.data.stores import arrays, dataset_folder
from rsmatch_jax.errors import RequestError
from rsmatch_jax.terminal import Parser, Progress, run_command, say

_SHOWN = 10
SIZE, SIZES = 32, {"tiny_imagenet": 64}  # default pixels per side, by layout
NOTHING = "nothing was written, start again"


class Import:
    """One import, and counts of what was read."""

    def __init__(self, plan: Plan, args: argparse.Namespace):
        self.plan, self.args = plan, args
        self.images: Counter[tuple[str, int]] = Counter()  # by (split, label)
        self.per_generator, self.counts = Counter(), Counter()
        self.unreadable: list[str] = []
        self.report: dict[str, Any] = {}  # content of pool.json, once all is read
        self._seen: dict[bytes, set[tuple[str, int]]] = {}  # digest: (split, label)
        self._progress = Progress("reading", "images", len(plan.items), say)

    def examples(self, example: Callable[..., Any]) -> dict[str, Iterator]:
        """Returns the streams of examples (tf_write.Example), to be read in order."""
        items = {s: [i for i in self.plan.items if i.split == s] for s in SPLITS}
        return {s: self._stream(example, part) for s, part in items.items() if part}

    def _stream(self, example: Callable[..., Any], items: Sequence[Item]) -> Iterator:
        for item in items:
            self._progress.advance(1)
            self.counts["files"] += 1
            try:
                picture = image_source.fit(item.file.read(), self.args.size)
            except image_source.Unreadable as e:
                self.unreadable.append(f"{item.file.path} ({e})")
                continue
            if self._is_new(picture, item):
                self.images[item.split, item.label] += 1
                self.per_generator[item.generator] += 1
                self.counts["resized"] += picture.resized
                self.counts["cropped"] += picture.cropped
                image = picture.encoded or picture.pixels
                yield example(image, item.label, item.file.path, item.generator)
        if self.counts["files"] == len(self.plan.items):
            self._finish()

    def _is_new(self, picture: image_source.Picture, item: Item) -> bool:
        """Whether an image is no duplicate to drop; counts equal pixels."""
        places = self._seen.setdefault(picture.digest(), set())
        place = (item.split, item.label)
        if place in places:
            self.counts["duplicates"] += 1
            return self.args.keep_duplicates
        if places:
            labels = {label for _, label in places}
            splits = {split for split, _ in places}
            self.counts["two_classes"] += labels != {item.label}
            self.counts["two_splits"] += splits != {item.split}
        places.add(place)
        return True

    def _finish(self):
        """Reports what was read; RequestError if a file is unreadable."""
        plan, counts = self.plan, self.counts
        if self.unreadable and not self.args.skip_unreadable:
            raise RequestError(
                f"{len(self.unreadable)} files are no complete images: replace, delete "
                f"or leave out (--skip_unreadable) {_some(self.unreadable)}"
            )
        duplicates = counts["duplicates"]
        self.report |= {
            "generators": {
                name: {"how": how, "images": self.per_generator[i]}
                for i, (name, how) in enumerate(plan.generators.items())
            },
            "resize": {
                "kernel": image_source.KERNEL if counts["resized"] else None,
                "size": self.args.size,
                "resized": counts["resized"],
                "cropped_to_square": counts["cropped"],
            },
            "exact_duplicates": duplicates,
            "exact_duplicates_dropped": 0 if self.args.keep_duplicates else duplicates,
            "same_pixels_in_two_classes": counts["two_classes"],
            "unreadable_left_out": self.unreadable,
            "licence": plan.licence,
            "source": plan.source,
        }

    def summary(self, out: str, num_others: int) -> str:
        """Returns what was imported, in lines for the user."""
        plan, args, counts = self.plan, self.args, self.counts
        kind = f"pool of {', '.join(plan.generators)}" if plan.generators else "dataset"
        size = "their own sizes" if args.size is None else f"{args.size}x{args.size}"
        lines = [f"{kind}: {sum(self.images.values())} images of {size}"]
        splits = {split for split, _ in self.images}
        for split in sorted(splits, key=SPLITS.index):
            numbers = [self.images[split, c] for c in range(len(plan.class_names))]
            lines.append(f"{split}: {sum(numbers)}")
            pairs = zip(plan.class_names, numbers, strict=True)
            lines += [f"  {name}: {number}" for name, number in pairs]
        fate = "kept" if args.keep_duplicates else "dropped"
        lines.append(f"exact duplicates {fate}: {counts['duplicates']}")
        kept_as = "kept although the same pixels"
        for number, what in (
            (counts["two_classes"], f"{kept_as} have another class as well"),
            (counts["two_splits"], f"{kept_as} are also in another split"),
            (counts["resized"], f"resized by {image_source.KERNEL} and stored as PNG"),
            (counts["cropped"], "of these were cropped to their central square"),
            (num_others, "other files ignored"),
            *((n, f"images ignored: {reason}") for reason, n in plan.ignored.items()),
            (len(self.unreadable), f"unreadable left out: {_some(self.unreadable)}"),
        ):
            if number:
                lines.append(f"{number} {what}")
        if not plan.generators and len(splits) == 1:
            lines.append("no test split: training on it needs train/ and test/ folders")
        flag = "data.synthetic_pool" if plan.generators else "data.name"
        lines.append(f"written to {out}; use it with --config.{flag}={out}")
        return "\n".join(lines)


def run(args: argparse.Namespace):
    """Imports what the flags say and prints a summary."""
    out = os.path.abspath(os.path.expanduser(args.out))
    args.source = os.path.abspath(os.path.expanduser(args.source))
    if args.size is None and not args.full_size:
        args.size = SIZES.get(args.layout, SIZE)
    if args.size is not None and args.size < 1:
        raise RequestError(f"--size={args.size} must be at least 1")
    if args.generator is not None and not args.generator.strip():
        raise RequestError("--generator= is empty; name what made the images")
    args.class_names = _read_names(args.class_names) if args.class_names else ()
    with image_source.open_source(args.source) as (files, others):
        plan = LAYOUTS[args.layout](files, others, args)
        if arrays.REAL_ORIGIN in plan.generators:
            name = f'"{arrays.REAL_ORIGIN}", which stands for real images'
            raise RequestError(f"no generator may be called {name}")
        with dataset_folder.needs_tensorflow("importing images"):
            from rsmatch_jax.data.stores import tf_write  # lazy: after all checks
        job = Import(plan, args)
        tf_write.write(
            out,
            job.examples(tf_write.Example),
            class_names=plan.class_names,
            size=(args.size, args.size),
            generator_names=tuple(plan.generators),
            pool=job.report if plan.generators else None,
            description=plan.source,
            licence=plan.licence,
        )
    say(job.summary(out, len(others)))


def _some(texts: list[str]) -> str:
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more


def _read_names(path: str) -> tuple[str, ...]:
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as f:
            return tuple(line.strip() for line in f if line.strip())
    except (OSError, UnicodeDecodeError) as e:
        raise RequestError(f"--class_names={path} cannot be read: {e}") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 done, 1 failed, 2 wrong request."""
    parser = Parser("data.import_images", __doc__)
    add = parser.add_argument
    add("--layout", required=True, choices=sorted(LAYOUTS))
    add("--source", required=True, help="folder or zip; a zip is read in place")
    add("--out", required=True, help="new dataset folder; must not exist")
    add("--generator", help="name of what made the images; makes the result a pool")
    size = parser.add_mutually_exclusive_group().add_argument
    size("--size", type=int, help="pixels per side (default 32; 64 for tiny_imagenet)")
    size("--full_size", action="store_true", help="keep every image's size")
    add("--keep_duplicates", action="store_true", help="keep equal images of a class")
    add("--skip_unreadable", action="store_true", help="leave out damaged images")
    add("--class_names", help="file with one class name per line, in label order")
    return run_command(parser, argv, run, NOTHING)


if __name__ == "__main__":
    sys.exit(main())
