"""A run's folder: whose it is, and what lies in it.

config.json, split.npz, data.json, parameters.txt, checkpoints/, metrics.jsonl, event
files, queue.png, confusion.npy, mistakes.npz and result.json.
"""

import contextlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from rsmatch_jax import files
from rsmatch_jax.errors import RequestError

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"
RESULT_FILE = "result.json"
PARAMETERS_FILE = "parameters.txt"
SPLIT_FILE = "split.npz"
DATA_FILE = "data.json"  # what a trained network must know of its data
QUEUE_PICTURE = "queue.png"
CONFUSION_FILE = "confusion.npy"
MISTAKES_FILE = "mistakes.npz"
LOCK_FILE = ".lock"
CHECKPOINTS = "checkpoints"
_REMOVED = ".removed"
_TEMPORARY = ".tmp"
_EVENTS = "events.out."  # TensorBoard's
FILES = (
    CONFIG_FILE,
    SPLIT_FILE,
    DATA_FILE,
    QUEUE_PICTURE,
    CONFUSION_FILE,
    MISTAKES_FILE,
    METRICS_FILE,
    PARAMETERS_FILE,
    RESULT_FILE,
)

# Keys that change how a run is carried out, never what it computes.
FREE = ("input.prefetch", "train.steps_per_dispatch", "checkpoint.", "log.")


def read_config(workdir: str) -> dict[str, Any] | None:
    """The config of the run in `workdir`, None where there is no run."""
    return files.read_json(os.path.join(workdir, CONFIG_FILE))


def read_result(workdir: str) -> dict[str, Any] | None:
    """The run's result.json, None where there is none."""
    return files.read_json(os.path.join(workdir, RESULT_FILE))


def read_metrics(workdir: str) -> list[dict[str, Any]]:
    """Returns the lines of metrics.jsonl; a killed run's half line is left out.

    Raises:
        RequestError: the file cannot be read or a line holds no JSON object.
    """
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
    """Raises RequestError where no folder `workdir` can be."""
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


def check_free(
    workdir: str,
    config: dict[str, Any],
    way_out: str = "choose another workdir, use the same config, or start anew with "
    "--overwrite",
):
    """Raises RequestError if `workdir` belongs to a run of another config, or to
    something else."""
    earlier = read_config(workdir)
    if earlier is None:
        if _content(workdir):
            raise RequestError(
                f"--workdir={workdir} is not empty and holds no run (no "
                f"{CONFIG_FILE}); {way_out}"
            )
        return
    differing = [
        f"  {key}: {old} there, {new} here"
        for key, old, new in differences(earlier, config)
        if not key.startswith(FREE)
    ]
    if differing:
        raise RequestError(
            f"--workdir={workdir} holds a run of another config:\n"
            + "\n".join(differing)
            + f"\n{way_out}"
        )


def read_data(workdir: str) -> dict[str, Any]:
    """What `claim` was told of the run's data. Raises RequestError where it is gone."""
    found = files.read_json(os.path.join(workdir, DATA_FILE))
    if found is None:
        raise RequestError(
            f"--workdir={workdir} holds no {DATA_FILE}, so nothing tells the classes "
            "and the size of its images: another version has made this run; use the "
            "version that trained it, or restore the file"
        )
    return found


def claim(
    workdir: str,
    config: dict[str, Any],
    split: dict[str, np.ndarray],
    data: dict[str, Any],
):
    """Makes the folder, with config.json, split.npz and data.json in it.

    Raises RequestError where it cannot, or where an earlier start of this run chose
    other images: the data behind it has changed.
    """
    path = os.path.join(workdir, SPLIT_FILE)
    if os.path.exists(path):
        check_split(workdir, split)
    try:
        os.makedirs(workdir, exist_ok=True)
        for name in os.listdir(workdir):
            if name.endswith(_TEMPORARY):  # of a killed process, for we have the lock
                os.remove(os.path.join(workdir, name))
        files.write_json(os.path.join(workdir, CONFIG_FILE), config)
        files.write_json(os.path.join(workdir, DATA_FILE), data)
        with open(path + _TEMPORARY, "wb") as f:
            np.savez(f, **split)
        os.replace(path + _TEMPORARY, path)
    except OSError as e:
        raise RequestError(
            f"--workdir={workdir} cannot be written ({e}); choose another"
        ) from e


