"""Draws a synthetic pool: a text-to-image model makes one picture per prompt.

    python -m rsmatch_jax.synthesis.generate --prompts=FILE --generator=sd14 --out=POOL

Generators: sd14 (Stable Diffusion 1.4), sdxl_lightning (4 steps), glide, or the folder
of any diffusers text-to-image model. Runs with different generators fill one pool.
Pictures are kept below POOL/.staging as they come, so a run that was stopped, by
whatever, goes on where it was; started again when all is done it says so. With a longer
prompt file that begins with the same prompts it draws those that are new.
"""

import argparse
import errno
import hashlib
import importlib.util
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from rsmatch_jax.errors import RequestError, RunFailed, exit_code
from rsmatch_jax.synthesis.generate import drawing, pipelines, pool_folder, staging
from rsmatch_jax.synthesis.generate.drawing import NO_NUMBERS, Drawer
from rsmatch_jax.synthesis.generate.pipelines import Generator
from rsmatch_jax.synthesis.generate.staging import Part, PoolHeader
from rsmatch_jax.synthesis.prompts import jsonl
from rsmatch_jax.synthesis.prompts.jsonl import PromptFile
from rsmatch_jax.terminal import Parser, Progress, say

SIZE = 32
GO_ON = "what is staged stays; start again to go on"


def seed_of(seed: int, generator: str, prompt: int) -> int:
    """The seed of one picture's noise, in [0, 2**63): the same whatever its batch."""
    text = f"{seed}\0{generator}\0{prompt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def run(args: argparse.Namespace):
    """Draws what is missing, then writes the pool."""
    _check(args)
    for flag in ("prompts", "generator", "model_dir", "unet"):
        if (value := getattr(args, flag)) is not None:
            setattr(args, flag, os.path.expanduser(value))
    generator = pipelines.choose(
        args.generator,
        name=args.name,
        model_dir=args.model_dir,
        unet=args.unet,
        steps=args.steps,
        guidance=args.guidance,
        batch_size=args.batch_size,
    )
    prompts = jsonl.read(args.prompts)
    if not prompts.prompts:
        raise RequestError(f"--prompts={args.prompts} has no prompt")
    held = {prompt.label for prompt in prompts.prompts}
    bare = [n for i, n in enumerate(prompts.class_names) if i not in held]
    if bare:
        raise RequestError(
            f"--prompts={args.prompts} has no prompt for {', '.join(bare)}; a pool "
            "needs pictures of every class"
        )
    out = os.path.abspath(os.path.expanduser(args.out))
    staging.check_folder(out)
    if importlib.util.find_spec("tensorflow_datasets") is None:
        pool_folder.load_writer()  # refuses now, not hours later
    if staging.read_pool(out) is None:
        pipelines.require(generator)  # before a folder is made
    with staging.locked(out):
        settings = _settings(args, generator)
        staging.check_shards(out)
        header = staging.read_pool(out)
        size = _asked_size(args, generator, header)
        if size is not None:
            pool = PoolHeader(prompts.dataset, prompts.class_names, size)
            staging.check_pool(out, header, pool)
        part = Part(out, generator.name)
        _refuse_other(part, settings, prompts)
        missing = part.missing(len(prompts.prompts), generator.batch_size)
        if missing:
            _draw(args, out, generator, prompts, part, settings, missing)
        elif pool_folder.is_current(out):
            say(f"{out} is finished: {_counts(part)}; nothing to do")
            return
        say(f"writing {out}")
        tally = pool_folder.write(out)
    say(_summary(out, tally))


def _check(args: argparse.Namespace):
    """Raises RequestError for a number that cannot work."""
    for flag, low in (("size", 1), ("batch_size", 1), ("steps", 1), ("guidance", 0)):
        value = getattr(args, flag)
        if value is not None and not (math.isfinite(value) and value >= low):
            raise RequestError(f"--{flag}={value} cannot work: give {low} or more")
    known = pipelines.GENERATORS.get(args.generator)
    if known and not args.model_dir:
        _refuse_enlarging(args.size or 0, args.generator, known.native_size)
    if args.size is not None and args.full_size:
        raise RequestError("--size and --full_size exclude each other; give one")


