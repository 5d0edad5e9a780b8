"""The flags of the diffusion model's command: settings, presets, checks."""

import argparse
import dataclasses
import math
from typing import Any, TypeVar

from rsmatch_jax import terminal
from rsmatch_jax.data.stores.arrays import ImageArrays
from rsmatch_jax.errors import RequestError
from rsmatch_jax.synthesis import checks
from rsmatch_jax.synthesis.checks import setting

T = TypeVar("T", "Settings", "Tuning")

NOISE_LEVELS = 1000
DEVIATION = 0.1  # of the difficulties, where --difficulty names none
FOLDS = 5  # of the training images, to score their difficulty
SMALL_SIZE = 16  # px; larger images get the COLOUR preset


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the model is trained and how pictures are drawn; every field is a flag. The
    defaults are for the digits: three minutes on two CPU cores."""

    per_class: int = setting(190, "pictures per class; 0 is as many as real ones", 0)
    steps: int = setting(1500, "training steps", 1)
    batch_size: int = setting(128, "images per training step, over all devices", 1)
    learning_rate: float = setting(
        2e-3,
        "peak of Adam's rate; it falls to 0 along a half cosine",
        0,
        math.inf,
        True,
    )
    warmup_steps: int = setting(0, "steps in which the learning rate rises", 0)
    gradient_clip: float = setting(0.0, "largest norm of a gradient; 0 is none", 0)
    width: int = setting(32, "channels at full resolution, a multiple of 4", 4)
    blocks: int = setting(1, "residual blocks per resolution and direction", 1)
    dropout: float = setting(0.0, "dropout rate in residual blocks", 0, 0.99)
    flip: bool = setting(False, "mirror images too; wrong if left and right matter")
    dtype: str = setting("float32", "dtype of activations; parameters are float32")
    ema_decay: float = setting(
        0.995, "decay of the weights' average, used to draw", 0, 1
    )
    label_dropout: float = setting(0.1, "share of images whose class is hidden", 0, 1)
    guidance: float = setting(8.0, "w of (1 + w) eps(x, class) - w eps(x)", 0)
    sampling_steps: int = setting(50, "DDIM steps per picture", 1, NOISE_LEVELS)
    sampling_batch: int = setting(500, "pictures drawn at once", 1)
    seed: int = setting(0, "seed of all random numbers", 0, 2**32 - 1)


@dataclasses.dataclass(frozen=True)
class Tuning:
    """How the model is fine-tuned to take a difficulty, and its guidance; every field
    is a flag. The defaults are for the digits: two minutes on two CPU cores."""

    tuning_steps: int = setting(1000, "fine-tuning steps", 1)
    tuning_rate: float = setting(
        2e-3,
        "peak of Adam's rate in fine-tuning; it falls to 0",
        0,
        math.inf,
        True,
    )
    rank: int = setting(8, "rank of the changes of dense layers", 1)
    difficulty_labels: int = setting(
        10, "labels per class of a classifier that scores", 1
    )
    difficulty_dropout: float = setting(
        0.1, "share of images whose difficulty is hidden", 0, 1
    )
    oversampling: float = setting(
        1.0, "0: all images are equally likely, 1: all tenths of difficulty are", 0, 1
    )
    difficulty_guidance: float = setting(
        16.0, "v of + (1 + v) (eps(x, class, difficulty) - eps(x, class))", 0
    )


SMALL = Settings()
SMALL_TUNING = Tuning()
COLOUR_TUNING = Tuning(
    tuning_steps=20_000,
    tuning_rate=2e-4,
    rank=16,
    difficulty_labels=400,
    difficulty_guidance=2.0,
)
# DDPM's for CIFAR-10 (arXiv 2006.11239, appendix B, and its code: warm-up, clipping),
# but with shorter training and a learning rate that falls to 0 instead. Label dropout
# and guidance are those of 2207.12598.
COLOUR = Settings(
    per_class=0,
    steps=200_000,
    learning_rate=2e-4,
    warmup_steps=5000,
    gradient_clip=1.0,
    width=128,
    blocks=2,
    dropout=0.1,
    flip=True,
    ema_decay=0.9999,
    guidance=1.0,
    sampling_steps=100,
)
# Training does not depend on these, so one model can draw with several values.
DRAWING = (
    "per_class",
    "guidance",
    "sampling_steps",
    "sampling_batch",
    "difficulty_guidance",
)


def parser(description: str | None) -> terminal.Parser:
    """Returns the parser of all flags. Settings without a flag are absent."""
    flags = terminal.Parser("ddpm", description)
    add = flags.add_argument
    add("--dataset", required=True, help="digits, fake, a TFDS name, or a folder")
    add("--out", required=True, help="folder of the pool and of unfinished work")
    add("--data_dir", help="where TFDS sets are (default: TFDS's)")
    add("--cache_dir", help="where decoded sets and compiled programs are kept")
    text = "folder that keeps the training state, from which other pools can be drawn "
    text += "without training (default: below --out, removed at the end)"
    add("--model_dir", help=text)
    text = "TFDS dataset folder or plain arrays (default: arrays for digits, else tfds)"
    add("--format", choices=("arrays", "tfds"), help=text)
    text = "training steps between saves (default 5000)"
    add("--save_every", type=int, default=5000, help=text)
    text = (
        "draw pictures between two classes: each has a class of its own and a random "
    )
    text += "second one, and the labelled prediction is the mean of both"
    add("--mix", action="store_true", help=text)
    text = "draw pictures of difficulty 0 to 1, normal with this mean and deviation "
    text += "(default 0.1) or uniform, by a model that is fine-tuned first"
    add("--difficulty", metavar="MU[,SIGMA]|uniform", help=text)
    _add_settings(flags, SMALL, COLOUR)
    _add_settings(flags, SMALL_TUNING, COLOUR_TUNING)
    return flags


def _add_settings(flags: terminal.Parser, small_preset: Any, colour_preset: Any):
    for field in dataclasses.fields(small_preset):
        small, colour = (getattr(p, field.name) for p in (small_preset, colour_preset))
        larger = f", for images above {SMALL_SIZE} px {colour}"
        text = f"{field.metadata['help']} (default {small}{larger * (small != colour)})"
        form: dict[str, Any] = {"type": field.type}
        if field.type is bool:
            form = {"action": argparse.BooleanOptionalAction}
        elif field.type is str:
            form["choices"] = ("float32", "bfloat16")
        name = f"--{field.name}"
        flags.add_argument(name, default=argparse.SUPPRESS, help=text, **form)


def settle(args: argparse.Namespace, size: int, images_per_class: int) -> Settings:
    """Returns the preset for images of `size` px, changed by the flags in `args`."""
    settings = _changed(SMALL if size <= SMALL_SIZE else COLOUR, args)
    per_class = settings.per_class or max(1, images_per_class)
    return dataclasses.replace(settings, per_class=per_class)


def settle_tuning(args: argparse.Namespace, size: int) -> Tuning:
    """Returns the preset for images of `size` px, changed by the flags in `args`."""
    return _changed(SMALL_TUNING if size <= SMALL_SIZE else COLOUR_TUNING, args)


def wanted_difficulty(text: str | None) -> dict[str, float | None] | None:
    """Returns the mean and deviation that --difficulty says; no mean means uniform.
    None without the flag. Raises RequestError if it says something else."""
    if text is None:
        return None
    if text == "uniform":
        return {"mean": None, "deviation": None}
    mean, _, deviation = text.partition(",")
    try:
        mean, deviation = float(mean), float(deviation if "," in text else DEVIATION)
    except ValueError:
        mean = deviation = math.nan
    if not (0 <= mean <= 1 and 0 <= deviation < math.inf):
        raise RequestError(
            f"--difficulty={text} cannot work: give a mean from 0 to 1, such as 0.5, a "
            "mean and a deviation, such as 0.5,0.1, or uniform"
        )
    return {"mean": mean, "deviation": deviation}


def _changed(preset: T, args: argparse.Namespace) -> T:
    names = dataclasses.asdict(preset)
    return dataclasses.replace(
        preset, **{k: v for k, v in vars(args).items() if k in names}
    )


def check(args: argparse.Namespace, num_devices: int):
    """Raises RequestError for a flag that cannot work."""
    checks.check_range("save_every", args.save_every, 1)
    settings = _changed(SMALL, args)  # flags count alone: both presets are in range
    checks.check_settings(settings)
    checks.check_settings(_changed(SMALL_TUNING, args))
    if wanted_difficulty(args.difficulty) is None:
        for field in dataclasses.fields(Tuning):
            if field.name in vars(args):
                raise RequestError(
                    f"--{field.name} is of --difficulty, which is not there; add it"
                )
    if settings.batch_size % num_devices:
        raise RequestError(
            f"--batch_size={settings.batch_size} is no multiple of the {num_devices} "
            "devices"
        )
    if settings.width % 4:
        raise RequestError(f"--width={settings.width}: give a multiple of 4")


def check_data(data: ImageArrays, args: argparse.Namespace):
    """Raises RequestError for images that the network cannot take, too few classes to
    mix, or too few images to score their difficulty."""
    name, fewest = args.dataset, data.counts().min()
    if args.mix and data.num_classes < 2:
        raise RequestError(
            f"--mix draws between two classes, and --dataset={name} has only "
            f"{', '.join(data.class_names)}; leave it out"
        )
    if args.difficulty and (data.num_classes < 2 or fewest < FOLDS):
        raise RequestError(
            f"--difficulty needs two classes or more with at least {FOLDS} images "
            f"each; --dataset={name} has {data.num_classes}, the smallest one of "
            f"{fewest}; leave it out"
        )
    height, width = data.images.shape[1:3]
    if height != width or height % 8 or not 8 <= height <= 64:
        raise RequestError(
            f"--dataset={name} has images of {height}x{width} pixels; the model takes "
            "squares of 8, 16, 24, ... 64 (rsmatch import "
            "--size=32 makes a dataset of resized pictures)"
        )
