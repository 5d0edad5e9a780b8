"""A picture, and beside it a JSON file of what it shows."""

from typing import Any

from rsmatch_jax import files
from rsmatch_jax.errors import RequestError
from rsmatch_jax.runs import workdir

_SUFFIX = ".png"


def beside(out: str) -> str:
    """FILE.json of FILE.png."""
    return out.removesuffix(_SUFFIX) + ".json"


def check(out: str, folder: str):
    """Raises RequestError where --out=`out` or the file beside it cannot be made, or
    where the run in `folder` has its own."""
    workdir.check_out(out, folder, _SUFFIX)
    try:
        workdir.check_out(beside(out), folder)
    except RequestError as e:
        raise RequestError(f"--out={out} has a JSON file beside it: {e}") from None


def write(out: str, picture: bytes, content: dict[str, Any]):
    """Both, each of them whole or not at all. Raises RequestError where that cannot
    be."""
    try:
        files.write_bytes(out, picture)
        files.write_json(beside(out), content)
    except OSError as e:
        raise RequestError(f"--out={out} cannot be written: {e}") from e
