"""What the prompts command is asked for: flags and their checks."""

import argparse
import dataclasses
import math
from collections.abc import Sequence

from rsmatch_jax import terminal
from rsmatch_jax.errors import RequestError
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


def check(args: argparse.Namespace, sampling: Sampling):
    """Raises RequestError for a setting that cannot work."""
    limits = {
        "per_class": (1, math.inf),
        "max_tries": (1, math.inf),
        "seed": (0, 2**32 - 1),
        "batch_size": (1, math.inf),
        "top_k": (0, math.inf),
        "max_tokens": (1, math.inf),
    }
    values = {**vars(args), **dataclasses.asdict(sampling)}
    for name, (low, high) in limits.items():
        if not low <= values[name] <= high:
            most = "or more" if high == math.inf else f"to {high}"
            raise RequestError(
                f"--{name}={values[name]} cannot work: give {low} {most}"
            )
    if not 0 < sampling.temperature < math.inf:
        raise RequestError(f"--temperature={sampling.temperature}: give above 0")
    if not 0 < sampling.top_p <= 1:
        raise RequestError(f"--top_p={sampling.top_p}: give above 0, at most 1")


def parse(argv: Sequence[str], description: str) -> tuple[argparse.Namespace, Sampling]:
    """All flags, and those that sampling hangs on. Raises: RequestError for a wrong
    one."""
    parser = terminal.Parser("synthesis.prompts", description)
    add = parser.add_argument
    add("--dataset", required=True, help="digits, a TFDS name or a dataset folder")
    add("--data_dir", help="where TFDS keeps its datasets (default TFDS's own)")
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
        help="a line per class, in label order, to be fed "
        "to the model in place of the class names",
    )
    add(
        "--allow_missing_word",
        action="store_true",
        help="keep sentences without their class's word",
    )
    add(
        "--max_tries",
        type=int,
        default=20,
        help="give up where fewer than 1 sentence in so many passes (default 20)",
    )
    for field in dataclasses.fields(Sampling):
        text = f"{_HELP[field.name]} (default {field.default})"
        add(
            f"--{field.name}",
            type=type(field.default),
            default=field.default,
            help=text,
        )
    args = parser.parse_args(list(argv))
    names = [field.name for field in dataclasses.fields(Sampling)]
    return args, Sampling(**{name: getattr(args, name) for name in names})
