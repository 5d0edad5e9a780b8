"""TensorBoard's event files of a run, written by clu.

clu imports TensorFlow, which takes up to half a minute. A thread does it, and writes
all files, so that neither the first step nor any other waits for it.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from absl import logging

from rsmatch_jax.errors import one_line
from rsmatch_jax.terminal import say


class EventFiles:
    """The event files in a folder. One that cannot be written ends no run."""

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
