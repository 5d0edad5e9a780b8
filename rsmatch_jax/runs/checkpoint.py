"""Saving and restoring the whole state with Orbax. Owns `<workdir>/checkpoints`.

A checkpoint is good if it gives back, to the bit, what was saved: a fingerprint of the
state lies in it and is compared. One that does not is moved aside, never deleted.
"""

import contextlib
import functools
import json
import logging
import os
import pathlib
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from rsmatch_jax.errors import RequestError, RunFailed
from rsmatch_jax.runs import fingerprint
from rsmatch_jax.runs.workdir import CHECKPOINTS
from rsmatch_jax.runtime import hosts
from rsmatch_jax.state import PyTree

ASIDE = "checkpoints_damaged"
_BEFORE = ".before"  # of a step that is being replaced


class Restored(NamedTuple):
    """state: placed as asked for; meta: what was saved beside it; fingerprint: 8 hex
    digits, equal for states that are equal to the bit."""

    step: int
    state: PyTree
    meta: dict[str, Any]
    fingerprint: str


class Checkpoints:
    """The newest `keep` states and the best one of a run.

    A checkpoint is a whole state (typed PRNG key included) and a JSON dict `meta` of
    what else the run needs to go on. keep=None: to be read alone; nothing in the
    workdir is made or removed.
    """

    def __init__(self, workdir: str, keep: int | None):
        # Orbax takes a relative path here and fails only at the first save.
        self._folder = os.path.join(os.path.abspath(workdir), CHECKPOINTS)
        self._aside = os.path.join(os.path.abspath(workdir), ASIDE)
        self._kept = None if keep is None else _NewestAndBest(keep)
        # Not Orbax's read_only: it does no more here, and warns on the terminal.
        options = ocp.CheckpointManagerOptions(
            create=keep is not None,
            cleanup_tmp_directories=keep is not None,
            preservation_policy=self._kept,
        )
        if keep is not None and hosts.is_primary():
            self._undo_replacing()
        logging.getLogger("absl").addFilter(_not_of_orbax)
        self._manager = ocp.CheckpointManager(self._folder, options=options)
        self._sums = jax.jit(fingerprint.of_leaves)
        self._saving: int | None = None

    def prepare(self, state: PyTree):
        """Compiles what a save of such a state needs, which its first one does
        otherwise."""
        self._sums(state)

    def saved(self) -> list[int]:
        """Steps of the checkpoints that are wholly on disk, in order."""
        # Of the folder, not of Orbax, which counts one under way, or failed, as well.
        names = os.listdir(self._folder) if os.path.isdir(self._folder) else ()
        return sorted(int(name) for name in names if name.isdigit())

    def latest(self) -> int | None:
        """The newest saved step, None if there is none."""
        return max(self.saved(), default=None)

    def choose(self, wanted: str) -> int:
        """The saved step meant by last, best (the best evaluation that the newest
        checkpoint knows of) or a number. Raises RequestError where there is none."""
        saved = self.saved()
        if not saved:
            raise RequestError(
                f"{self._folder}: nothing is saved yet; the first checkpoint comes "
                "after checkpoint.every_steps steps"
            )
        listed = ", ".join(map(str, saved))
        if wanted == "last":
            return saved[-1]
        if wanted == "best":
            best = self._read(saved[-1], meta=ocp.args.JsonRestore())["meta"]["best"]
            if best not in saved:
                why = (
                    "the run was not evaluated up to its newest checkpoint"
                    if best is None
                    else f"the checkpoint of the best step, {best}, is not there"
                )
                raise RequestError(
                    f"--step=best: {why}; choose last or one of {listed}"
                )
            return best
        if wanted not in map(str, saved):
            raise RequestError(
                f"--step={wanted}: there is no such checkpoint; choose last, best or "
                f"one of {listed}"
            )
        return int(wanted)

    def save(
        self,
        step: int,
        state: PyTree,
        meta: dict[str, Any],
        best: int | None = None,
    ) -> str:
        """Saves in the background; returns the state's fingerprint once the state may
        be donated again.

        best: the step to be kept as the best one, if it is saved. A step that is there
        already is replaced. Raises: RunFailed where this save, or the one before,
        cannot be written.
        """
        with self._writing():
            self._manager.wait_until_finished()
        self._kept.best, self._saving = best, step
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
            if step in self.saved():
                self._replace(step, items)
            else:
                self._manager.save(step, args=items, force=True)
        return fingerprint.text(sums)

    def _replace(self, step: int, items: ocp.args.Composite):
        """Waits until it is done: what was there before must stay until then."""
        path = os.path.join(self._folder, str(step))
        if hosts.is_primary():
            os.rename(path, path + _BEFORE)
        hosts.barrier(f"replace {path}")
        try:
            self._manager.reload()  # Orbax remembers what it has seen
            self._manager.save(step, args=items, force=True)
            self._manager.wait_until_finished()
        except BaseException:
            if hosts.is_primary():
                self._undo_replacing()
            raise
        if hosts.is_primary():
            shutil.rmtree(path + _BEFORE)

    def require_written(self):
        """Raises RunFailed if a save in the background has failed; waits for nothing
        that is under way."""
        # Not Orbax's check_for_errors: it takes the error away from the thread that
        # would otherwise go on to delete older checkpoints.
        if not self._manager.is_saving_in_progress():
            with self._writing():
                self._manager.wait_until_finished()

    def require_fits(self, step: int, like: PyTree):
        """Raises RequestError where the state of `step` has other leaves than `like`,
        so that it is of another model. A damaged checkpoint is left to `restore`."""
        folder = pathlib.Path(self._folder, str(step), "state")
        try:
            tree = ocp.StandardCheckpointHandler().metadata(folder).tree
            saved = {path: tuple(x.shape) for path, x in _leaves(tree)}
        # As of `_read`.
        except Exception:
            return
        for path, leaf in _leaves(like):
            is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            shape = saved.pop(path, None)
            if shape is None or not (is_key or shape == tuple(leaf.shape)):
                there = "is not there" if shape is None else f"has shape {shape}"
                raise self._of_another_model(step, path, there)
        for path in saved:
            raise self._of_another_model(step, path, "is there")

    def _of_another_model(self, step: int, path: str, there: str) -> RequestError:
        return RequestError(
            f"{self._folder}/{step} is of another method, model or version than "
            f"config.json says: {path} {there}. Restore config.json, or use the "
            "version that trained the run"
        )

    def restore(self, step: int, like: PyTree) -> Restored:
        """The state of `step`, placed as `like` is, and its meta.

        Raises RunFailed where the checkpoint is damaged.
        """
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        read = self._read(
            step, state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore()
        )
        state, content = read["state"], read["meta"]
        try:
            meta, then = dict(content["meta"]), [int(x) for x in content["fingerprint"]]
            if content["crc32"] != _crc32(meta):
                raise self._damaged(step, "meta is not what was saved")
        except (KeyError, TypeError, ValueError):
            raise self._damaged(step, "another version has made it") from None
        sums = self._sums(state)
        if len(sums) != len(then):
            raise self._damaged(step, "it holds another model")
        names = zip(fingerprint.names(state), sums.tolist(), then, strict=True)
        changed = [name for name, now, before in names if now != before]
        if changed:
            raise self._damaged(
                step,
                f"{changed[0]} is not what was saved"
                + (f", nor are {len(changed) - 1} others" if changed[1:] else ""),
            )
        return Restored(step, state, meta, fingerprint.text(sums))

    def restore_newest(
        self, like: PyTree, say: Callable[[str], None]
    ) -> Restored | None:
        """The newest good checkpoint, None where there is none at all.

        Damaged ones that are newer are moved to `checkpoints_damaged`, which `say` is
        told. Raises: RunFailed where none is good; then all stay where they are.
        """
        saved, reasons = hosts.on_primary("saved checkpoints", self.saved), []
        for step in reversed(saved):
            try:
                restored = hosts.agreed(
                    f"checkpoint {step}",
                    functools.partial(self.restore, step, like),
                )
            except RunFailed as e:
                reasons.append(str(e))
                continue
            self._move_aside(saved[saved.index(step) + 1 :])
            for reason in reasons:
                say(f"warning: {reason}")
            if reasons:
                say(
                    f"warning: going back to step {step}; what is damaged lies in "
                    f"{self._aside} now"
                )
            return restored
        if reasons:
            raise RunFailed(
                "; ".join(reasons)
                + ". There is no other checkpoint: bring one back from a copy, or "
                "train anew with --overwrite"
            )
        return None

    def close(self):
        """Waits for saves under way. Raises: RunFailed where one cannot be written."""
        with self._writing():
            try:
                self._manager.wait_until_finished()
            finally:
                self._manager.close()

    def _read(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        # Files may be anything by now, and so may be what Orbax makes of them.
        except Exception as e:
            raise self._damaged(step, _brief(e)) from e

    def _damaged(self, step: int, reason: str) -> RunFailed:
        return RunFailed(
            f"{self._folder}/{step} is damaged, or is not of this model and version: "
            f"{reason}"
        )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with hosts.losses_named():
                yield
        except RunFailed:
            raise
        # Of a full disk Orbax and TensorStore make exceptions of many kinds.
        except Exception as e:
            last = self.latest()
            kept = "none is there" if last is None else f"that of step {last}"
            raise RunFailed(
                f"the checkpoint of step {self._saving} could not be written to "
                f"{self._folder}: {_brief(e)}. The last good one: {kept}. Make room "
                "and start again to go on from there"
            ) from e

    def _undo_replacing(self):
        """After a kill in `_replace`."""
        for name in os.listdir(self._folder) if os.path.isdir(self._folder) else ():
            path = os.path.join(self._folder, name.removesuffix(_BEFORE))
            if name.endswith(_BEFORE) and os.path.exists(path):
                shutil.rmtree(path + _BEFORE)
            elif name.endswith(_BEFORE):
                os.rename(path + _BEFORE, path)

    def _move_aside(self, steps: Sequence[int]):
        for step in steps if hosts.is_primary() else ():
            os.makedirs(self._aside, exist_ok=True)
            target, number = os.path.join(self._aside, str(step)), 1
            while os.path.lexists(target):
                number += 1
                target = os.path.join(self._aside, f"{step}.{number}")
            os.rename(os.path.join(self._folder, str(step)), target)
        if steps:
            hosts.barrier("damaged checkpoints moved")
            self._manager.reload()


class _NewestAndBest:
    """Orbax's PreservationPolicy: which checkpoints stay when one is added."""

    def __init__(self, newest: int):
        self.newest, self.best = newest, None

    def should_preserve(
        self,
        checkpoints: Sequence[Any],
        *,
        context: Any,
    ) -> Sequence[bool]:
        del context
        first = len(checkpoints) - self.newest
        return [i >= first or c.step == self.best for i, c in enumerate(checkpoints)]


def _leaves(tree: PyTree) -> list[tuple[str, Any]]:
    """(path, leaf), paths alike for a state and for what Orbax tells of one."""
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def _crc32(meta: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(meta, sort_keys=True).encode())


def _brief(error: Exception) -> str:
    """Orbax's reasons may be pages long, and of a full disk the end says so."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:100]} ... {text[-100:]}"


def _not_of_orbax(record: logging.LogRecord) -> bool:
    """Orbax logs, with a traceback, what it raises as well."""
    return not (record.exc_info and f"{os.sep}orbax{os.sep}" in record.pathname)
