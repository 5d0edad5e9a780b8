"""What the diffusion model's command is asked for: settings, presets, flags, checks."""

import argparse
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rsmatch_jax import terminal
from rsmatch_jax.data.stores.arrays import ImageArrays
from rsmatch_jax.errors import RequestError

DTYPES = ("float32", "bfloat16")
FORMATS = ("arrays", "tfds")
NOISE_LEVELS = 1000
SMALL_SIZE = 16  # px; larger images get the COLOUR preset
SAVE_EVERY = 5000


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the model is trained and drawn from; every field is a flag. As it stands: for
    the digits, in three minutes on two CPU cores."""

    per_class: int = 190
    steps: int = 1500
    batch_size: int = 128
    learning_rate: float = 2e-3
    warmup_steps: int = 0
    gradient_clip: float = 0.0
    width: int = 32
    blocks: int = 1
    dropout: float = 0.0
    flip: bool = False
    dtype: str = "float32"
    ema_decay: float = 0.995
    label_dropout: float = 0.1
    guidance: float = 8.0
    sampling_steps: int = 50
    sampling_batch: int = 500
    seed: int = 0


SMALL = Settings()
# DDPM's for CIFAR-10 (arXiv 2006.11239, appendix B, and its code: warm-up and clipping)
# but for the shorter training, with the learning rate falling to 0 in its stead. Labels
# are dropped and guidance is taken as by 2207.12598.
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
# What may change between training and drawing.
DRAWING = ("per_class", "guidance", "sampling_steps", "sampling_batch")

HELP = {
    "per_class": "pictures per class; 0 is as many as there are training images",
    "steps": "training steps",
    "batch_size": "images per training step, over all devices",
    "learning_rate": "Adam's, falling to 0 along a half cosine",
    "warmup_steps": "training steps in which the learning rate rises to its value",
    "gradient_clip": "largest norm of a step's gradient; 0 is no limit",
    "width": "channels of the U-Net at full resolution, a multiple of 4",
    "blocks": "residual blocks per resolution and direction",
    "dropout": "within residual blocks",
    "flip": "train on mirror images too; wrong where left and right matter",
    "dtype": f"of activations, {' or '.join(DTYPES)}; parameters are float32",
    "ema_decay": "of the weights that draw",
    "label_dropout": "share of training images shown without their class",
    "guidance": "w of (1 + w) eps(x, class) - w eps(x); 0 is none",
    "sampling_steps": "DDIM steps per picture, 1..1000",
    "sampling_batch": "pictures drawn at once",
    "seed": "of everything random",
}


@dataclasses.dataclass(frozen=True)
class Request:
    """The command line. given: the settings named on it, by field."""

    dataset: str
    out: str
    data_dir: str | None
    cache_dir: str | None
    model_dir: str | None
    format: str
    save_every: int
    given: Mapping[str, Any]


def parse(argv: Sequence[str]) -> Request:
    """Raises RequestError for flags that cannot be."""
    description = "Makes a synthetic pool with a diffusion model of our own."
    parser = terminal.Parser("synthesis.ddpm", description)
    add = parser.add_argument
    add("--dataset", required=True, help="digits, fake, a TFDS name, or a folder")
    add("--out", required=True, help="folder of the pool; unfinished work lies there")
    add("--data_dir", help="where TFDS sets are (default: TFDS's own)")
    add("--cache_dir", help="where decoded sets and compiled programs are kept")
    add(
        "--model_dir",
        help="folder where the training state is kept, also after the end: other pools "
        "can be drawn from it without training (default: below --out, removed at the "
        "end)",
    )
    add(
        "--format",
        choices=FORMATS,
        help="form of the pool: a TFDS dataset folder or plain arrays (default: "
        "arrays for digits, tfds for all others)",
    )
    add(
        "--save_every",
        type=int,
        default=SAVE_EVERY,
        help=f"training steps between saves (default {SAVE_EVERY})",
    )
    for field in dataclasses.fields(Settings):
        small, colour = (getattr(preset, field.name) for preset in (SMALL, COLOUR))
        larger = f", for images above {SMALL_SIZE} px {colour}"
        text = f"{HELP[field.name]} (default {small}{larger * (small != colour)})"
        kind = type(field.default)
        if kind is bool:
            form: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
        else:
            form = {"type": kind, "choices": DTYPES if kind is str else None}
        add(f"--{field.name}", default=None, help=text, **form)
    flags = vars(parser.parse_args(argv))
    names = [field.name for field in dataclasses.fields(Settings)]
    settings = {name: flags.pop(name) for name in names}
    given = {name: value for name, value in settings.items() if value is not None}
    if flags["format"] is None:
        flags["format"] = "arrays" if flags["dataset"] == "digits" else "tfds"
    request = Request(**flags, given=given)
    for preset in (SMALL, COLOUR):  # before a dataset is looked for
        check(dataclasses.replace(preset, **given))
    if request.save_every < 1:
        raise RequestError(f"--save_every={request.save_every}: give 1 or more")
    return request


def settle(given: Mapping[str, Any], size: int, images_per_class: int) -> Settings:
    """The settings for images of `size` px: the preset's but for those given."""
    preset = SMALL if size <= SMALL_SIZE else COLOUR
    settings = dataclasses.replace(preset, **given)
    if settings.per_class:
        return settings
    return dataclasses.replace(settings, per_class=max(1, images_per_class))


def check(settings: Settings):
    """Raises RequestError for a setting that cannot work."""
    limits = {
        "per_class": (0, None),
        "steps": (1, None),
        "batch_size": (1, None),
        "warmup_steps": (0, None),
        "gradient_clip": (0, None),
        "width": (4, None),
        "blocks": (1, None),
        "dropout": (0, 0.99),
        "ema_decay": (0, 1),
        "label_dropout": (0, 1),
        "guidance": (0, None),
        "sampling_steps": (1, NOISE_LEVELS),
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


def check_images(data: ImageArrays, name: str):
    """Raises RequestError for images that the network cannot take."""
    height, width = data.images.shape[1:3]
    if height != width or height % 8 or not 8 <= height <= 64:
        raise RequestError(
            f"--dataset={name} has images of {height}x{width} pixels; the model takes "
            "squares of 8, 16, 24, ... 64 (python -m rsmatch_jax.data.import_images "
            "--size=32 makes a dataset of resized pictures)"
        )


def check_devices(settings: Settings, count: int):
    """Raises RequestError where the batch does not spread evenly over the devices."""
    if settings.batch_size % count:
        raise RequestError(
            f"--batch_size={settings.batch_size} is no multiple of the {count} devices"
        )
