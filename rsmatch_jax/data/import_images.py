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
from rsmatch_jax.data.images.import_layouts import LAYOUTS, SPLITS, Images, Item, Plan
from rsmatch_jax.data.stores import arrays, dataset_folder
from rsmatch_jax.errors import RequestError
from rsmatch_jax.terminal import Parser, Progress, run_command, say

_SHOWN = 10
SIZE, SIZES = 32, {"tiny_imagenet": 64}  # default pixels per side, by layout
NOTHING = "nothing was written, start again"


class Import:
    """One import: what to read, and counts of what was read.

    images: by (split, label). counts: `duplicates`, `two_classes`, `two_splits`,
    `resized` and `cropped`. report: the content of pool.json, once all is read.
    """

    def __init__(self, plan: Plan, args: argparse.Namespace):
        self.plan, self.args = plan, args
        self.images, self.per_generator, self.counts = Counter(), Counter(), Counter()
        self.unreadable: list[str] = []
        self.report: dict[str, Any] = {}
        self._seen: dict[bytes, set[tuple[str, int]]] = {}  # digest: (split, label)
        self._progress = Progress("reading", "images", len(plan.items), say)

    def examples(self, example: Callable[..., Any]) -> dict[str, Iterator]:
        """Returns a stream of examples per split; the last one completes the report.

        example: tf_write.Example.
        """
        splits = {s: [i for i in self.plan.items if i.split == s] for s in SPLITS}
        splits = {s: items for s, items in splits.items() if items}
        last = list(splits)[-1]
        return {s: self._stream(example, splits[s], s == last) for s in splits}

    def _stream(
        self, example: Callable[..., Any], items: Sequence[Item], is_last: bool
    ) -> Iterator:
        for item in items:
            self._progress.advance(1)
            try:
                picture = image_source.fit(item.file.read(), self.args.size)
            except image_source.Unreadable as e:
                self.unreadable.append(f"{item.file.path} ({e})")
                continue
            if not self._is_new(picture, item):
                continue
            self.images[item.split, item.label] += 1
            self.per_generator[item.generator] += 1
            self.counts["resized"] += picture.resized
            self.counts["cropped"] += picture.cropped
            yield example(
                image=picture.pixels if picture.encoded is None else picture.encoded,
                label=item.label,
                id=item.file.path,
                generator=item.generator,
            )
        if is_last:
            if self.unreadable and not self.args.skip_unreadable:
                raise RequestError(
                    f"{len(self.unreadable)} files are no complete images, nothing "
                    f"was written: {_some(self.unreadable)}. Replace or delete them, "
                    "or leave them out with --skip_unreadable"
                )
            self._complete_report()

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

    def _complete_report(self):
        plan, counts = self.plan, self.counts
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
        for split in SPLITS:
            numbers = [self.images[split, c] for c in range(len(plan.class_names))]
            if sum(numbers):
                lines.append(f"{split}: {sum(numbers)}")
                for name, number in zip(plan.class_names, numbers, strict=True):
                    lines.append(f"  {name}: {number}")
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
        if not plan.generators and len({split for split, _ in self.images}) == 1:
            lines.append("no test split: training on it needs train/ and test/ folders")
        flag = "data.synthetic_pool" if plan.generators else "data.name"
        lines.append(f"written to {out}; use it with --config.{flag}={out}")
        return "\n".join(lines)


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
