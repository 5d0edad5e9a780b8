"""The flags of the prompts command and their checks."""

import argparse
import dataclasses
import math

from rsmatch_jax import terminal
from rsmatch_jax.errors import RequestError
from rsmatch_jax.synthesis import checks
from rsmatch_jax.synthesis.prompts import sentences
from rsmatch_jax.synthesis.prompts.sentences import Sampling

_HELP = {
    "seed": "of everything random",
    "batch_size": "sentences sampled at once, all of one class",
    "temperature": "of sampling; higher is more varied and less fluent",
    "top_k": "tokens to choose from, 0 for all",
    "top_p": "share of probability to choose from",
    "max_tokens": "longest sentence, in tokens",
}


def parser(description: str | None) -> terminal.Parser:
    """Returns the parser of all flags; the fields of Sampling are flags too."""
    flags = terminal.Parser("synthesis.prompts", description)
    add = flags.add_argument
    add("--dataset", required=True, help="digits, a TFDS name or a dataset folder")
    add("--data_dir", help="where TFDS keeps its datasets (default TFDS's)")
    add("--per_class", type=int, required=True, help="sentences per class")
    add("--out", required=True, help="the prompt file, new or to be made longer")
    add(
        "--model",
        default=sentences.DEFAULT_MODEL,
        help="hub id or folder of a sequence-to-sequence model (default %(default)s)",
    )
    add(
        "--words",
        metavar="FILE",
        help="a line per class, in label order: the model's input instead of the "
        "class names",
    )
    add(
        "--allow_missing_word",
        action="store_true",
        help="accept sentences without the word of their class",
    )
    add(
        "--max_tries",
        type=int,
        default=20,
        help="give up if fewer than 1 sentence in this many passes (default 20)",
    )
    for field in dataclasses.fields(Sampling):
        text = f"{_HELP[field.name]} (default {field.default})"
        kind = type(field.default)
        add(f"--{field.name}", type=kind, default=field.default, help=text)
    return flags


def check(args: argparse.Namespace) -> Sampling:
    """Returns the sampling settings; raises RequestError for a wrong flag."""
    for name, low, high in (
        ("per_class", 1, math.inf),
        ("max_tries", 1, math.inf),
        ("seed", 0, 2**32 - 1),
        ("batch_size", 1, math.inf),
        ("top_k", 0, math.inf),
        ("max_tokens", 1, math.inf),
    ):
        checks.check_range(name, getattr(args, name), low, high)
    if not 0 < args.temperature < math.inf:
        raise RequestError(f"--temperature={args.temperature}: give above 0")
    if not 0 < args.top_p <= 1:
        raise RequestError(f"--top_p={args.top_p}: give above 0, at most 1")
    names = [field.name for field in dataclasses.fields(Sampling)]
    return Sampling(**{name: getattr(args, name) for name in names})
