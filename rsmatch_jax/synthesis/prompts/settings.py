"""The flags of the prompts command and their checks."""

import argparse
import dataclasses

from rsmatch_jax import terminal
from rsmatch_jax.synthesis import checks
from rsmatch_jax.synthesis.prompts import sentences


def parser(description: str | None) -> terminal.Parser:
    """Returns the parser of all flags; Sampling's fields are flags too."""
    flags = terminal.Parser("synthesis.prompts", description)
    add = flags.add_argument
    add("--dataset", required=True, help="digits, a TFDS name or a dataset folder")
    add("--data_dir", help="where TFDS keeps its datasets (default TFDS's)")
    add("--per_class", type=int, required=True, help="sentences per class")
    add("--out", required=True, help="the prompt file, new or to be made longer")
    text = "hub id or folder of a sequence-to-sequence model (default %(default)s)"
    add("--model", default=sentences.DEFAULT_MODEL, help=text)
    text = "a line per class, in label order: the model's input, not the class names"
    add("--words", metavar="FILE", help=text)
    text = "accept sentences without the word of their class"
    add("--allow_missing_word", action="store_true", help=text)
    text = "give up if fewer than 1 sentence in this many passes (default 20)"
    add("--max_tries", type=int, default=20, help=text)
    for field in dataclasses.fields(sentences.Sampling):
        text = f"{field.metadata['help']} (default {field.default})"
        kind = type(field.default)
        add(f"--{field.name}", type=kind, default=field.default, help=text)
    return flags


def check(args: argparse.Namespace) -> sentences.Sampling:
    """Returns the sampling settings; raises RequestError for a wrong flag."""
    checks.check_range("per_class", args.per_class, 1)
    checks.check_range("max_tries", args.max_tries, 1)
    names = [field.name for field in dataclasses.fields(sentences.Sampling)]
    sampling = sentences.Sampling(**{name: getattr(args, name) for name in names})
    checks.check_settings(sampling)
    return sampling
