"""Makes a synthetic pool with a small class-conditional diffusion model of our own.

    python -m rsmatch_jax.synthesis.ddpm --dataset=digits --out=DIR

Trains a U-Net on the dataset's training split, draws a class-balanced pool and saves
it in array form. Strong guidance makes pictures that are clearer than real scans, as
those of text-to-image models are. Same seed, machine and versions: same pool.
"""

import argparse
import dataclasses
import functools
import importlib.metadata
import math
import os
import shlex
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rsmatch_jax.data import arrays
from rsmatch_jax.errors import RequestError, RunFailed, exit_code
from rsmatch_jax.synthesis import diffusion
from rsmatch_jax.synthesis.diffusion import Progress, Settings

MAX_ROUNDS = 5  # of drawing, to make up for dropped duplicates


@dataclasses.dataclass(frozen=True)
class Source:
    """A dataset to imitate.

    load: its training images. levels: grey values per channel, evenly spaced.
    text: where the images come from and their licence.
    """

    load: Callable[[], arrays.ImageArrays]
    levels: int
    text: str


SOURCES = {
    "digits": Source(
        load=functools.partial(arrays.digits, "train"),
        levels=17,
        text="Drawn by a diffusion model trained on scikit-learn's digits: the test "
        "part of 'Optical Recognition of Handwritten Digits' (E. Alpaydin, C. Kaynak, "
        "1998, UCI Machine Learning Repository, doi 10.24432/C50P49), CC BY 4.0.",
    ),
}


HELP = {
    "per_class": "pictures per class",
    "steps": "training steps",
    "batch_size": "images per training step",
    "learning_rate": "Adam's, falling to 0 along a half cosine",
    "width": "channels of the U-Net at full resolution, a multiple of 4",
    "ema_decay": "of the weights that draw",
    "label_dropout": "share of training images shown without their class",
    "guidance": "w of (1 + w) eps(x, class) - w eps(x); 0 is none",
    "sampling_steps": "DDIM steps per picture, 1..1000",
    "sampling_batch": "pictures drawn at once",
    "seed": "of everything random",
}


def to_uint8(images: np.ndarray, levels: int) -> np.ndarray:
    """Images in [-1, 1] as uint8, rounded to `levels` evenly spaced grey values."""
    steps = np.rint((np.clip(images, -1, 1) + 1) / 2 * (levels - 1))
    return np.rint(steps * (255 / (levels - 1))).astype(np.uint8)


