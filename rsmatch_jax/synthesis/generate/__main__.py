"""Draws a synthetic pool: a text-to-image model makes one picture per prompt.

    rsmatch generate --prompts=FILE --generator=sd14 --out=POOL

Generators: sd14 (Stable Diffusion 1.4), sdxl_lightning (4 steps), glide, or the folder
of any diffusers text-to-image model. Runs with different generators fill one pool.
Pictures are saved below POOL/.staging batch by batch, so the same command continues a
run that was stopped in any way. A longer prompt file that begins with the same prompts
adds pictures for the new ones.
"""

import argparse
import hashlib
import importlib.util
import os
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rsmatch_jax import terminal
from rsmatch_jax.data.stores import dataset_folder
from rsmatch_jax.errors import RequestError, RunFailed
from rsmatch_jax.progress import Progress
from rsmatch_jax.synthesis import checks
from rsmatch_jax.synthesis.generate import batches, drawing, pipelines, pool_folder
from rsmatch_jax.synthesis.prompts import prompt_file
from rsmatch_jax.terminal import say

SIZE = 32
GO_ON = "staged pictures stay; free some space if the disk is full, then start again"


def seed_of(seed: int, generator: str, prompt: int) -> int:
    """Returns the seed of one picture's noise, in [0, 2**63), whatever its batch."""
    text = f"{seed}\0{generator}\0{prompt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def run(args: argparse.Namespace):
    """Draws the missing pictures, then writes the pool."""
    for flag, low in (("size", 1), ("batch_size", 1), ("steps", 1), ("guidance", 0)):
        if (value := getattr(args, flag)) is not None:
            checks.check_range(flag, value, low)
    for flag in ("prompts", "generator", "model_dir", "unet"):
        if (value := getattr(args, flag)) is not None:
            setattr(args, flag, os.path.expanduser(value))
    names = ("model_dir", "name", "unet", "steps", "guidance", "batch_size")
    flags = {name: getattr(args, name) for name in names}
    generator = pipelines.choose(args.generator, **flags)
    size = _size(args, generator.native_size)
    prompts = _read_prompts(args.prompts)
    out = os.path.abspath(os.path.expanduser(args.out))
    checks.check_pool_folder(out, "generate")
    if importlib.util.find_spec("tensorflow_datasets") is None:
        checks.tfds_writer()  # refuses now, not hours later
    if not os.path.isdir(out):
        pipelines.require(generator)  # before a folder is made
    with checks.locked(batches.folder_of(out), f"--out={out}"):
        if dataset_folder.is_dataset(out):
            source = dataset_folder.inspect(out)
            dataset_folder.check_shards(source, source.splits)
        batches.check_fit(out, prompts, size)
        part = batches.Part(out, generator.name)
        settings = pipelines.base_settings(generator, args.seed)
        if args.device:
            settings["precision"] = drawing.precision_on(args.device)
        part.check(settings, prompts)
        if missing := part.missing(len(prompts.prompts), generator.batch_size):
            _draw(args, generator, prompts, part, settings, missing)
        elif pool_folder.is_current(out):
            dropped = sum(entry.dropped is not None for entry in part.entries)
            count = len(part.entries) - dropped
            say(
                f"{out} is finished: {count} pictures of {part.name}, {dropped} "
                "dropped; nothing to do"
            )
            return
        say(f"writing {out}")
        report, per_class = pool_folder.write(out)
    say(_summary(out, report, per_class))


def _size(args: argparse.Namespace, native_size: int | None) -> int | None:
    """Returns the pixels a side to be stored; None if only the loaded model tells."""
    size = native_size if args.full_size else args.size or SIZE
    if size and native_size and size > native_size:
        raise RequestError(
            f"--size={size} is more than {args.generator} draws, {native_size}; give "
            "at most that, because pictures are only made smaller"
        )
    return size


def _read_prompts(path: str) -> prompt_file.PromptFile:
    prompts = prompt_file.read(path)
    labels = {prompt.label for prompt in prompts.prompts}
    bare = [n for i, n in enumerate(prompts.class_names) if i not in labels]
    if bare:
        raise RequestError(
            f"--prompts={path} has no prompt for {', '.join(bare)}; a pool needs "
            "pictures of every class"
        )
    return prompts


