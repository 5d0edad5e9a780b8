"""Saves and restores the state of a run with Orbax.

A checkpoint holds a fingerprint of its state. A restored state with another fingerprint
is damaged: the checkpoint is moved aside, never deleted.
"""

import contextlib
import errno
import functools
import json
import re
import zlib
from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from rsmatch_jax.errors import NotNow, RequestError, RunFailed, one_line
from rsmatch_jax.runs import fingerprint, orbax_parts
from rsmatch_jax.runs.checkpoint_folder import CheckpointFolder
from rsmatch_jax.runtime import hosts
from rsmatch_jax.state import PyTree

# Of files and folders that are not there, or are another kind of thing: damage.
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


class Restored(NamedTuple):
    """A checkpoint's content; fingerprint: 8 hex digits, see `fingerprint`."""

    step: int
    state: PyTree
    meta: dict[str, Any]
    fingerprint: str


class Checkpoints:
    """The newest states of a run and the best one, each with a JSON dict `meta` of what
    else the run needs to go on."""

    def __init__(self, workdir: str, keep: int | None):
        """keep: newest checkpoints that stay; None = read only, nothing is changed."""
        self._folder = CheckpointFolder(workdir)
        self._policy = orbax_parts.NewestAndBest(keep or 1)
        # Orbax's option read_only does no more than this, and prints a warning.
        options = ocp.CheckpointManagerOptions(
            create=keep is not None,
            cleanup_tmp_directories=keep is not None,
            preservation_policy=self._policy,
        )
        if keep is not None:
            self._folder.undo_replacing()
        orbax_parts.log_no_tracebacks()
        self._manager = ocp.CheckpointManager(self._folder.path, options=options)
        self._sums = jax.jit(fingerprint.of_leaves)
        self._saving: int | None = None

    def prepare(self, state: PyTree):
        """Compiles what the first save of such a state would otherwise compile."""
        self._sums(state)

    def latest(self) -> int | None:
        """Returns the newest saved step, None if there is none."""
        return max(self._folder.steps(), default=None)

    def choose(self, name: str | int) -> int:
        """Returns the saved step that `name` means: last, best (in the newest
        checkpoint's view) or a number. Raises RequestError if it is not there."""
        steps = self._folder.steps()
        if not steps:
            raise RequestError(
                f"{self._folder.path}: nothing is saved yet; the first checkpoint "
                "comes after checkpoint.every_steps steps"
            )
        step, reason = steps[-1], "there is no such checkpoint"
        if name == "best":
            step = self._read(step, meta=ocp.args.JsonRestore())["meta"]["best"]
            reason = f"the checkpoint of the best step, {step}, is not there"
            if step is None:
                reason = (
                    "the run was not evaluated up to its newest checkpoint, or has "
                    "neither test nor validation images to choose on"
                )
        elif name != "last":
            step = int(name) if str(name) in map(str, steps) else None
        if step not in steps:
            names = "last" if name == "best" else "last, best"
            listed = ", ".join(map(str, steps))
            raise RequestError(
                f"--step={name}: {reason}; choose {names} or one of {listed}"
            )
        return step

    def save(
        self, step: int, state: PyTree, meta: dict[str, Any], best: int | None = None
    ) -> str:
        """Starts to save a state, which may be donated when this returns; returns its
        fingerprint. Replaces a checkpoint of the same step. best: the step that stays.

        Raises RunFailed if this save or the one before it cannot be written.
        """
        with self._writing():
            self._manager.wait_until_finished()
        self._policy.best, self._saving = best, step
        sums = self._sums(state)
        content = {
            "meta": meta,
            "best": best,
            "fingerprint": sums.tolist(),
            "crc32": _crc32(meta),
        }
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(content)
        )
        with self._writing():
            if step not in self._folder.steps():
                self._manager.save(step, args=items, force=True)
            else:
                with self._folder.replacing(step):
                    self._manager.reload()  # Orbax remembers which steps it has seen
                    self._manager.save(step, args=items, force=True)
                    self._manager.wait_until_finished()
        return fingerprint.text(sums)

    def require_written(self):
        """Raises RunFailed if a save in the background has failed; waits for none."""
        # After Orbax's check_for_errors the thread that deletes older checkpoints would
        # not see the error.
        if not self._manager.is_saving_in_progress():
            with self._writing():
                self._manager.wait_until_finished()

    def require_fits(
        self, step: int, shapes: Mapping[str, tuple[int, ...]], like: PyTree
    ):
        """Raises RequestError if the state of `step`, by its `shapes`, has other leaves
        than `like`; passes a damaged one, which `restore` reports."""
        misfit = orbax_parts.misfit(shapes, like)
        if misfit:
            raise RequestError(
                f"{self._folder.path}/{step} is of another method, model or version "
                f"than config.json says: {misfit}. Restore config.json, or use the "
                "version that trained the run"
            )

    def shapes(self, step: int) -> dict[str, tuple[int, ...]]:
        """Returns {path: shape} of a saved state's leaves; empty if it is damaged."""
        return orbax_parts.shapes(self._folder.path, step)

    def restore(self, step: int, like: PyTree) -> Restored:
        """Returns the checkpoint of `step`, its state with the placement of `like`;
        raises RunFailed if it is damaged."""
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        read = self._read(
            step, state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore()
        )
        state, content = read["state"], read["meta"]
        try:
            meta = dict(content["meta"])
            before = [int(x) for x in content["fingerprint"]]
            if content["crc32"] != _crc32(meta):
                raise self._damaged(step, "meta is not what was saved")
        except (KeyError, TypeError, ValueError):
            raise self._damaged(step, "another version has made it") from None
        sums = self._sums(state)
        if len(sums) != len(before):
            raise self._damaged(step, "it holds another model")
        leaves = zip(orbax_parts.leaves(state), sums.tolist(), before, strict=True)
        changed = [path for (path, _), now, old in leaves if now != old]
        if changed:
            others = f", nor are {len(changed) - 1} others" if changed[1:] else ""
            raise self._damaged(step, f"{changed[0]} is not what was saved{others}")
        return Restored(step, state, meta, fingerprint.text(sums))

    def restore_newest(
        self,
        like: PyTree,
        say: Callable[[str], None],
        anew: str = "train anew with --overwrite",
    ) -> Restored | None:
        """Returns the newest good checkpoint, None if there is no checkpoint at all.

        Moves newer ones, which are damaged, aside and warns. If all are damaged, they
        stay where they are, and it raises RunFailed. anew: how to go on without them.
        Raises NotNow for one that cannot be read, which says nothing about damage.
        """
        steps, reasons = hosts.on_primary("saved checkpoints", self._folder.steps), []
        for step in reversed(steps):
            try:
                restored = hosts.agreed(
                    f"checkpoint {step}", functools.partial(self.restore, step, like)
                )
            except NotNow:
                raise
            except RunFailed as e:
                reasons.append(str(e))
                continue
            if reasons:
                self._folder.move_aside(steps[steps.index(step) + 1 :])
                self._manager.reload()
                aside = f"the damaged checkpoints are in {self._folder.aside} now"
                for reason in (*reasons, f"going back to step {step}; {aside}"):
                    say(f"warning: {reason}")
            return restored
        if reasons:
            raise RunFailed(
                "; ".join(reasons)
                + f". There is no other checkpoint: restore one from a copy, or {anew}"
            )
        return None

    def close(self):
        """Waits for saves under way; raises RunFailed if one cannot be written."""
        with self._writing():
            try:
                self._manager.wait_until_finished()
            finally:
                self._manager.close()

    def _read(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as e:  # Orbax raises exceptions of many kinds for bad files
            if _may_pass(e):
                raise NotNow(
                    f"{self._folder.path}/{step} cannot be read now: {one_line(e)}. "
                    "Nothing was changed; mend that and start again"
                ) from e
            raise self._damaged(step, one_line(e)) from e

    def _damaged(self, step: int, reason: str) -> RunFailed:
        return RunFailed(
            f"{self._folder.path}/{step} is damaged, or is not of this model and "
            f"version: {reason}"
        )

    @contextlib.contextmanager
    def _writing(self) -> Generator[None]:
        try:
            with hosts.losses_named():
                yield
        except RunFailed:
            raise
        except Exception as e:  # Orbax raises exceptions of many kinds for a full disk
            latest = self.latest()
            checkpoint = "there is none" if latest is None else f"that of step {latest}"
            raise RunFailed(
                f"the checkpoint of step {self._saving} could not be written to "
                f"{self._folder.path}: {one_line(e)}. The last good one: {checkpoint}. "
                "Make room and start again to go on from there"
            ) from e


def _may_pass(error: Exception) -> bool:
    """Whether an error is of the disk, the rights or the memory, not of the files."""
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return True
    numbers = [int(n) for n in re.findall(r"\[OS error (\d+)", str(error))]
    if isinstance(error, OSError) and error.errno is not None:
        numbers.append(error.errno)
    return any(number not in _ABSENT for number in numbers)


def newest_shapes(workdir: str) -> dict[str, tuple[int, ...]]:
    """Returns {path: shape} of a workdir's newest readable state; {} without one."""
    folder = CheckpointFolder(workdir)
    shapes = (orbax_parts.shapes(folder.path, s) for s in reversed(folder.steps()))
    return next(filter(None, shapes), {})


def _crc32(meta: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(meta, sort_keys=True).encode())
