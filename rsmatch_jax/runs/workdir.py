"""A run's folder: to which run it belongs, and which files it holds."""

import contextlib
import json
import os
import shutil
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np

from rsmatch_jax import files
from rsmatch_jax.errors import RequestError

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"
RESULT_FILE = "result.json"
PARAMETERS_FILE = "parameters.txt"
SPLIT_FILE = "split.npz"
PICTURES_FILE = "pictures.npz"  # names and content of a user's pictures
DATA_FILE = "data.json"  # what a trained network needs to know of its data
QUEUE_PICTURE = "queue.png"
DARK_QUEUE_PICTURE = "queue.dark.png"  # the same for dark pages
CONFUSION_FILE = "confusion.npy"
MISTAKES_FILE = "mistakes.npz"
WANDB_FILE = "wandb.json"  # which run at Weights & Biases shows this one
LOCK_FILE = ".lock"
CHECKPOINTS = "checkpoints"
_REMOVED = ".removed"
_EVENTS = "events.out."  # TensorBoard's
_WANDB = "wandb"  # its folder, and WANDB_FILE
FILES = (CONFIG_FILE, SPLIT_FILE, PICTURES_FILE, DATA_FILE, METRICS_FILE)
FILES += (PARAMETERS_FILE,)
FILES += (QUEUE_PICTURE, DARK_QUEUE_PICTURE, CONFUSION_FILE, MISTAKES_FILE, RESULT_FILE)

LEFT_ALONE = "it is left alone, choose another workdir"
# Keys that change how a run computes, never what.
FREE = ("input.prefetch", "train.steps_per_dispatch", "checkpoint.", "log.")


def read_config(workdir: str) -> dict[str, Any] | None:
    """Returns the config of the run in `workdir`, None if there is no run; models of
    other programs have a file of that name, too."""
    config = files.read_json(os.path.join(workdir, CONFIG_FILE)) or {}
    groups = (config.get(name) for name in ("data", "method", "train"))
    return config if all(isinstance(group, Mapping) for group in groups) else None


def read_result(workdir: str) -> dict[str, Any] | None:
    """Returns the content of the run's result.json, None if there is no such file."""
    return files.read_json(os.path.join(workdir, RESULT_FILE))


def read_metrics(workdir: str) -> list[dict[str, Any]]:
    """Returns the lines of metrics.jsonl; a killed run's half line is left out."""
    path = os.path.join(workdir, METRICS_FILE)
    try:
        with open(path, encoding="utf-8") as f:
            lines = [json.loads(line) for line in f if line.endswith("\n")]
        if not all(isinstance(line, dict) for line in lines):
            raise ValueError("a line is no object")
        return lines
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as e:
        raise RequestError(f"{path} cannot be read: {e}") from None


def check_writable(workdir: str, flag: str = "--workdir"):
    """Raises RequestError if the folder `workdir` cannot be written or made."""
    if not workdir:
        raise RequestError(f"{flag}= is empty; name a folder, or leave it out")
    if os.path.exists(workdir) and not os.path.isdir(workdir):
        raise RequestError(f"{flag}={workdir} is a file; name a folder")
    parent = workdir
    while not os.path.exists(parent):
        parent = os.path.dirname(os.path.abspath(parent))
    if not os.access(parent, os.W_OK | os.X_OK):
        raise RequestError(
            f"{flag}={workdir} cannot be written ({parent} is not writable); "
            "choose another"
        )


def check_run_or_empty(workdir: str):
    """Raises RequestError if a folder holds something else."""
    names = os.listdir(workdir) if os.path.isdir(workdir) else ()
    content = [n for n in names if n != LOCK_FILE and not n.endswith(files.TEMPORARY)]
    if content and read_config(workdir) is None:
        raise RequestError(
            f"--workdir={workdir} is not empty and holds no run (no {CONFIG_FILE} of "
            f"one); {LEFT_ALONE}"
        )


