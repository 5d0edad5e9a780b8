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

from rsmatch_jax.state import TrainState


class Checkpoints:
    """The newest `keep` states and the best one of a run.

    A checkpoint is the whole TrainState (typed PRNG key included) and a JSON dict
    `meta` of what else the run needs to go on.
    """

    def __init__(self, workdir: str, keep: int):
        # Orbax takes a relative path here and fails only at the first save.
        folder = os.path.join(os.path.abspath(workdir), "checkpoints")
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy(
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
        self._manager = ocp.CheckpointManager(folder, options=options)

    def latest(self) -> int | None:
        """The newest saved step, None if there is none."""
        return self._manager.latest_step()

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
        """The state of `step`, placed as `like` is, and its meta."""
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore()
            ),
        )
        return restored["state"], restored["meta"]

    def close(self):
        """Waits for saves under way."""
        self._manager.wait_until_finished()
        self._manager.close()
