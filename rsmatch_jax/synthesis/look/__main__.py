"""Looks at a synthetic pool beside the real set, so that a shortcut shows before a
network learns it.

    python -m rsmatch_jax.synthesis.look POOL --real=NAME [--data_dir=DIR] [--out=DIR]

Writes tables to the terminal, and to --out look.json (all figures) and look.png (a
contact sheet). POOL: a dataset folder, an array folder, or `fake`. By default --out is
POOL-look beside the pool; a second look replaces the first.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from rsmatch_jax.data import sources
from rsmatch_jax.data.stores import arrays, dataset_folder
from rsmatch_jax.data.stores.arrays import ImageArrays
from rsmatch_jax.errors import RequestError, RunFailed, exit_code
from rsmatch_jax.synthesis.look import comparison, encoding, sheet, tables
from rsmatch_jax.terminal import Parser

JSON, PNG = "look.json", "look.png"
GO_ON = "start again"
# Loading data speaks of a run's config; these are this command's flags.
_WORDS = {
    "--config.data.": "--",
    "data.name=": "--real=",
    "data.data_dir": "--data_dir",
    "data.cache_dir": "--cache_dir",
}


def run(args: argparse.Namespace):
    """The whole command by its parsed flags."""
    _check_flags(args)
    path = args.pool
    if path != "fake":
        path = os.path.abspath(os.path.expanduser(path))
        if not os.path.isdir(path):
            raise RequestError(
                f"POOL={path}: there is no such folder; name one that rsmatch_jax."
                "data.import_images, rsmatch_jax.synthesis.generate or "
                "rsmatch_jax.synthesis.ddpm has written"
            )
    out = os.path.abspath(os.path.expanduser(args.out or f"{path}-look"))
    if os.path.commonpath([out, os.path.abspath(path)]) == os.path.abspath(path):
        raise RequestError(f"--out={out} lies in the pool; name a folder outside it")
    _note("reading the pool and the real set; the first time decodes them")
    try:
        pool = sources.load_pool(path, cache_dir=args.cache_dir)
        train, test = sources.load_real(
            args.real, data_dir=args.data_dir, cache_dir=args.cache_dir
        )
    except RequestError as e:
        raise RequestError(_own_words(str(e))) from None
    check_match(path, pool, args.real, train)
    try:  # before a minute of work
        os.makedirs(out, exist_ok=True)
    except OSError as e:
        raise RequestError(f"--out={out} cannot be made: {e}") from None
    if pool.images.shape[3] != train.images.shape[3]:
        pool, train, test = (
            dataclasses.replace(d, images=arrays.to_rgb(d.images))
            for d in (pool, train, test)
        )
    figures = {
        "pool": path,
        "real": args.real,
        "imported": _import_report(path),
        **comparison.compare(
            pool, train, test, sample=args.sample, seed=args.seed, note=_note
        ),
    }
    _note("reading how the pictures are encoded")
    figures["encoding"] = encoding.of_folders(
        None if path == "fake" else path,
        _real_folder(args.real, args.data_dir),
        pool.generator_names,
    )
    sheet.draw(os.path.join(out, PNG), pool, train, args.per_class, args.seed)
    temporary = os.path.join(out, f".{JSON}.tmp")
    with open(temporary, "w", encoding="utf-8") as f:
        json.dump(figures, f, indent=1, ensure_ascii=False)
        f.write("\n")
    os.replace(temporary, os.path.join(out, JSON))
    sys.stdout.write(tables.text(figures))
    sys.stdout.write(f"\nwritten to {out}: {JSON}, {PNG}\n")


def check_match(path: str, pool: ImageArrays, name: str, real: ImageArrays):
    """Raises RequestError unless pool and real set have equal classes and sizes."""
    if not len(pool.labels):
        raise RequestError(f"{path} holds no pictures; make the pool again")
    if pool.class_names != real.class_names:
        missing = [n for n in real.class_names if n not in pool.class_names]
        others = [n for n in pool.class_names if n not in real.class_names]
        pairs = enumerate(zip(pool.class_names, real.class_names, strict=False))
        first = next((f"label {i} is {p} and {r}" for i, (p, r) in pairs if p != r), "")
        raise RequestError(
            f"{path} has {pool.num_classes} classes, --real={name} has "
            f"{real.num_classes}, and they differ: {_listed(missing)} missing from the "
            f"pool, {_listed(others)} unknown to the real set"
            + (f"; {first}" if first else "")
            + ". Name the dataset the pool was made for, or import the pool again with "
            "--class_names=FILE in the real set's order"
        )
    size, wanted = pool.images.shape[1:3], real.images.shape[1:3]
    if size != wanted:
        raise RequestError(
            f"{path} holds pictures of {size[0]}x{size[1]} pixels, --real={name} of "
            f"{wanted[0]}x{wanted[1]}; import or generate the pool again with "
            f"--size={wanted[0]}"
        )


def _real_folder(name: str, data_dir: str | None) -> str | None:
    """The dataset folder behind --real; None where pictures are made or were cached."""
    if name in ("digits", "fake"):
        return None
    if sources.is_path(name):
        folder = os.path.abspath(os.path.expanduser(name))
        return folder if dataset_folder.is_dataset(folder) else None
    return dataset_folder.find(name, dataset_folder.default_data_dir(data_dir))


def _import_report(folder: str) -> dict[str, int | None]:
    """What the pool's own files say of duplicates; None where they are silent."""
    found: dict[str, Any] = {}
    path = os.path.join(folder, sources.POOL_REPORT)
    if arrays.is_array_folder(folder):
        meta = arrays.load_meta(folder)
        found = meta.get("pool") or meta
    elif os.path.isfile(path):
        try:
            with open(path, encoding="utf-8") as f:
                found = json.load(f)
        except ValueError as e:
            raise RequestError(f"{path} cannot be read ({e}); import it again") from e
    if not isinstance(found, dict):
        raise RequestError(f"{path} holds no JSON object; import the pool again")
    dropped = found.get("exact_duplicates_dropped", found.get("duplicates_dropped"))
    return {
        "duplicates_found": found.get("exact_duplicates", dropped),
        "duplicates_dropped": dropped,
    }