def _refuse_enlarging(size: int, name: str, native_size: int):
    if size > native_size:
        raise RequestError(
            f"--size={size} is more than {name} draws, {native_size}: give at most "
            "that, pictures are only made smaller"
        )


def _refuse_other(part: Part, settings: dict[str, Any], prompts: PromptFile):
    """Raises RequestError unless the prompts begin with those that pictures are staged
    of, and these are drawn in the same way."""
    part.check({**settings, "prompts": prompts.digest(part.prompts)})


def _settings(args: argparse.Namespace, generator: Generator) -> dict[str, Any]:
    """What the pictures depend on and is known before the model is loaded."""
    settings = {
        **pipelines.identity(generator),
        "seed": args.seed,
        "batch_size": generator.batch_size,
    }
    asked = {"steps": generator.steps, "guidance": generator.guidance}
    if args.device:
        asked["precision"] = drawing.precision_on(args.device)
    return settings | {k: v for k, v in asked.items() if v is not None}


def _asked_size(
    args: argparse.Namespace, generator: Generator, header: PoolHeader | None
) -> int | None:
    """Pixels a side as far as known before the model is loaded; None where only that
    can tell."""
    if not args.full_size:
        return args.size or SIZE
    if not generator.local:
        return generator.native_size
    return header.size if header else None


def _draw(
    args: argparse.Namespace,
    out: str,
    generator: Generator,
    prompts: PromptFile,
    part: Part,
    settings: dict[str, Any],
    missing: Sequence[int],
):
    """Draws and stages the missing batches."""
    pipelines.require(generator)
    device = drawing.choose_device(args.device)
    settings = settings | {"precision": drawing.precision_on(device)}
    _refuse_other(part, settings, prompts)
    say(f"loading {generator.model if generator.local else generator.name} on {device}")
    drawer = drawing.load(generator, device)
    settings = settings | dict(drawer.settings)
    _refuse_other(part, settings, prompts)
    size = drawer.native_size if args.full_size else args.size or SIZE
    _refuse_enlarging(size, generator.name, drawer.native_size)
    pool = PoolHeader(prompts.dataset, prompts.class_names, size)
    staging.check_pool(out, staging.read_pool(out), pool)
    header = _header(generator, drawer, prompts, settings)
    part.begin(header, drawer.environment, missing)
    staging.register(out, pool, generator.name)
    done = len(part.entries)
    if done:
        say(f"{done} of {len(prompts.prompts)} prompts are done already")
    _draw_batches(drawer, generator, prompts, part, missing, size, args.seed, say)


def _draw_batches(
    drawer: Drawer,
    generator: Generator,
    prompts: PromptFile,
    part: Part,
    missing: Sequence[int],
    size: int,
    seed: int,
    report: Callable[[str], None],
):
    step, everything = generator.batch_size, prompts.prompts
    batches = [range(b * step, min((b + 1) * step, len(everything))) for b in missing]
    total = sum(len(batch) for batch in batches)
    progress = Progress(f"drawing {generator.name}", "pictures", total, report)
    for number, batch in zip(missing, batches, strict=True):
        pictures = drawer.draw(
            [everything[i].text for i in batch],
            [seed_of(seed, generator.name, i) for i in batch],
        )
        labels = [(i, everything[i].label) for i in batch]
        if len(labels) > 1 and all(p is NO_NUMBERS for p in pictures):
            raise RunFailed(
                f"{generator.name} drew {len(labels)} pictures without numbers (NaN) "
                "in a row; --device=cpu draws in float32"
            )
        part.stage(number, size, labels, pictures)
        progress.advance(len(batch))


