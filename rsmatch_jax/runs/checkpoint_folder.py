"""The folders `<workdir>/checkpoints` and `<workdir>/checkpoints_damaged`.

A checkpoint is a folder whose name is its step. Orbax writes and reads what is in it.
"""

import contextlib
import glob
import os
import shutil
from collections.abc import Generator, Sequence

from rsmatch_jax.runs.workdir import CHECKPOINTS
from rsmatch_jax.runtime import hosts

ASIDE = "checkpoints_damaged"
_BEFORE = ".before"  # ends the name of a checkpoint that is being replaced


class CheckpointFolder:
    """Names, moves and removals of checkpoints. Process 0 alone changes files."""

    def __init__(self, workdir: str):
        # Orbax accepts a relative path and fails only at the first save.
        self.path = os.path.join(os.path.abspath(workdir), CHECKPOINTS)
        self.aside = os.path.join(os.path.abspath(workdir), ASIDE)

    def steps(self) -> list[int]:
        """Returns the steps of the complete checkpoints, in order."""
        # Orbax also counts a save that is under way, or that failed.
        names = os.listdir(self.path) if os.path.isdir(self.path) else ()
        return sorted(int(name) for name in names if name.isdigit())

    @contextlib.contextmanager
    def replacing(self, step: int) -> Generator[None]:
        """Keeps the old checkpoint of `step` until the block has written a new one."""
        path = os.path.join(self.path, str(step))
        if hosts.is_primary():
            os.rename(path, path + _BEFORE)
        hosts.barrier(f"replace {path}")
        try:
            yield
        except BaseException:
            self.undo_replacing()
            raise
        if hosts.is_primary():
            shutil.rmtree(path + _BEFORE)

    def undo_replacing(self):
        """Restores old checkpoints that a kill or an error left without a new one."""
        if not hosts.is_primary():
            return
        for old in glob.glob(os.path.join(glob.escape(self.path), "*" + _BEFORE)):
            new = old.removesuffix(_BEFORE)
            if os.path.exists(new):
                shutil.rmtree(old)
            else:
                os.rename(old, new)

    def move_aside(self, steps: Sequence[int]):
        """Moves damaged checkpoints to `aside`; overwrites none there."""
        for step in steps if hosts.is_primary() else ():
            os.makedirs(self.aside, exist_ok=True)
            target, number = os.path.join(self.aside, str(step)), 1
            while os.path.lexists(target):
                number += 1
                target = os.path.join(self.aside, f"{step}.{number}")
            os.rename(os.path.join(self.path, str(step)), target)
        if steps:
            hosts.barrier("damaged checkpoints moved")
