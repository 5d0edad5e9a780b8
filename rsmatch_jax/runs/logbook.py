"""What a run writes for people: terminal, metrics.jsonl, TensorBoard, result.json.

clu is imported here alone, and late, for it imports TensorFlow; without TensorFlow the
event files are left out.
"""

import contextlib
import json
import math
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

import numpy as np
from absl import logging

from rsmatch_jax.errors import RequestError
from rsmatch_jax.terminal import say

METRICS_FILE = "metrics.jsonl"
RESULT_FILE = "result.json"
PARAMETERS_FILE = "parameters.txt"


class Logbook:
    """Metrics of one run. kept: bytes of metrics.jsonl that belong to the state it goes
    on from, as `sync` said; what an interrupted start wrote beyond is dropped, so
    nothing stands there twice."""

    def __init__(self, workdir: str, *, kept: int, num_steps: int, tensorboard: bool):
        self._workdir = workdir
        path = os.path.join(workdir, METRICS_FILE)
        self._file = open(path, "ab")  # noqa: SIM115 (lives as long as the run)
        if self._file.tell() < kept:
            say(f"warning: {path} has lost lines of steps that are done")
        self._file.truncate(min(kept, self._file.tell()))
        self._num_steps = num_steps
        self._writer = self._progress = None
        if tensorboard:
            self._open_clu(workdir, num_steps)

    def write(self, step: int, metrics: dict[str, Any]):
        """One object to metrics.jsonl; its numbers, but for lists of them, to
        TensorBoard as well."""
        line = {"step": step, **plain(metrics)}
        self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        self._file.flush()
        scalars = {k: v for k, v in metrics.items() if isinstance(v, int | float)}
        self._to_clu(lambda writer: writer.write_scalars(step, scalars))

    def write_start(self, config: dict[str, Any], params: Any):
        """The parameter overview to parameters.txt, the config to TensorBoard."""
        try:
            from clu import parameter_overview
        except ImportError:
            return  # the terminal has the sums
        table = parameter_overview.get_parameter_overview(params)
        with open(os.path.join(self._workdir, PARAMETERS_FILE), "w") as f:
            f.write(table + "\n")
        # TensorBoard has no type for None.
        named = {k: "None" if v is None else v for k, v in flat(config).items()}
        self._to_clu(lambda writer: writer.write_hparams(named))

    def write_image(self, step: int, name: str, image: np.ndarray):
        """A picture to TensorBoard: uint8 [H, W, 3]."""
        self._to_clu(lambda writer: writer.write_images(step, {name: image[None]}))

    def count_step(self, step: int):
        """To be called after every step: clu's ReportProgress wants to see each."""
        if self._progress is not None:
            self._to_clu(lambda writer: self._progress(step))

    def progress(
        self,
        step: int,
        metrics: dict[str, Any],
        rate: float,
        extra_seconds: float,
        alarms: Sequence[str] = (),
    ):
        """The progress line. rate: training steps per second; extra_seconds: what
        else the run will do, evaluations above all; alarms: what is wrong now."""
        parts = [f"step {step}/{self._num_steps}"]
        parts += [f"{k} {v:.3f}" for k, v in metrics.items()]
        to_go = duration((self._num_steps - step) / rate + extra_seconds)
        parts += [f"{rate:.2f} steps/s", f"ETA {to_go}"]
        say("  ".join([*parts, *(f"WARNING: {alarm}" for alarm in alarms)]))

    def sync(self) -> int:
        """Brings metrics.jsonl to disk; its length in bytes."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self):
        self._file.close()
        self._to_clu(lambda writer: writer.close())

    def _to_clu(self, write: Callable[[Any], None]):
        """Event files are for looking at: one that cannot be written ends no run."""
        if self._writer is None:
            return
        try:
            write(self._writer)
        # TensorFlow and clu's threads raise anything.
        except Exception as e:
            self._writer = self._progress = None
            reason = " ".join(str(e).split())[:200]
            say(f"warning: no TensorBoard event files from here on: {reason}")

    def _open_clu(self, workdir: str, num_steps: int):
        try:
            from clu import metric_writers, periodic_actions
        except ImportError as e:
            say(f"no TensorBoard event files: {e} (metrics.jsonl has all numbers)")
            return
        # Its LoggingWriter and work-unit notes repeat our lines: warnings only.
        logging.set_verbosity(logging.WARNING)
        self._writer = metric_writers.create_default_writer(workdir)
        self._progress = periodic_actions.ReportProgress(
            num_train_steps=num_steps, writer=self._writer, every_secs=30.0
        )


def write_json(path: str, content: dict[str, Any]):
    """Writes a JSON file atomically, also beside other processes that write it; NaN
    and infinities become null."""
    replace_text(path, json.dumps(plain(content), indent=1, allow_nan=False) + "\n")


def replace_text(path: str, text: str):
    """Writes a file that others see whole or not at all."""
    replace_bytes(path, text.encode())


def replace_bytes(path: str, data: bytes):
    """As `replace_text`."""
    temporary = f"{path}.{os.getpid()}-{threading.get_ident()}.tmp"
    with open(temporary, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    os.replace(temporary, path)


@contextlib.contextmanager
def replacing(path: str) -> Iterator[TextIO]:
    """A text file to write that takes `path`'s place at the end of the block, and only
    if that ends well. Raises RequestError where it cannot be written."""
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "w", encoding="utf-8") as f:
            yield f
        os.replace(temporary, path)
    except OSError as e:
        raise RequestError(f"--out={path} cannot be written: {e}") from e
    finally:
        with contextlib.suppress(OSError):
            os.remove(temporary)


def check_out(path: str | None, extension: str = ".json"):
    """Raises RequestError where no file --out=`path` can be made; None is fine."""
    if path is None:
        return
    folder = os.path.dirname(path) or "."
    if not path.endswith(extension) or os.path.isdir(path):
        raise RequestError(f"--out={path} is no file name; use --out=FILE{extension}")
    if not os.path.isdir(folder):
        raise RequestError(f"--out={path}: there is no folder {folder}; make it first")
    try:
        tempfile.TemporaryFile(dir=folder).close()
        if os.path.exists(path):
            open(path, "r+b").close()
    except OSError as e:
        raise RequestError(
            f"--out={path} cannot be written ({e.strerror}); choose another"
        ) from None


def plain(value: Any) -> Any:
    """JSON-ready: numpy scalars to Python's, non-finite numbers to None."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"group.key": value} of a nested dict."""
    found = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def duration(seconds: float) -> str:
    """As people write it: 2h05m, 3m07s."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"
