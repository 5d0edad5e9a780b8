"""Compares a synthetic pool with its real set, to show shortcuts before training.

    rsmatch look POOL --real=NAME [--data_dir=DIR] [--out=DIR]

Prints tables and writes look.json (all figures) and look.png (a contact sheet) to
--out. POOL: a dataset folder, an array folder, or `fake`. By default --out is POOL-look
beside the pool; a second look replaces the first.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rsmatch_jax import files, terminal
from rsmatch_jax.data import pool_choice, sources
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.errors import RequestError
from rsmatch_jax.runs import workdir
from rsmatch_jax.synthesis import checks
from rsmatch_jax.synthesis.look import (
    comparison,
    conditions,
    file_format,
    sheet,
    tables,
)
from rsmatch_jax.terminal import say

JSON, PNG = "look.json", "look.png"


def run(args: argparse.Namespace):
    """Compares, prints and writes everything."""
    checks.check_range("per_class", args.per_class, 1, 20)
    checks.check_range("sample", args.sample, 100, 20_000)
    checks.check_range("seed", args.seed, 0, 2**32 - 1)
    path, out = _places(args)
    say("reading the pool and the real set; the first time decodes them ...")
    with checks.data_flags("--real", args.data_dir):
        pool = sources.load_pool(path, cache_dir=args.cache_dir)
        train, test = sources.load_real(
            args.real, data_dir=args.data_dir, cache_dir=args.cache_dir
        )
        if pool.images.shape[3] != train.images.shape[3]:
            pool, train, test = map(_coloured, (pool, train, test))
        pool_choice.check(pool, train)
        if not len(pool.labels):
            raise RequestError(f"POOL={path} holds no pictures; make it again")
    os.makedirs(out, exist_ok=True)
    report = _report(path)
    figures = {"pool": path, "real": args.real, "imported": _imported(report)}
    columns = conditions.read(path, report, len(pool.labels))
    figures["conditions"] = conditions.figures(columns, pool)
    figures |= comparison.compare(pool, train, test, args.sample, args.seed)
    say("reading how the pictures are encoded ...")
    figures["encoding"] = file_format.of_folders(
        None if path == "fake" else path,
        sources.prepared_folder(args.real, args.data_dir),
        pool.generator_names,
    )
    captions = conditions.captions(columns, pool)
    sheet.draw(os.path.join(out, PNG), pool, train, args.per_class, args.seed, captions)
    figures = files.plain(figures)
    files.write_json(os.path.join(out, JSON), figures)
    say(f"{tables.text(figures)}\nwritten to {out}: {JSON}, {PNG}")


def _coloured(data: arrays.ImageArrays) -> arrays.ImageArrays:
    return dataclasses.replace(data, images=arrays.to_rgb(np.asarray(data.images)))


def _places(args: argparse.Namespace) -> tuple[str, str]:
    """Returns the paths of the pool and of the output."""
    path = args.pool
    if path != "fake":
        path = os.path.abspath(os.path.expanduser(path))
        if not os.path.isdir(path):
            raise RequestError(f"POOL={path}: there is no such folder")
    out = os.path.abspath(os.path.expanduser(args.out or f"{path}-look"))
    if files.contains(os.path.abspath(path), out):
        raise RequestError(f"--out={out} lies in the pool; name a folder outside it")
    workdir.check_writable(out, "--out")
    return path, out


def _report(folder: str) -> dict[str, Any]:
    """Returns what the pool's files say of how it was made."""
    if arrays.is_array_folder(folder):
        meta = arrays.load_meta(folder)
        return meta.get("pool") or meta
    return files.read_json(os.path.join(folder, sources.POOL_REPORT)) or {}


def _imported(report: Mapping[str, Any]) -> dict[str, int | None]:
    """Returns the numbers of duplicates, None if not noted."""
    dropped = report.get("exact_duplicates_dropped", report.get("duplicates_dropped"))
    return {
        "duplicates_found": report.get("exact_duplicates", dropped),
        "duplicates_dropped": dropped,
    }


def _parser() -> terminal.Parser:
    parser = terminal.Parser("look", __doc__)
    add = parser.add_argument
    add("pool", metavar="POOL", help="folder of the pool")
    add("--real", required=True, help="the real dataset, as in --config.data.name")
    add("--data_dir", help="where TFDS keeps its datasets")
    add("--cache_dir", help="where decoded copies are kept")
    add("--out", help="folder of look.json and look.png (default POOL-look)")
    for name, default, text in (
        ("per_class", 8, "pictures a class and group on the sheet"),
        ("sample", 4000, "pictures for the classifier, half of them real"),
        ("seed", 0, "seed of the choice of pictures"),
    ):
        help_text = f"{text} (default {default})"
        add(f"--{name}", type=int, default=default, help=help_text)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    return terminal.run_command(_parser(), argv, run, "start again")


if __name__ == "__main__":
    sys.exit(main())