def _check_flags(args: argparse.Namespace):
    limits = {"per_class": (1, 20), "sample": (100, 20_000), "seed": (0, 2**32 - 1)}
    for name, (low, high) in limits.items():
        value = getattr(args, name)
        if not low <= value <= high:
            raise RequestError(f"--{name}={value} cannot work: give {low} to {high}")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return (", ".join(names[:6]) or "none") + more


def _own_words(message: str) -> str:
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    return message


def _note(line: str):
    sys.stderr.write(f"{line} ...\n")
    sys.stderr.flush()


def _parser() -> Parser:
    parser = Parser("synthesis.look", __doc__)
    add = parser.add_argument
    add("pool", metavar="POOL", help="folder of the pool")
    add("--real", required=True, help="the real set, as --config.data.name takes it")
    add("--data_dir", help="where TFDS keeps its datasets")
    add("--cache_dir", help="where decoded copies are kept")
    add("--out", help="folder of look.json and look.png (default POOL-look)")
    add(
        "--per_class",
        type=int,
        default=8,
        help="pictures a class and group on the sheet (default 8)",
    )
    add(
        "--sample",
        type=int,
        default=4000,
        help="pictures the classifier sees, half of them real (default 4000)",
    )
    add("--seed", type=int, default=0, help="of the choice of pictures (default 0)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0 done, 1 failed, 2 the request was wrong."""

    def command():
        args = _parser().parse_args(argv)
        try:
            run(args)
        except OSError as e:
            raise RunFailed(f"{e}; {GO_ON}") from e

    return exit_code(command, GO_ON)


if __name__ == "__main__":
    sys.exit(main())