def _header(
    generator: Generator, drawer: Drawer, prompts: PromptFile, settings: dict[str, Any]
) -> dict[str, Any]:
    """How the generator is run, for its staging and for pool.json."""
    checker = "with" if settings.get("safety_checker") else "without"
    how = [
        generator.model if not generator.local else f"{generator.name} from a folder",
        f"{settings.get('steps')} steps",
        f"guidance {settings.get('guidance')}",
        f"{drawer.native_size} pixels",
        settings["precision"],
        f"{checker} safety checker",
    ]
    return {
        "how": ", ".join(how),
        "licence": generator.licence,
        "source": generator.source,
        "native_size": drawer.native_size,
        "settings": settings,
        "prompts": {
            "count": len(prompts.prompts),
            "digest": prompts.digest(),
            "header": dict(prompts.header),
        },
    }


def _counts(part: Part) -> str:
    dropped = sum(entry.dropped is not None for entry in part.entries)
    return f"{len(part.entries) - dropped} pictures of {part.name}, {dropped} dropped"


def _summary(out: str, tally: pool_folder.Tally) -> str:
    pool = staging.read_pool(out)
    total = sum(tally.kept.values())
    lines = [f"pool of {total} pictures of {pool.size}x{pool.size} for {pool.dataset}"]
    for name in pool.generators:
        part = Part(out, name)
        of = part.header["prompts"]["count"]
        text = f"{tally.kept[name]} of {name}"
        text += f", {tally.duplicates[name]} exact duplicates dropped"
        dropped = Counter(e.dropped for e in part.entries if e.dropped)
        for why, count in sorted(dropped.items()):
            text += f", {count} dropped: {why}"
        lines.append(text)
        counts = [tally.per_class[name, i] for i in range(len(pool.class_names))]
        for class_name, count in zip(pool.class_names, counts, strict=True):
            lines.append(f"  {class_name}: {count}")
        least = min(counts)
        lines.append(f"  at least {least} a class: training takes so many at most")
        if len(part.entries) < of:
            lines.append(
                f"  warning: {of - len(part.entries)} of {of} prompts are not drawn; "
                f"start with the flags of {name} again"
            )
    if tally.two_classes:
        lines.append(
            f"{tally.two_classes} kept although the same pixels have another class"
        )
    lines.append(f"written to {out}; use it with --config.data.synthetic_pool={out}")
    return "\n".join(lines)


def _parser() -> Parser:
    parser = Parser("synthesis.generate", __doc__)
    add = parser.add_argument
    known = ", ".join(pipelines.GENERATORS)
    add("--prompts", required=True, help="file of python -m rsmatch_jax...prompts")
    add("--generator", required=True, help=f"{known}, or a diffusers model's folder")
    add("--out", required=True, help="folder of the pool, new or of this command")
    add("--name", help="of the generator in the pool (default: its own)")
    add("--size", type=int, help=f"pixels a side (default {SIZE})")
    add("--full_size", action="store_true", help="keep the size the model draws")
    add("--batch_size", type=int, help="pictures drawn at once (default: by model)")
    add("--seed", type=int, default=0, help="of everything random (default 0)")
    add("--device", choices=("cuda", "cpu"), help="default: the GPU, if there is one")
    add("--steps", type=int, help="default: the generator's")
    add("--guidance", type=float, help="default: the generator's")
    add("--model_dir", help="folder with a known generator's weights, without the hub")
    add("--unet", help="sdxl_lightning's UNet file, beside --model_dir")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0 done, 1 failed, 2 the request was wrong,
    75 stopped by a signal."""

    def command():
        args = _parser().parse_args(argv)
        try:
            run(args)
        except OSError as e:
            full = e.errno in (errno.ENOSPC, errno.EDQUOT)
            way = "free some space and start again" if full else "start again"
            raise RunFailed(f"{e}; what is staged stays: {way} to go on") from e

    return exit_code(command, GO_ON, resumable=True)


if __name__ == "__main__":
    sys.exit(main())
