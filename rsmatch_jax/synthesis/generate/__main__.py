"""Draws a synthetic pool: a text-to-image model makes one picture per prompt.

    python -m rsmatch_jax.synthesis.generate --prompts=FILE --generator=sd14 --out=POOL

Generators: sd14 (Stable Diffusion 1.4), sdxl_lightning (4 steps), glide, or the folder
of any diffusers text-to-image model. Runs with different generators fill one pool.
Pictures are stored below POOL/.staging batch by batch, so a run that was stopped in any
way continues where it was, and says so when everything is done. A longer prompt file
that begins with the same prompts adds pictures for the new ones.
"""

import argparse
import hashlib
import importlib.util
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rsmatch_jax import terminal
from rsmatch_jax.data.stores import dataset_folder
from rsmatch_jax.errors import RequestError, RunFailed
from rsmatch_jax.synthesis import checks
from rsmatch_jax.synthesis.generate import batches, drawing, pipelines, pool_folder
from rsmatch_jax.synthesis.prompts import prompt_file
from rsmatch_jax.terminal import say

SIZE = 32
GO_ON = (
    "the staged pictures stay; if the disk is full, free some space and start again to "
    "continue"
)


def seed_of(seed: int, generator: str, prompt: int) -> int:
    """Returns the seed of one picture's noise, in [0, 2**63), whatever its batch."""
    text = f"{seed}\0{generator}\0{prompt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def run(args: argparse.Namespace):
    """Draws the missing pictures, then writes the pool."""
    _check(args)
    for flag in ("prompts", "generator", "model_dir", "unet"):
        if (value := getattr(args, flag)) is not None:
            setattr(args, flag, os.path.expanduser(value))
    names = ("name", "model_dir", "unet", "steps", "guidance", "batch_size")
    flags = {name: getattr(args, name) for name in names}
    generator = pipelines.choose(args.generator, **flags)
    prompts = _read_prompts(args.prompts)
    out = os.path.abspath(os.path.expanduser(args.out))
    checks.check_pool_folder(out)
    if importlib.util.find_spec("tensorflow_datasets") is None:
        checks.tfds_writer()  # refuses now, not hours later
    if not os.path.isdir(out):
        pipelines.require(generator)  # before a folder is made
    with checks.locked(batches.folder_of(out), f"--out={out}"):
        if dataset_folder.is_dataset(out):
            source = dataset_folder.inspect(out)
            dataset_folder.check_shards(source, source.splits)
        size = generator.native_size if args.full_size else args.size or SIZE
        if args.full_size and generator.local:
            size = None  # only the loaded model can tell
        batches.check_fit(out, prompts.dataset, prompts.class_names, size)
        part = batches.Part(out, generator.name)
        _settings(args, generator, part, prompts)  # refuses other ones
        missing = part.missing(len(prompts.prompts), generator.batch_size)
        if missing:
            _draw(args, out, generator, prompts, part, missing)
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


def _check(args: argparse.Namespace):
    """Raises RequestError for a number that cannot work."""
    for flag, low in (("size", 1), ("batch_size", 1), ("steps", 1), ("guidance", 0)):
        if (value := getattr(args, flag)) is not None:
            checks.check_range(flag, value, low)
    model = pipelines.GENERATORS.get(args.generator)
    if model and model.native_size and not args.model_dir:
        _refuse_enlarging(args.size or 0, args.generator, model.native_size)
    if args.size is not None and args.full_size:
        raise RequestError("--size and --full_size exclude each other; give one")


def _read_prompts(path: str) -> prompt_file.PromptFile:
    prompts = prompt_file.read(path)
    if not prompts.prompts:
        raise RequestError(f"--prompts={path} has no prompt")
    labels = {prompt.label for prompt in prompts.prompts}
    bare = [n for i, n in enumerate(prompts.class_names) if i not in labels]
    if bare:
        raise RequestError(
            f"--prompts={path} has no prompt for {', '.join(bare)}; a pool needs "
            "pictures of every class"
        )
    return prompts


def _refuse_enlarging(size: int, name: str, native_size: int):
    if size > native_size:
        raise RequestError(
            f"--size={size} is more than {name} draws, {native_size}: give at most "
            "that, pictures are only made smaller"
        )


