"""A command's run, and its files: a picture, its dark twin, the JSON file beside it."""

import argparse
import os
from collections.abc import Callable
from typing import Any

from rsmatch_jax import contact_sheet, files
from rsmatch_jax.contact_sheet import Theme
from rsmatch_jax.deploy import saved
from rsmatch_jax.errors import RequestError
from rsmatch_jax.runs import workdir
from rsmatch_jax.runtime import compilation

_SUFFIX = ".png"


def open_run(args: argparse.Namespace, name: str) -> tuple[saved.Saved, str]:
    """Returns the run, and --out or `name` in the workdir after checking it."""
    compilation.use_cache(None)
    run = saved.load(args.workdir, args.step, trust_code=args.trust_code)
    out = args.out or os.path.join(args.workdir, name)
    workdir.check_out(out, args.workdir, _SUFFIX)
    try:
        workdir.check_out(contact_sheet.dark_twin(out), args.workdir, _SUFFIX)
        workdir.check_out(_beside(out), args.workdir)
    except RequestError as e:
        raise RequestError(f"--out={out} has files beside it: {e}") from None
    return run, out


def write(out: str, drawn: Callable[[Theme], bytes], content: dict[str, Any]):
    """Writes the files atomically; RequestError if one cannot be written.

    drawn: returns the picture in a theme, as PNG.
    """
    with files.written_to("--out", out):
        contact_sheet.write(out, drawn)
        files.write_json(_beside(out), content)


def _beside(out: str) -> str:
    return out.removesuffix(_SUFFIX) + ".json"
