"""The command `rsmatch`: all commands of the package behind one name.

    rsmatch COMMAND [flags]        rsmatch COMMAND --help

A command's module is imported when the command is called, so `rsmatch` and a misspelt
command answer at once.
"""

import importlib
import sys
from collections.abc import Sequence

from rsmatch_jax import progress
from rsmatch_jax.errors import exit_code, open_streams, suggestion
from rsmatch_jax.version import __version__

# {command: (module with `main(argv) -> exit code`, what it does)}
COMMANDS = {
    "train": ("train", "train by a config, or go on with an unfinished run"),
    "evaluate": ("evaluate", "test and detector metrics of a saved run"),
    "predict": ("predict", "class and synthetic score of image files, as JSON lines"),
    "sift": ("sift.__main__", "which pictures of unknown origin are synthetic"),
    "export": ("export", "write the inference model of a run to one file"),
    "sweep": ("sweep", "run a table of the paper, or print its launch lines"),
    "report": ("report.__main__", "tables, curves and pictures of runs on one page"),
    "import": ("data.import_images", "make a dataset or a synthetic pool from images"),
    "look": ("synthesis.look.__main__", "look at a synthetic pool beside real images"),
    "prompts": ("synthesis.prompts.__main__", "write sentences about every class"),
    "generate": ("synthesis.generate.__main__", "draw a pool by a text-to-image model"),
    "ddpm": ("synthesis.ddpm.__main__", "draw a pool by a small diffusion model"),
    "see": ("analysis.explain", "Grad-CAM++ maps: where the networks look"),
    "tsne": ("analysis.tsne", "t-SNE of a run's features"),
    "bench": ("bench.__main__", "measure speed and memory"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    open_streams()
    words = sys.argv[1:] if argv is None else list(argv)
    if not words or words[0] in ("--help", "-help", "-h", "help"):
        sys.stdout.write(overview())
        return 0
    if words == ["--version"]:
        sys.stdout.write(f"rsmatch_jax {__version__}\n")
        return 0
    name = words[0]
    if name not in COMMANDS:
        wrong = f"{name!r}{suggestion(name, COMMANDS)}"
        sys.stderr.write(f"error: there is no command {wrong}; `rsmatch` lists them\n")
        return 2
    modules = []

    def load():
        modules.append(importlib.import_module(f"rsmatch_jax.{COMMANDS[name][0]}"))

    with progress.live("loading the libraries"):
        code = exit_code(load, "nothing was begun; the same command starts over")
    return code or modules[0].main(words[1:])


def overview() -> str:
    """Returns all commands, with a line each."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return (
        "usage: rsmatch COMMAND [flags]\n\n"
        + "\n".join(lines)
        + "\n\n`rsmatch COMMAND --help` explains one. Begin with:"
        "\n  rsmatch train --config=digits --workdir=runs/digits\n"
    )