def _draw(
    args: argparse.Namespace,
    generator: pipelines.Generator,
    prompts: prompt_file.PromptFile,
    part: batches.Part,
    settings: dict[str, Any],
    missing: Sequence[int],
):
    """Loads the model, checks what only it can tell, and stages the missing batches."""
    pipelines.require(generator)
    device = drawing.choose_device(args.device)
    settings["precision"] = drawing.precision_on(device)
    part.check(settings, prompts)  # refuses before the model loads
    say(f"loading {generator.model if generator.local else generator.name} on {device}")
    drawer = drawing.load(generator, device)
    settings |= drawer.settings
    part.check(settings, prompts)
    size = _size(args, drawer.native_size)
    assert size is not None  # because native_size is a number
    batches.check_fit(part.out, prompts, size)
    header = _header(generator, prompts, settings, drawer.native_size)
    part.begin({**header, "size": size}, drawer.environment)
    step, total = generator.batch_size, len(prompts.prompts)
    rows = {b: range(total)[b * step : (b + 1) * step] for b in missing}
    left = sum(map(len, rows.values()))
    if left < total:
        say(f"{total - left} of {total} prompts are done already")
    with Progress(f"drawing {generator.name}", "pictures", left, say) as progress:
        for number, batch in rows.items():
            pictures = drawer.draw(
                [prompts.prompts[i].text for i in batch],
                [seed_of(args.seed, generator.name, i) for i in batch],
            )
            if len(batch) > 1 and all(p is drawing.NO_NUMBERS for p in pictures):
                raise RunFailed(
                    f"{generator.name} drew {len(batch)} pictures without numbers "
                    "(NaN) in a row; --device=cpu draws in float32"
                )
            labels = [(i, prompts.prompts[i].label) for i in batch]
            part.stage(number, labels, pictures)
            progress.advance(len(batch))


def _header(
    generator: pipelines.Generator,
    prompts: prompt_file.PromptFile,
    settings: dict[str, Any],
    native_size: int,
) -> dict[str, Any]:
    """Returns how the generator draws, for its staging and for pool.json."""
    checker = "with" if settings.get("safety_checker") else "without"
    model = f"{generator.name} from a folder" if generator.local else generator.model
    steps, guidance = settings.get("steps"), settings.get("guidance")
    how = f"{model}, {steps} steps, guidance {guidance}, {native_size} pixels, "
    how += f"{settings['precision']}, {checker} safety checker"
    return {
        "dataset": prompts.dataset,
        "class_names": list(prompts.class_names),
        "how": how,
        "licence": generator.licence,
        "source": generator.source,
        "native_size": native_size,
        "settings": settings,
        "prompts": {
            "count": len(prompts.prompts),
            "digest": prompts.digest(),
            "header": dict(prompts.header),
        },
    }


def _summary(
    out: str, report: Mapping[str, Any], per_class: Counter[tuple[str, int]]
) -> str:
    """per_class: pictures by (generator, class)."""
    size = report["resize"]["size"]
    lines = [
        f"pool of {per_class.total()} pictures of {size}x{size} for {report['dataset']}"
    ]
    for name, made in report["generators"].items():
        text = f"{made['images']} of {name}, {made['exact_duplicates_dropped']} exact "
        text += "duplicates dropped"
        for reason, count in made["dropped"].items():
            text += f", {count} dropped: {reason}"
        lines.append(text)
        counts = [per_class[name, i] for i in range(len(report["class_names"]))]
        for class_name, count in zip(report["class_names"], counts, strict=True):
            lines.append(f"  {class_name}: {count}")
        lines.append(f"  at least {min(counts)} a class, the most that training takes")
        drawn, total = made["prompts"]["drawn"], made["prompts"]["count"]
        if drawn < total:
            lines.append(
                f"  warning: {total - drawn} of {total} prompts are not drawn; start "
                f"with the flags of {name} again"
            )
    if count := report["same_pixels_in_two_classes"]:
        lines.append(
            f"{count} pictures stay although their pixels also occur in another class"
        )
    quoted = shlex.quote(out)
    lines.append(f"written to {out}; use it with --config.data.synthetic_pool={quoted}")
    return "\n".join(lines)


def _parser() -> terminal.Parser:
    parser = terminal.Parser("generate", __doc__)
    add, sizes = parser.add_argument, parser.add_mutually_exclusive_group()
    names = ", ".join(pipelines.GENERATORS)
    add("--prompts", required=True, help="file made by `rsmatch prompts`")
    add("--generator", required=True, help=f"{names}, or a diffusers model's folder")
    add("--out", required=True, help="folder of the pool: new, or made by this command")
    add("--name", help="generator's name in the pool (default: as --generator)")
    sizes.add_argument("--size", type=int, help=f"pixels a side (default {SIZE})")
    text = "keep the size that the model draws"
    sizes.add_argument("--full_size", action="store_true", help=text)
    add("--batch_size", type=int, help="pictures drawn at once (default: by model)")
    add("--seed", type=int, default=0, help="seed of the noise (default 0)")
    add("--device", choices=("cuda", "cpu"), help="default: the GPU, if there is one")
    add("--steps", type=int, help="sampling steps (default: the generator's)")
    add("--guidance", type=float, help="scale (default: the generator's)")
    add("--model_dir", help="folder with a known generator's weights, without the hub")
    add("--unet", help="sdxl_lightning's UNet file, with --model_dir")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    return terminal.run_command(_parser(), argv, run, GO_ON, resumable=True)


if __name__ == "__main__":
    sys.exit(main())
