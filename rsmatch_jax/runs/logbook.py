"""What a run writes while it trains: metrics.jsonl, TensorBoard's event files, and what
Weights & Biases shows (wandb_mirror.py).

Only this module imports clu, inside a function, because it imports TensorFlow.
"""

import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from absl import logging

from rsmatch_jax import files
from rsmatch_jax.errors import one_line
from rsmatch_jax.runs import wandb_mirror, workdir
from rsmatch_jax.runtime import hosts
from rsmatch_jax.terminal import say


class Logbook:
    """The metrics of one run."""

    def __init__(self, folder: str, config: Mapping[str, Any], *, num_bytes: int):
        """config: of the run, as a dict. num_bytes: what `sync` returned at the
        checkpoint that the run goes on from. Later lines are removed, because the run
        writes them again."""
        self._folder, self._config = folder, config
        path = os.path.join(folder, workdir.METRICS_FILE)
        self._file = open(path, "ab")  # noqa: SIM115 (lives as long as the run)
        if self._file.tell() < num_bytes:
            say(f"warning: {path} has lost lines of earlier steps")
        self._file.truncate(min(num_bytes, self._file.tell()))
        self._file.seek(0, os.SEEK_END)  # truncate moves no position
        self._events: EventFiles | None = None
        self._mirror: wandb_mirror.Mirror | None = None
        options = config["log"]
        if options["tensorboard"]:
            self._events = EventFiles(folder, config["train"]["num_steps"])
        # Of several processes one writes what somebody reads.
        if options["wandb"] is not None and hosts.is_primary():
            self._mirror = wandb_mirror.Mirror(folder, options["wandb"], config)

    def write(self, step: int, metrics: dict[str, Any]):
        """Writes an object to metrics.jsonl, and its scalars elsewhere."""
        line = {"step": step, **files.plain(metrics)}
        self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        self._file.flush()
        scalars = {k: v for k, v in metrics.items() if isinstance(v, int | float)}
        if self._events is not None:
            self._events.write(lambda writer: writer.write_scalars(step, scalars))
        if self._mirror is not None:
            self._mirror.write_scalars(step, scalars)

    def write_start(self, params: Any):
        """Writes parameters.txt, and the config to TensorBoard."""
        try:
            from clu import parameter_overview
        except ImportError:
            return  # the sums are on the terminal
        table = parameter_overview.get_parameter_overview(params)
        with open(os.path.join(self._folder, workdir.PARAMETERS_FILE), "w") as f:
            f.write(table + "\n")
        # TensorBoard has no type for None.
        flat = workdir.flat(self._config)
        named = {k: "None" if v is None else v for k, v in flat.items()}
        if self._events is not None:
            self._events.write(lambda writer: writer.write_hparams(named))

    def write_image(self, step: int, name: str, image: np.ndarray):
        """Writes a picture, uint8 [H, W, 3], to TensorBoard and Weights & Biases."""
        if self._events is not None:
            pictures = {name: image[None]}
            self._events.write(lambda writer: writer.write_images(step, pictures))
        if self._mirror is not None:
            self._mirror.write_image(step, name, image)

    def count_step(self, step: int):
        """Counts a step for the event files."""
        if self._events is not None:
            self._events.count_step(step)

    def sync(self) -> int:
        """Brings metrics.jsonl to disk; returns its length in bytes."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self, failed: bool = False):
        """Closes all; failed: whether the run ends by an error."""
        self._file.close()
        if self._events is not None:
            self._events.close()
        if self._mirror is not None:
            self._mirror.close(exit_code=int(failed))


class EventFiles:
    """TensorBoard's event files in a folder, written by clu. One that cannot be written
    ends no run. clu imports TensorFlow, which takes up to half a minute: a thread does
    it, and writes all files, so that no step waits for it."""

    def __init__(self, folder: str, num_steps: int):
        self._writer: Any = None  # clu's; None before it is loaded, and after a failure
        self._progress: Any = None
        self._thread = ThreadPoolExecutor(1, "event_files")
        self._thread.submit(self._open, folder, num_steps)

    def write(self, write: Callable[[Any], None]):
        """Calls `write` with clu's writer, soon, and after what was to be written
        before."""
        self._thread.submit(self._try, write)

    def count_step(self, step: int):
        """Counts a step; clu's ReportProgress needs a call for each."""
        if self._progress is not None:
            self._try(lambda writer: self._progress(step))

    def close(self):
        """Waits until all is written."""
        self.write(lambda writer: writer.close())
        self._thread.shutdown()

    def _open(self, folder: str, num_steps: int):
        try:
            # First, so that clu's TensorFlow prints no lines and leaves the GPU alone.
            from rsmatch_jax.data.stores import tf_import  # noqa: F401, I001
            from clu import metric_writers, periodic_actions
        except ImportError as e:
            say(f"no TensorBoard event files: {e} (metrics.jsonl has all numbers)")
            return
        # clu would log our lines a second time.
        logging.set_verbosity(logging.WARNING)
        try:
            self._writer = metric_writers.create_default_writer(folder)
            self._progress = periodic_actions.ReportProgress(
                num_train_steps=num_steps, writer=self._writer, every_secs=30.0
            )
        except Exception as e:  # as in `_try`
            self._fail(e)

    def _try(self, write: Callable[[Any], None]):
        if self._writer is None:
            return
        try:
            write(self._writer)
        except Exception as e:  # TensorFlow and clu's threads raise many kinds
            self._fail(e)

    def _fail(self, error: Exception):
        self._writer = self._progress = None
        say(f"warning: no TensorBoard event files from here on: {one_line(error)}")
