"""Checks that several commands of this folder make."""

import contextlib
import dataclasses
import math
import os
from collections.abc import Generator
from typing import Any

from rsmatch_jax import errors, files
from rsmatch_jax.data import sources
from rsmatch_jax.data.stores import dataset_folder
from rsmatch_jax.errors import RequestError
from rsmatch_jax.runs import workdir
from rsmatch_jax.runtime.child import ROOT

_REQUIREMENTS = "requirements-synthesis.txt"  # a wheel has the extra instead
PIP = (
    f"pip install -r {_REQUIREMENTS}"
    if os.path.isfile(os.path.join(ROOT, _REQUIREMENTS))
    else "pip install 'rsmatch_jax[synthesis]'"
)

# What each command keeps in .staging below --out, and no other one does.
STAGED = {"generate": "generators", "ddpm": "drawing.json"}


def check_range(
    flag: str, value: float, low: float, high: float = math.inf, above: bool = False
):
    """Raises RequestError unless low <= value <= high and the value is finite. above:
    the value must be more than `low`."""
    if not (math.isfinite(value) and low <= value <= high) or (above and value == low):
        limits = f"above {low}" if above else f"{low} or more"
        if high < math.inf:
            limits = f"above {low}, at most {high}" if above else f"{low} to {high}"
        raise RequestError(f"--{flag}={value} cannot work: give {limits}")


def setting(default: Any, text: str, *bounds: float) -> Any:
    """Returns a dataclass field with its flag's help and the bounds for check_range."""
    metadata = {"help": text, "bounds": bounds}
    return dataclasses.field(default=default, metadata=metadata)


def check_settings(settings: Any):
    """Raises RequestError for a field of a dataclass that is out of its bounds."""
    for field in dataclasses.fields(settings):
        if bounds := field.metadata["bounds"]:
            check_range(field.name, getattr(settings, field.name), *bounds)


def tfds_writer(hint: str = ""):
    """Returns the module that writes TFDS folders. hint: for the message."""
    with dataset_folder.needs_tensorflow("writing a pool", hint):
        from rsmatch_jax.data.stores import tf_write  # lazy: drawing needs no TF
    return tf_write


def locked(folder: str, flag: str) -> contextlib.AbstractContextManager[None]:
    """Makes the folder and returns a context that keeps other processes out of it."""
    os.makedirs(folder, exist_ok=True)
    message = (
        f"{flag}: another process is at work in {folder}; wait for it, or name another "
        "folder"
    )
    return files.locked(os.path.join(folder, workdir.LOCK_FILE), message)


@contextlib.contextmanager
def data_flags(name: str, data_dir: str | None) -> Generator[None]:
    """Refuses a `data_dir` that is not there. Errors of the block about data, which
    name a config's keys, name flags; `name`: the one of the dataset, such as --real."""
    flags = {"name": name, "synthetic_pool": "POOL"}
    flags |= {key: f"--{key}" for key in ("data_dir", "cache_dir")}
    try:
        sources.check_places(data_dir, None)
        yield
    except RequestError as e:
        raise RequestError(errors.with_flags(str(e), flags)) from None


def check_pool_folder(out: str, command: str):
    """Raises RequestError unless `out` is absent, empty or has work of `command`, a key
    of STAGED."""
    workdir.check_writable(out, "--out")
    staging = dataset_folder.STAGING
    names = os.listdir(out) if os.path.isdir(out) else []
    if names and staging not in names:
        raise RequestError(
            f"--out={out} has files but no {staging}, so it was not made by this "
            "command (an imported pool?) and is left alone; name another folder"
        )
    for other, name in STAGED.items():
        if other != command and os.path.exists(os.path.join(out, staging, name)):
            raise RequestError(
                f"--out={out} holds work of `rsmatch {other}` in {staging}; finish it "
                f"by that command, delete {os.path.join(out, staging)}, or name "
                "another folder"
            )


def changes(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Returns a line per difference of two dicts, "" if there is none; long values,
    such as the names of all classes, are cut."""
    return "".join(
        f"  {key}: {a!s:.60} there, {b!s:.60} here\n"
        for key, a, b in workdir.differences(old, new)
    )