def _settings(
    args: argparse.Namespace,
    generator: pipelines.Generator,
    part: batches.Part,
    prompts: prompt_file.PromptFile,
    **more: Any,
) -> dict[str, Any]:
    """Returns what the pictures depend on, or raises RequestError if it has changed.

    more: what only the loaded model tells.
    """
    optional = {
        "steps": generator.steps,
        "guidance": generator.guidance,
        "precision": drawing.precision_on(args.device) if args.device else None,
    }
    settings = {
        **pipelines.identity(generator),
        "seed": args.seed,
        "batch_size": generator.batch_size,
        **{k: v for k, v in optional.items() if v is not None},
        **more,
    }
    part.check({**settings, "prompts": prompts.digest(part.num_prompts)})
    return settings


def _draw(
    args: argparse.Namespace,
    out: str,
    generator: pipelines.Generator,
    prompts: prompt_file.PromptFile,
    part: batches.Part,
    missing: Sequence[int],
):
    """Loads the model, checks what only it can tell, stages the missing batches."""
    pipelines.require(generator)
    args.device = drawing.choose_device(args.device)
    _settings(args, generator, part, prompts)  # refuses before the model loads
    model = generator.model if generator.local else generator.name
    say(f"loading {model} on {args.device}")
    drawer = drawing.load(generator, args.device)
    settings = _settings(args, generator, part, prompts, **drawer.settings)
    size = drawer.native_size if args.full_size else args.size or SIZE
    _refuse_enlarging(size, generator.name, drawer.native_size)
    batches.check_fit(out, prompts.dataset, prompts.class_names, size)
    step, total = generator.batch_size, len(prompts.prompts)
    rows = {b: range(b * step, min((b + 1) * step, total)) for b in missing}
    left = sum(map(len, rows.values()))
    header = _header(generator, drawer, prompts, settings) | {"size": size}
    part.begin(header, drawer.environment)
    if left < total:
        say(f"{total - left} of {total} prompts are done already")
    progress = terminal.Progress(f"drawing {generator.name}", "pictures", left, say)
    for number, batch in rows.items():
        pictures = drawer.draw(
            [prompts.prompts[i].text for i in batch],
            [seed_of(args.seed, generator.name, i) for i in batch],
        )
        if len(batch) > 1 and all(p is drawing.NO_NUMBERS for p in pictures):
            raise RunFailed(
                f"{generator.name} drew {len(batch)} pictures without numbers (NaN) "
                "in a row; --device=cpu draws in float32"
            )
        labels = [(i, prompts.prompts[i].label) for i in batch]
        part.stage(number, size, labels, pictures)
        progress.advance(len(batch))


def _header(
    generator: pipelines.Generator,
    drawer: drawing.Drawer,
    prompts: prompt_file.PromptFile,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Returns how the generator draws, for its staging and for pool.json."""
    checker = "with" if settings.get("safety_checker") else "without"
    model = f"{generator.name} from a folder" if generator.local else generator.model
    steps, guidance = settings.get("steps"), settings.get("guidance")
    how = f"{model}, {steps} steps, guidance {guidance}, {drawer.native_size} pixels, "
    how += f"{settings['precision']}, {checker} safety checker"
    return {
        "dataset": prompts.dataset,
        "class_names": list(prompts.class_names),
        "how": how,
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


def _summary(
    out: str, report: Mapping[str, Any], per_class: Counter[tuple[str, int]]
) -> str:
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
        lines.append(f"  at least {min(counts)} a class; training takes no more")
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
    lines.append(f"written to {out}; use it with --config.data.synthetic_pool={out}")
    return "\n".join(lines)


def _parser() -> terminal.Parser:
    parser = terminal.Parser("synthesis.generate", __doc__)
    add = parser.add_argument
    names = ", ".join(pipelines.GENERATORS)
    add("--prompts", required=True, help="file of python -m rsmatch_jax...prompts")
    add("--generator", required=True, help=f"{names}, or a diffusers model's folder")
    add("--out", required=True, help="folder of the pool, new or of this command")
    add("--name", help="of the generator in the pool (default: as --generator)")
    add("--size", type=int, help=f"pixels a side (default {SIZE})")
    add("--full_size", action="store_true", help="keep the size that the model draws")
    add("--batch_size", type=int, help="pictures drawn at once (default: by model)")
    add("--seed", type=int, default=0, help="of everything random (default 0)")
    add("--device", choices=("cuda", "cpu"), help="default: the GPU, if there is one")
    add("--steps", type=int, help="default: the generator's")
    add("--guidance", type=float, help="default: the generator's")
    add("--model_dir", help="folder with a known generator's weights, without the hub")
    add("--unet", help="sdxl_lightning's UNet file, with --model_dir")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    return terminal.run_command(_parser(), argv, run, GO_ON, resumable=True)


if __name__ == "__main__":
    sys.exit(main())