def check_split(workdir: str, split: dict[str, np.ndarray]):
    """Raises RequestError unless the run in `workdir` began with these images.

    split: index arrays by name, chosen anew from the data that are there now.
    """
    path = os.path.join(workdir, SPLIT_FILE)
    try:
        with np.load(path, allow_pickle=False) as saved:
            earlier = {name: saved[name] for name in split}
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as e:
        raise RequestError(
            f"{path} cannot be read ({e}), so nothing tells which images this run "
            "began with; restore it, or train anew with --overwrite"
        ) from None
    for name, chosen in split.items():
        if not np.array_equal(earlier[name], chosen):
            raise RequestError(
                f"{path}: this run began with another choice of {name} images, so the "
                "dataset or the pool has changed since; restore them, or train anew "
                "with --overwrite"
            )


def check_out(
    out: str | None,
    workdir: str,
    extension: str = ".json",
    beside: Sequence[str] = (),
):
    """Raises RequestError where no file --out=`out` can be made, or where the run in
    `workdir` has its own; None is fine. beside: endings of files that are written next
    to it, of which the same holds."""
    if out == "":
        raise RequestError(f"--out= is no file name; use --out=FILE{extension}")
    folder = os.path.realpath(workdir)
    for path in [] if out is None else [out, *(out + ending for ending in beside)]:
        first, *_ = os.path.relpath(os.path.realpath(path), folder).split(os.sep)
        if first in FILES or first.startswith((CHECKPOINTS, LOCK_FILE, _EVENTS)):
            raise RequestError(
                f"--out={out}: {path} is among the files of the run; choose another"
            )
        files.check_output(path, extension if path == out else "")


def check_clearable(workdir: str):
    """Raises RequestError for a folder that holds something other than a run."""
    if _content(workdir) and read_config(workdir) is None:
        raise RequestError(
            f"--overwrite: {workdir} holds no run (no {CONFIG_FILE}) and is left "
            "alone; choose another workdir"
        )


def clear(workdir: str):
    """Removes an earlier run; refuses a folder that holds something else."""
    check_clearable(workdir)
    # Killed on the way it must still be a run, and none with half of its checkpoints.
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
def locked(workdir: str) -> Iterator[None]:
    """Keeps other processes from training in `workdir` meanwhile; makes the folder.

    Raises RequestError where one is at it already, or where no folder can be made. The
    system gives the lock back however the process ends.
    """
    taken = (
        f"--workdir={workdir}: another process is training there; wait for it, or "
        "choose another"
    )
    with contextlib.ExitStack() as stack:
        try:
            os.makedirs(workdir, exist_ok=True)
            stack.enter_context(files.locked(os.path.join(workdir, LOCK_FILE), taken))
        except OSError as e:
            raise RequestError(
                f"--workdir={workdir} cannot be written ({e}); choose another"
            ) from e
        yield


def is_locked(workdir: str) -> bool:
    """Whether a process is training there now."""
    try:
        with open(os.path.join(workdir, LOCK_FILE)) as file:
            return not files.try_lock(file)
    except OSError:
        return False


def differences(
    old: dict[str, Any], new: dict[str, Any], prefix: str = ""
) -> list[tuple[str, Any, Any]]:
    """(dotted key, old value, new value) wherever two nested dicts differ."""
    found = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append((f"{prefix}{key}", a, b))
    return found


def _content(workdir: str) -> list[str]:
    """What lies in a folder, if it is one, beside the lock and what a kill leaves of a
    file that was being written."""
    if not os.path.isdir(workdir):
        return []
    names = os.listdir(workdir)
    return [n for n in names if n != LOCK_FILE and not n.endswith(_TEMPORARY)]


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"group.key": value} of a nested dict."""
    found = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found
