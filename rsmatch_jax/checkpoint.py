"""Saving and restoring the whole state with Orbax. Owns `<workdir>/checkpoints`."""

import os
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    BestN,
    LatestN,
)

from rsmatch_jax.errors import RequestError, RunFailed
from rsmatch_jax.state import TrainState


class Checkpoints:
    """The newest `keep` states and the best one of a run.

    A checkpoint is the whole TrainState (typed PRNG key included) and a JSON dict
    `meta` of what else the run needs to go on. keep=None: to be read alone; nothing in
    the workdir is made or removed.
    """

    def __init__(self, workdir: str, keep: int | None):
        # Orbax takes a relative path here and fails only at the first save.
        self._folder = os.path.join(os.path.abspath(workdir), "checkpoints")
        # Not Orbax's read_only: it does no more here, and warns on the terminal.
        options = ocp.CheckpointManagerOptions(
            create=keep is not None,
            preservation_policy=None
            if keep is None
            else AnyPreservationPolicy(
                [
                    LatestN(keep),
                    BestN(
                        # Of equals the earliest: "best" means strictly better.
                        get_metric_fn=lambda m: (m["accuracy"], -m["step"]),
                        n=1,
                        keep_checkpoints_without_metrics=False,
                    ),
                ]
            ),
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def latest(self) -> int | None:
        """The newest saved step, None if there is none."""
        return self._manager.latest_step()

    def choose(self, wanted: str) -> int:
        """The saved step meant by last, best (the best evaluation that the newest
        checkpoint knows of) or a number. Raises RequestError where there is none."""
        saved = sorted(self._manager.all_steps())
        if not saved:
            raise RequestError(
                f"{self._folder}: nothing is saved yet; the first checkpoint comes "
                "after checkpoint.every_steps steps"
            )
        listed = ", ".join(map(str, saved))
        if wanted == "last":
            return saved[-1]
        if wanted == "best":
            newest = self._read(saved[-1], meta=ocp.args.JsonRestore())
            best = newest["meta"]["best_step"]
            if best is None:
                raise RequestError(
                    f"--step=best: the run was not evaluated up to its newest "
                    f"checkpoint; choose last or one of {listed}"
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
        state: TrainState,
        meta: dict[str, Any],
        accuracy: float | None = None,
    ):
        """Saves in the background; returns once the state may be donated again.

        accuracy: what "best" goes by; None = not evaluated at this step.
        """
        saved = self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
            ),
            metrics=None if accuracy is None else {"accuracy": accuracy, "step": step},
        )
        if not saved:  # Orbax's quiet answer to a step that is there already
            raise FileExistsError(f"the checkpoint of step {step} exists already")

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state of `step`, placed as `like` is, and its meta.

        Raises RunFailed where the checkpoint is damaged.
        """
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        restored = self._read(
            step, state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore()
        )
        return restored["state"], restored["meta"]

    def close(self):
        """Waits for saves under way."""
        self._manager.wait_until_finished()
        self._manager.close()

    def _read(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        # What Orbax raises for a lost file, a lost item or another structure.
        except (KeyError, OSError, TypeError, ValueError) as e:
            reason = " ".join(str(e).split())[:200]  # Orbax's may be pages long
            raise RunFailed(
                f"{self._folder}/{step} is damaged, or was not made by this version: "
                f"{reason}. Bring it back from a copy; without its folder the "
                "checkpoint before is the newest"
            ) from e
