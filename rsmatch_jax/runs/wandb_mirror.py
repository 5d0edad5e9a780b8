"""Shows a run at Weights & Biases too: log.wandb=PROJECT.

The only module that imports wandb, which is optional. Everything that calls it happens
in another thread, so that a slow or broken connection holds up no step, and what
fails gives one warning. The workdir remembers the run's id: a resumed run goes on there
in the same run. WANDB_MODE=offline writes to the workdir alone, for `wandb sync`.
"""

import importlib.util
import os
import queue
import re
import secrets
import threading
from collections.abc import Callable, Mapping
from typing import Any

from rsmatch_jax import files
from rsmatch_jax.errors import RequestError, one_line
from rsmatch_jax.runs import workdir
from rsmatch_jax.terminal import say

START = 30.0  # seconds for the first answer; the end of the process waits as long
PATIENCE = 10.0  # seconds for the last data at the end of the run
MOST_WAITING = 10_000  # calls that wait for a slow connection


def check(project: str | None):
    """Raises RequestError if log.wandb=`project` cannot work; None passes."""
    if project is None:
        return
    if not project or len(project) > 128 or re.search(r"[/\\#?%:]", project):
        raise RequestError(
            f"log.wandb={project}: a project's name has 1 to 128 characters, none of "
            "them / \\ # ? % : (its entity: the environment variable WANDB_ENTITY)"
        )
    spec = importlib.util.find_spec("wandb")
    # A folder of that name, as wandb makes it, counts as a module without a file.
    if spec is None or spec.origin is None:
        raise RequestError(
            f"log.wandb={project}: the package wandb is missing; pip install "
            "'rsmatch_jax[wandb]', or leave the key out"
        )


class Mirror:
    """Passes calls on to one run at Weights & Biases."""

    def __init__(self, folder: str, project: str, config: Mapping[str, Any]):
        """folder: the workdir. config: of the run, shown there."""
        self._calls: queue.Queue = queue.Queue(MOST_WAITING)
        self._lost = False
        options = {
            "project": project,
            "id": _run_id(folder, project),
            "resume": "allow",
            "name": os.path.basename(os.path.abspath(folder)),
            "dir": folder,
            "config": config,
            "allow_val_change": True,  # of keys that a resumed run may change
        }
        # A daemon: a call that hangs does not keep the process from ending.
        self._thread = threading.Thread(
            target=self._work, args=(options,), name="wandb", daemon=True
        )
        self._thread.start()

    def write_scalars(self, step: int, scalars: Mapping[str, float]):
        """Shows numbers at a step. Those that a resumed run repeats are left out."""
        self._put(lambda wandb, run: run.log(scalars, step=step))

    def write_image(self, step: int, name: str, image: Any):
        """Shows a picture, uint8 [H, W, 3]."""
        self._put(lambda wandb, run: run.log({name: wandb.Image(image)}, step=step))

    def close(self, exit_code: int = 0):
        """Ends the run there; waits PATIENCE for what is under way, no longer."""
        self._put(lambda wandb, run: run.finish(exit_code=exit_code))
        self._put(None)
        self._thread.join(PATIENCE + 1)
        if self._thread.is_alive():
            self._lose(f"no answer in {PATIENCE:.0f} s")

    def _put(self, call: Callable[[Any, Any], Any] | None):
        if self._lost:
            return
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._lose(f"{MOST_WAITING} calls wait for it")

    def _lose(self, reason: str):
        """Gives up, with one warning."""
        if not self._lost:
            self._lost = True
            say(f"warning: nothing goes to Weights & Biases from here on: {reason}")

    def _work(self, options: Mapping[str, Any]):
        try:
            import wandb

            settings = wandb.Settings(
                console="off",  # or it would put itself between the run and stdout
                silent=True,  # nor does it ask for an account
                init_timeout=START,
                finish_timeout=PATIENCE,
            )
            wandb.setup(settings=settings)
            run = wandb.init(settings=settings, **options)
            while not self._lost and (call := self._calls.get()):
                call(wandb, run)
        except Exception as e:  # wandb raises many kinds
            self._lose(one_line(e))


def _run_id(folder: str, project: str) -> str:
    """The id that the workdir remembers for the project, or else a new one."""
    path = os.path.join(folder, workdir.WANDB_FILE)
    saved = files.read_json(path) or {}
    if saved.get("project") != project or not isinstance(saved.get("id"), str):
        saved = {"project": project, "id": secrets.token_hex(4)}
        files.write_json(path, saved)
    return saved["id"]
