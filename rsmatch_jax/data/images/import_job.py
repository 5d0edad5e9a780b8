"""Reads the images of an import's plan, and counts what was done to them."""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rsmatch_jax.data.images import alpha, image_source
from rsmatch_jax.data.images.folder_tree import some
from rsmatch_jax.data.images.image_source import CROPPED, RESIZED
from rsmatch_jax.data.images.import_plan import (
    NO_LABEL,
    SPLITS,
    UNLABELLED,
    Item,
    Plan,
)
from rsmatch_jax.errors import RequestError
from rsmatch_jax.progress import Progress
from rsmatch_jax.terminal import counted, say


class Import:
    """One import, and counts of what was read. progress: of the streams."""

    def __init__(self, plan: Plan, args: argparse.Namespace):
        self.plan, self.args = plan, args
        self.images: Counter[tuple[str, int]] = Counter()  # by (split, label)
        self.per_generator, self.counts = Counter(), Counter()  # and `Picture.kinds`
        self._put = f"{alpha.PUT} {args.background}"
        self.unreadable: list[str] = []
        self.invisible: list[str] = []  # fully transparent
        self.report: dict[str, Any] = {}  # content of pool.json, once all is read
        self._seen: dict[bytes, set[tuple[str, int]]] = {}  # digest: (split, label)
        self.progress = Progress("reading", "images", len(plan.items), say)

    def examples(self, example: Callable[..., Any]) -> dict[str, Iterator]:
        """Returns the streams of examples (tf_write.Example), to be read in order."""
        items = {s: [i for i in self.plan.items if i.split == s] for s in SPLITS}
        return {s: self._stream(example, part) for s, part in items.items() if part}

    def _stream(self, example: Callable[..., Any], items: Sequence[Item]) -> Iterator:
        split, before = items[0].split, len(self.unreadable)
        for item in items:
            self.progress.advance(1)
            self.counts["files"] += 1
            try:
                picture = image_source.fit(
                    item.file.read(), self.args.size, self.args.background
                )
            except image_source.Unreadable as e:
                self.unreadable.append(f"{item.file.path} ({e})")
                continue
            if self._is_new(picture, item):
                self.images[item.split, item.label] += 1
                self.per_generator[item.generator] += 1
                self.counts.update(picture.kinds)
                if alpha.FULLY_TRANSPARENT in picture.changes:
                    self.invisible.append(item.file.path)
                image = picture.encoded or picture.pixels
                yield example(image, item.label, item.file.path, item.generator)
        unreadable = self.unreadable[before:]
        if unreadable and not any(name == split for name, _ in self.images):
            number = counted(len(unreadable), "file")
            raise RequestError(
                f"{split} has no complete image: {number}; replace or delete "
                f"{some(unreadable)}"
            )
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
            # The unlabelled split is read last.
            is_labelled = item.label != NO_LABEL
            self.counts["two_classes"] += is_labelled and labels != {item.label}
            self.counts["two_splits"] += splits != {item.split}
        places.add(place)
        return True

    def _finish(self):
        """Reports what was read; RequestError if a file is unreadable."""
        plan, args, counts = self.plan, self.args, self.counts
        if self.unreadable and not args.skip_unreadable:
            raise RequestError(
                f"no complete images: {counted(len(self.unreadable), 'file')}; replace,"
                f" delete or leave out (--skip_unreadable) {some(self.unreadable)}"
            )
        duplicates = counts["duplicates"]
        self.report |= {
            "generators": {
                name: {"how": how, "images": self.per_generator[i]}
                for i, (name, how) in enumerate(plan.generators.items())
            },
            "resize": {
                "kernel": image_source.KERNEL if counts[RESIZED] else None,
                "size": args.size,
                "resized": counts[RESIZED],
                "cropped_to_square": counts[CROPPED],
            },
            "transparent": {
                "background": args.background if counts[self._put] else None,
                "images": counts[self._put],
            },
            "exact_duplicates": duplicates,
            "exact_duplicates_dropped": 0 if args.keep_duplicates else duplicates,
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
        lines = [f"{kind}: {counted(sum(self.images.values()), 'image')} of {size}"]
        splits = {split for split, _ in self.images}
        for split in sorted(splits, key=SPLITS.index):
            if split == UNLABELLED:
                lines.append(f"{split}: {self.images[split, NO_LABEL]}")
                continue
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
            (counts[RESIZED], f"resized by {image_source.KERNEL} and stored as PNG"),
            (counts[CROPPED], "of these were cropped to their central square"),
            (counts[self._put], f"transparent, put on {args.background}"),
            (len(self.invisible), f"of these seen not at all: {some(self.invisible)}"),
            (num_others, "other files ignored"),
            *((n, f"images ignored: {reason}") for reason, n in plan.ignored.items()),
            (len(self.unreadable), f"unreadable left out: {some(self.unreadable)}"),
        ):
            if number:
                lines.append(f"{number} {what}")
        planned = {(item.split, item.label) for item in plan.items}
        for split, label in sorted(planned - self.images.keys()):
            name = plan.class_names[label]
            lines.append(f"{split} has no readable picture of {name}")
        if not plan.generators and not splits & {"test", "validation"}:
            lines.append("no test split: training on it needs train/ and test/ folders")
        flag = "data.synthetic_pool" if plan.generators else "data.name"
        lines.append(f"written to {out}; use it with --config.{flag}={out}")
        return "\n".join(lines)
