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
from collections.abc import Sequence
from typing import Any

from rsmatch_jax import terminal
from rsmatch_jax.errors import RequestError, RunFailed
from rsmatch_jax.synthesis import checks
from rsmatch_jax.synthesis.generate import drawing, pipelines, pool_folder, staging
from rsmatch_jax.synthesis.generate.drawing import NO_NUMBERS, Drawer
from rsmatch_jax.synthesis.generate.pipelines import Generator
from rsmatch_jax.synthesis.generate.staging import Part
from rsmatch_jax.synthesis.prompts import prompt_file
from rsmatch_jax.synthesis.prompts.prompt_file import PromptFile
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
    staging.check_folder(out)
    if importlib.util.find_spec("tensorflow_datasets") is None:
        checks.tfds_writer()  # refuses now, not hours later
    if not os.path.isdir(out):
        pipelines.require(generator)  # before a folder is made
    with staging.locked(out):
        settings = _settings(args, generator)
        size = generator.native_size if args.full_size else args.size or SIZE
        if args.full_size and generator.local:
            size = None  # only the loaded model can tell
        staging.check_fit(out, prompts.dataset, prompts.class_names, size)
        part = Part(out, generator.name)
        _check_settings(part, settings, prompts)
        missing = part.missing(len(prompts.prompts), generator.batch_size)
        if missing:
            _draw(args, out, generator, prompts, part, settings, missing)
        elif pool_folder.is_current(out):
            dropped = sum(entry.dropped is not None for entry in part.entries)
            count = len(part.entries) - dropped
            say(
                f"{out} is finished: {count} pictures of {part.name}, {dropped} "
                "dropped; nothing to do"
            )
            return
        say(f"writing {out}")
        tally = pool_folder.write(out)
    say(_summary(out, tally))


def _check(args: argparse.Namespace):
    """Raises RequestError for a number that cannot work."""
    for flag, low in (("size", 1), ("batch_size", 1), ("steps", 1), ("guidance", 0)):
        if (value := getattr(args, flag)) is not None:
            checks.check_range(flag, value, low)
    model = pipelines.GENERATORS.get(args.generator)
    if model and not args.model_dir:
        _refuse_enlarging(args.size or 0, args.generator, model.native_size)
    if args.size is not None and args.full_size:
        raise RequestError("--size and --full_size exclude each other; give one")


def _read_prompts(path: str) -> PromptFile:
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


def _check_settings(part: Part, settings: dict[str, Any], prompts: PromptFile):
    """Raises RequestError unless settings and first prompts are the staged ones."""
    part.check({**settings, "prompts": prompts.digest(part.num_prompts)})


def _settings(args: argparse.Namespace, generator: Generator) -> dict[str, Any]:
    """Returns what the pictures depend on, as far as known before the model loads."""
    optional = {"steps": generator.steps, "guidance": generator.guidance}
    if args.device:
        optional["precision"] = drawing.precision_on(args.device)
    return {
        **pipelines.identity(generator),
        "seed": args.seed,
        "batch_size": generator.batch_size,
        **{k: v for k, v in optional.items() if v is not None},
    }


def _draw(
    args: argparse.Namespace,
    out: str,
    generator: Generator,
    prompts: PromptFile,
    part: Part,
    settings: dict[str, Any],
    missing: Sequence[int],
):
    """Loads the model, checks what only it can tell, stages the missing batches."""
    pipelines.require(generator)
    device = drawing.choose_device(args.device)
    settings = settings | {"precision": drawing.precision_on(device)}
    _check_settings(part, settings, prompts)
    say(f"loading {generator.model if generator.local else generator.name} on {device}")
    drawer = drawing.load(generator, device)
    settings = settings | dict(drawer.settings)
    _check_settings(part, settings, prompts)
    size = drawer.native_size if args.full_size else args.size or SIZE
    _refuse_enlarging(size, generator.name, drawer.native_size)
    staging.check_fit(out, prompts.dataset, prompts.class_names, size)
    step, total = generator.batch_size, len(prompts.prompts)
    batches = {b: range(b * step, min((b + 1) * step, total)) for b in missing}
    left = sum(map(len, batches.values()))
    header = _header(generator, drawer, prompts, settings) | {"size": size}
    part.begin(header, drawer.environment)
    if left < total:
        say(f"{total - left} of {total} prompts are done already")
    progress = terminal.Progress(f"drawing {generator.name}", "pictures", left, say)
    for number, batch in batches.items():
        pictures = drawer.draw(
            [prompts.prompts[i].text for i in batch],
            [seed_of(args.seed, generator.name, i) for i in batch],
        )
        if len(batch) > 1 and all(p is NO_NUMBERS for p in pictures):
            raise RunFailed(
                f"{generator.name} drew {len(batch)} pictures without numbers (NaN) "
                "in a row; --device=cpu draws in float32"
            )
        labels = [(i, prompts.prompts[i].label) for i in batch]
        part.stage(number, size, labels, pictures)
        progress.advance(len(batch))


def _header(
    generator: Generator, drawer: Drawer, prompts: PromptFile, settings: dict[str, Any]
) -> dict[str, Any]:
    """Returns how the generator draws, for its staging and for pool.json."""
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
        "dataset": prompts.dataset,
        "class_names": list(prompts.class_names),
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


def _summary(out: str, tally: pool_folder.Tally) -> str:
    parts = staging.parts(out)
    dataset, class_names, size = (
        parts[0].header[key] for key in ("dataset", "class_names", "size")
    )
    total = sum(tally.images.values())
    lines = [f"pool of {total} pictures of {size}x{size} for {dataset}"]
    for part in parts:
        name = part.name
        text = f"{tally.images[name]} of {name}"
        text += f", {tally.duplicates[name]} exact duplicates dropped"
        dropped = Counter(e.dropped for e in part.entries if e.dropped)
        for reason, count in sorted(dropped.items()):
            text += f", {count} dropped: {reason}"
        lines.append(text)
        counts = [tally.per_class[name, i] for i in range(len(class_names))]
        for class_name, count in zip(class_names, counts, strict=True):
            lines.append(f"  {class_name}: {count}")
        lines.append(f"  at least {min(counts)} a class; training takes no more")
        num_prompts = part.header["prompts"]["count"]
        if len(part.entries) < num_prompts:
            lines.append(
                f"  warning: {num_prompts - len(part.entries)} of {num_prompts} "
                f"prompts are not drawn; start with the flags of {name} again"
            )
    if tally.two_classes:
        lines.append(
            f"{tally.two_classes} pictures stay although their pixels also occur in "
            "another class"
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
