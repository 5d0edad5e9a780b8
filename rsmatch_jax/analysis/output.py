"""A command's run, and its two files: a picture and the JSON file beside it."""

import argparse
import os
from typing import Any

from rsmatch_jax import files
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
        workdir.check_out(_beside(out), args.workdir)
    except RequestError as e:
        raise RequestError(f"--out={out} has a JSON file beside it: {e}") from None
    return run, out


def write(out: str, picture: bytes, content: dict[str, Any]):
    """Writes both files atomically; RequestError if one cannot be written."""
    with files.written_to("--out", out):
        files.write_bytes(out, picture)
        files.write_json(_beside(out), content)


def _beside(out: str) -> str:
    return out.removesuffix(_SUFFIX) + ".json"
