"""What a run writes while it trains: metrics.jsonl, TensorBoard's event files, and what
Weights & Biases shows (wandb_mirror.py).

The event files are event_files.py's.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from rsmatch_jax import files
from rsmatch_jax.runs import wandb_mirror, workdir
from rsmatch_jax.runs.event_files import EventFiles
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