def read_data(workdir: str) -> dict[str, Any]:
    """Returns the `data` of a run's `claim`; raises RequestError without its file."""
    data = files.read_json(os.path.join(workdir, DATA_FILE))
    if data is None:
        raise RequestError(
            f"--workdir={workdir} has no {DATA_FILE}, which names the classes and the "
            "size of the images: use the version that trained the run, or restore the "
            "file"
        )
    return data


def claim(
    workdir: str,
    config: dict[str, Any],
    split: Mapping[str, Any],
    data: dict[str, Any],
    pictures: Mapping[str, Any] | None = None,
):
    """Makes the folder, with config.json, split.npz (index arrays by name), data.json
    (a JSON-ready description of the data) and, if there are any, pictures.npz in it."""
    with files.written_to("--workdir", workdir):
        os.makedirs(workdir, exist_ok=True)
        for name in os.listdir(workdir):
            if name.endswith(files.TEMPORARY):  # a killed process left it
                os.remove(os.path.join(workdir, name))
        files.write_json(os.path.join(workdir, CONFIG_FILE), config)
        files.write_json(os.path.join(workdir, DATA_FILE), data)
        if pictures:
            with files.replacing(os.path.join(workdir, PICTURES_FILE)) as f:
                np.savez_compressed(f, **pictures)
        with files.replacing(os.path.join(workdir, SPLIT_FILE)) as f:
            np.savez(f, **split)


def check_out(
    out: str | None, workdir: str, extension: str = ".json", beside: Sequence[str] = ()
):
    """Raises RequestError if a file --out=`out`, or out + an ending of `beside`, cannot
    be written or is the run's; None passes."""
    if out == "":
        raise RequestError(f"--out= is no file name; use --out=FILE{extension}")
    folder = os.path.realpath(workdir)
    for path in [] if out is None else [out, *(out + ending for ending in beside)]:
        first, *_ = os.path.relpath(os.path.realpath(path), folder).split(os.sep)
        if first in FILES or first.startswith(
            (CHECKPOINTS, LOCK_FILE, _EVENTS, _WANDB)
        ):
            raise RequestError(
                f"--out={out}: {path} is among the files of the run; choose another"
            )
        files.check_output(path, extension if path == out else "")


def clear(workdir: str):
    """Removes an earlier run; raises RequestError if there is something else."""
    check_run_or_empty(workdir)
    # After a kill the folder must still be a run, without half-removed checkpoints.
    checkpoints = os.path.join(workdir, CHECKPOINTS)
    shutil.rmtree(checkpoints + _REMOVED, ignore_errors=True)
    if os.path.isdir(checkpoints):
        os.rename(checkpoints, checkpoints + _REMOVED)
    for name in sorted(os.listdir(workdir), key=lambda name: name == CONFIG_FILE):
        path = os.path.join(workdir, name)
        if name == LOCK_FILE:
            continue
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.remove(path)


@contextlib.contextmanager
def locked(workdir: str) -> Generator[None]:
    """Makes `workdir` and keeps other processes from training there for the block."""
    message = (
        f"--workdir={workdir}: another process is training there; wait for it, or "
        "choose another"
    )
    with contextlib.ExitStack() as stack:
        with files.written_to("--workdir", workdir):
            os.makedirs(workdir, exist_ok=True)
            stack.enter_context(files.locked(os.path.join(workdir, LOCK_FILE), message))
        yield


def is_locked(workdir: str) -> bool:
    """Whether a process trains in `workdir` now."""
    try:
        # To write, or NFS would lock nothing.
        with open(os.path.join(workdir, LOCK_FILE), "r+") as file:
            return not files.try_lock(file)
    except OSError:
        return False


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
    """Returns (dotted key, old value, new value) for each difference of two dicts."""
    a, b = flat(old), flat(new)
    keys = sorted({*a, *b})
    return [(k, a.get(k), b.get(k)) for k in keys if a.get(k) != b.get(k)]


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns {"group.key": value} of a nested dict."""
    values = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[prefix + key] = value
    return values