def draw_pool(
    settings: Settings,
    params: Any,
    data: arrays.ImageArrays,
    levels: int,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[arrays.ImageArrays, int]:
    """Draws per_class pictures of every class, all different and none of `data`.

    Returns: the pool, sorted by class, and how many pictures were dropped as exact
    duplicates of another or of a training image.
    Raises: RuntimeError where MAX_ROUNDS do not yield enough different pictures.
    """
    draw = diffusion.make_sampler(settings, data.images.shape[1:], data.num_classes)
    root = jax.random.fold_in(jax.random.key(settings.seed), diffusion.DRAW)
    seen = {image.tobytes() for image in data.images}
    kept: list[list[np.ndarray]] = [[] for _ in range(data.num_classes)]
    size = min(settings.sampling_batch, settings.per_class * data.num_classes)
    batches = dropped = 0
    for _ in range(MAX_ROUNDS):
        missing = [settings.per_class - len(images) for images in kept]
        wanted = np.repeat(np.arange(data.num_classes, dtype=np.int32), missing)
        if not len(wanted):
            break
        chunks = math.ceil(len(wanted) / size)
        total = chunks * settings.sampling_steps
        progress = Progress("drawing", "DDIM steps", total, say)
        for start in range(0, len(wanted), size):
            chunk = wanted[start : start + size]
            labels = np.resize(chunk, size)  # one shape, compiled once
            key = jax.random.fold_in(root, batches)
            batches += 1
            drawn = draw(params, key, labels, lambda p=progress: p.advance(1))
            for image, label in zip(to_uint8(drawn, levels), chunk, strict=False):
                if image.tobytes() in seen:
                    dropped += 1
                else:
                    seen.add(image.tobytes())
                    kept[label].append(image)
    short = {data.class_names[c]: len(k) for c, k in enumerate(kept)}
    short = {name: n for name, n in short.items() if n < settings.per_class}
    if short:
        raise RuntimeError(
            f"{MAX_ROUNDS} rounds gave too few different pictures (class: number "
            f"{short}, wanted {settings.per_class}); lower --guidance or raise --steps"
        )
    count = settings.per_class * data.num_classes
    pool = arrays.ImageArrays(
        name=data.name,
        images=np.concatenate([np.stack(images) for images in kept]),
        labels=np.repeat(
            np.arange(data.num_classes, dtype=np.int32), settings.per_class
        ),
        class_names=data.class_names,
        generators=np.zeros(count, np.int32),
        generator_names=("ddpm",),
    )
    return pool, dropped


def check(settings: Settings):
    """Raises RequestError for a setting that cannot work."""
    limits = {
        "per_class": (1, None),
        "steps": (1, None),
        "batch_size": (1, None),
        "width": (4, None),
        "ema_decay": (0, 1),
        "label_dropout": (0, 1),
        "guidance": (0, None),
        "sampling_steps": (1, diffusion.NOISE_LEVELS),
        "sampling_batch": (1, None),
        "seed": (0, 2**32 - 1),
    }
    for name, (low, high) in limits.items():
        value = getattr(settings, name)
        if not math.isfinite(value) or value < low or (high and value > high):
            most = "or more" if high is None else f"to {high}"
            raise RequestError(f"--{name}={value} cannot work: give {low} {most}")
    if not 0 < settings.learning_rate < math.inf:
        raise RequestError(f"--learning_rate={settings.learning_rate}: give above 0")
    if settings.width % 4:
        raise RequestError(f"--width={settings.width}: give a multiple of 4")


class Parser(argparse.ArgumentParser):
    """Turns a wrong flag into a RequestError."""

    def error(self, message: str):
        raise RequestError(f"{message}\n{self.format_usage().strip()}")


def parse(argv: list[str]) -> tuple[Source, str, Settings]:
    """Flags as (source, output folder, settings). Raises RequestError."""
    parser = Parser(
        prog="python -m rsmatch_jax.synthesis.ddpm",
        description="Makes a synthetic pool with a small diffusion model.",
        allow_abbrev=False,
    )
    parser.add_argument("--dataset", choices=SOURCES, required=True)
    parser.add_argument("--out", required=True, help="folder of the pool")
    for field in dataclasses.fields(Settings):
        parser.add_argument(
            f"--{field.name}",
            type=type(field.default),
            default=field.default,
            help=f"{HELP[field.name]} (default {field.default})",
        )
    flags = vars(parser.parse_args(argv))
    source = SOURCES[flags.pop("dataset")]
    out = flags.pop("out")
    return source, out, Settings(**flags)


def run(argv: list[str], say: Callable[[str], None]):
    """The whole command: trains, draws, saves."""
    source, out, settings = parse(argv)
    check(settings)
    if arrays.is_array_folder(out):
        raise RequestError(
            f"--out={out} holds a pool already; remove it or name another"
        )
    try:  # before minutes of work
        os.makedirs(out, exist_ok=True)
    except OSError as e:
        raise RequestError(f"--out={out} cannot be made: {e}") from None
    data = source.load()
    start = time.monotonic()
    params, losses = diffusion.train(settings, data, say)
    pool, dropped = draw_pool(settings, params, data, source.levels, say)
    packages = ("jax", "flax", "optax", "numpy", "scikit-learn")
    extra = {
        "command": shlex.join(["python", "-m", "rsmatch_jax.synthesis.ddpm", *argv]),
        "settings": dataclasses.asdict(settings),
        "final_loss": round(diffusion.recent(losses), 4),
        "duplicates_dropped": dropped,
        "versions": {p: importlib.metadata.version(p) for p in packages},
        "device": jax.devices()[0].device_kind,
        "source": source.text,
    }
    arrays.save(out, pool, extra)
    say(
        f"{len(pool.labels)} pictures of {pool.num_classes} classes in {out}, "
        f"{time.monotonic() - start:.0f} s; {dropped} duplicates dropped"
    )


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 the run failed, 2 the request was wrong."""
    argv = sys.argv[1:] if argv is None else argv

    def say(line: str):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def command():
        try:
            run(argv, say)
        except (FloatingPointError, RuntimeError, OSError) as e:
            raise RunFailed(str(e)) from e

    return exit_code(command, "no pool was written, start again")


if __name__ == "__main__":
    sys.exit(main())
