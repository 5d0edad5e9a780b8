"""The folders `<workdir>/checkpoints` and `<workdir>/checkpoints_damaged`, as files.

A checkpoint is a folder whose name is its step. Orbax writes and reads what is in it.
"""

import os
import shutil
from collections.abc import Callable, Sequence

from rsmatch_jax.errors import RequestError
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

    def latest(self) -> int | None:
        """Returns the newest saved step, None if there is none."""
        return max(self.steps(), default=None)

    def choose(self, name: str, read_best: Callable[[int], int | None]) -> int:
        """Returns the saved step that `name` (last, best or a number) means.

        Args:
            read_best: reads the best step from the checkpoint of a step.
        Raises:
            RequestError: there is no such checkpoint.
        """
        steps = self.steps()
        if not steps:
            raise RequestError(
                f"{self.path}: nothing is saved yet; the first checkpoint comes "
                "after checkpoint.every_steps steps"
            )
        listed = ", ".join(map(str, steps))
        if name == "last":
            return steps[-1]
        if name == "best":
            best = read_best(steps[-1])
            if best in steps:
                return best
            reason = (
                "the run was not evaluated up to its newest checkpoint"
                if best is None
                else f"the checkpoint of the best step, {best}, is not there"
            )
            raise RequestError(f"--step=best: {reason}; choose last or one of {listed}")
        if name not in map(str, steps):
            raise RequestError(
                f"--step={name}: there is no such checkpoint; choose last, best or "
                f"one of {listed}"
            )
        return int(name)

    def begin_replacing(self, step: int):
        """Renames the checkpoint of `step`, which stays until the new one is there."""
        path = os.path.join(self.path, str(step))
        if hosts.is_primary():
            os.rename(path, path + _BEFORE)
        hosts.barrier(f"replace {path}")

    def end_replacing(self, step: int):
        """Removes the old checkpoint of `step`."""
        if hosts.is_primary():
            shutil.rmtree(os.path.join(self.path, str(step)) + _BEFORE)

    def undo_replacing(self):
        """Restores old checkpoints that a kill or an error left without a new one."""
        if not hosts.is_primary() or not os.path.isdir(self.path):
            return
        for name in os.listdir(self.path):
            path = os.path.join(self.path, name.removesuffix(_BEFORE))
            if name.endswith(_BEFORE) and os.path.exists(path):
                shutil.rmtree(path + _BEFORE)
            elif name.endswith(_BEFORE):
                os.rename(path + _BEFORE, path)

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
