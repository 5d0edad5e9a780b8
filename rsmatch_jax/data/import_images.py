"""Turns images on disk into a TFDS dataset folder: a synthetic pool or a real dataset.

    rsmatch import --layout=cifake --source=ZIP --out=DIR
    rsmatch import --layout=folders --source=DIR --out=DIR
    rsmatch import --layout=tiny_imagenet --source=ZIP
        --out=DATA_DIR/tiny_imagenet/1.0.0

Layouts: `cifake` is the archive of CIFAKE (arXiv:2303.14126). `tiny_imagenet` is the
archive of Tiny-ImageNet; its val folder becomes `test`. `folders` is one folder per
class, in one of these forms:
    class/img               a real dataset, or with --generator=NAME a pool
    split/class/img         a real dataset; with --generator the train split alone
    generator/class/img     a pool of several generators, with --generators=NAME,NAME
    unlabelled/...          beside these: images without class, in folders of any kind
    FILE.csv as --source    columns path and label, paths relative to the CSV
Splits in any case: train, training; val, valid, validation, dev; test, testing, eval;
unlabelled, unlabeled. A folder that holds everything is entered. Nothing else is
guessed: folders above the classes that are no splits need --generators. The unlabelled
split has the label -1 and, in origins.json, an unknown origin.

Source: a folder, in which symbolic links are followed, each real file once, or a zip,
tar or tar.gz. Transparent images are put on --background (white) first. With
--full_size images keep their sizes, for training with data.image_size.
"""

import argparse
import contextlib
import os
from collections import Counter
from collections.abc import Generator, Sequence

from rsmatch_jax import files, progress, terminal
from rsmatch_jax.data.images import alpha, image_source
from rsmatch_jax.data.images.folder_tree import some
from rsmatch_jax.data.images.import_job import Import
from rsmatch_jax.data.images.import_layouts import LAYOUTS, table_plan
from rsmatch_jax.data.images.import_plan import UNLABELLED, Plan
from rsmatch_jax.data.stores import arrays, dataset_folder
from rsmatch_jax.errors import RequestError
from rsmatch_jax.terminal import Parser, run_command, say

SIZE, SIZES = 32, {"tiny_imagenet": 64}  # default pixels per side, by layout
NOTHING = "nothing was written, start again"


@contextlib.contextmanager
def planned(args: argparse.Namespace) -> Generator[tuple[Plan, int]]:
    """Opens the source; yields the plan and the number of files that are no images."""
    if args.source.lower().endswith(".csv"):
        if args.layout != "folders":
            reason = "a CSV takes the place of class folders: pass --layout=folders"
            raise RequestError(f"--layout={args.layout}: {reason}")
        yield table_plan(args), 0
        return
    with image_source.open_source(args.source) as (images, others):
        yield LAYOUTS[args.layout](images, others, args), len(others)


def checked(args: argparse.Namespace) -> argparse.Namespace:
    """Fills in defaults and reads --class_names; RequestError for a wrong value."""
    args.source = files.absolute(args.source)
    if args.size is None and not args.full_size:
        args.size = SIZES.get(args.layout, SIZE)
    if args.size is not None and args.size < 1:
        raise RequestError(f"--size={args.size} must be at least 1")
    if args.generator is not None and not args.generator.strip():
        raise RequestError("--generator= is empty; name what made the images")
    if "" in args.generators:
        raise RequestError("--generators= names an empty folder; write NAME,NAME")
    alpha.colour(args.background)
    args.class_names = _read_names(args.class_names) if args.class_names else ()
    return args


def run(args: argparse.Namespace):
    """Imports what the flags say and prints a summary."""
    args = checked(args)
    out = files.absolute(args.out)
    with planned(args) as (plan, num_others):
        for note in plan.notes:
            say(note)
        if arrays.REAL_ORIGIN in plan.generators:
            name = f'"{arrays.REAL_ORIGIN}", which stands for real images'
            raise RequestError(f"no generator may be called {name}")
        loading = progress.busy("loading TensorFlow")
        with dataset_folder.needs_tensorflow("importing images"), loading:
            from rsmatch_jax.data.stores import tf_write  # lazy: after all checks
        job = Import(plan, args)
        has_unlabelled = any(item.split == UNLABELLED for item in plan.items)
        origins = {UNLABELLED: "unknown"} if has_unlabelled else {}
        with job.progress:
            tf_write.write(
                out,
                job.examples(tf_write.Example),
                class_names=plan.class_names,
                size=(args.size, args.size),
                generator_names=tuple(plan.generators),
                pool=job.report if plan.generators else None,
                origins=origins or None,
                description=plan.source,
                licence=plan.licence,
            )
    say(job.summary(out, num_others))


def _read_names(path: str) -> tuple[str, ...]:
    try:
        # -sig: without the mark that some editors put before a text.
        with open(os.path.expanduser(path), encoding="utf-8-sig") as f:
            names = tuple(line.strip() for line in f if line.strip())
    except (OSError, UnicodeDecodeError) as e:
        raise RequestError(f"--class_names={path} cannot be read: {e}") from None
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        reason = f"names {some(twice)} more than once, and a class has one label"
        raise RequestError(f"--class_names={path} {reason}; remove the repetitions")
    return names


def add_flags(parser: Parser):
    """Adds the command's flags."""
    add = parser.add_argument
    add("--layout", required=True, choices=sorted(LAYOUTS))
    add("--source", required=True, help="folder, zip, tar, tar.gz or CSV of labels")
    add("--out", required=True, help="new dataset folder; must not exist")
    generator = parser.add_mutually_exclusive_group().add_argument
    generator("--generator", help="what made the images; makes the result a pool")
    generator(
        "--generators",
        metavar="NAME,NAME",
        type=lambda text: tuple(name.strip() for name in text.split(",")),
        default=(),
        help="the folders above the classes, which name what made the images",
    )
    size = parser.add_mutually_exclusive_group().add_argument
    size("--size", type=int, help="pixels per side (default 32; 64 for tiny_imagenet)")
    size("--full_size", action="store_true", help="keep every image's size")
    add("--background", metavar="COLOUR", default=alpha.BACKGROUND)
    add("--keep_duplicates", action="store_true", help="keep equal images of a class")
    add("--skip_unreadable", action="store_true", help="leave out damaged images")
    add("--class_names", help="file with one class name per line, in label order")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 done, 1 failed, 2 wrong request."""
    parser = Parser("import", __doc__)
    add_flags(parser)
    return run_command(parser, argv, run, NOTHING)


if __name__ == "__main__":
    terminal.leave(main())
