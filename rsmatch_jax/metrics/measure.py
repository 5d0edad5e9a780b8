"""Evaluates a state: runs its networks on all images and computes the figures.

Only this folder sees which unlabelled image is synthetic. Uses EMA parameters with the
live BN statistics, as in USB (semilearn hooks/evaluation.py).
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rsmatch_jax.data.rs_ssl import Images, Task
from rsmatch_jax.metrics import mistakes, names, scores
from rsmatch_jax.metrics.scores import Rows
from rsmatch_jax.models.networks import Network
from rsmatch_jax.progress import Progress, busy
from rsmatch_jax.runtime import compilation, parallel
from rsmatch_jax.state import CSQueue, OriginScores, TrainState

AHEAD = 2  # batches under way at most: an interruption waits for no more


class Measured(NamedTuple):
    """One evaluation.

    figures: flat {name: number, or None if the run has no such figure}. details: lists
    and dicts for JSON, by class, generator or bin. confusion: int64 [K, K], row =
    truth. origin_scores: all that a method may see.
    """

    figures: dict[str, float | None]
    details: dict[str, Any]
    confusion: np.ndarray
    mistakes: mistakes.Mistakes
    origin_scores: OriginScores | None  # None without an origin


class Interrupted(Exception):
    """An evaluation was interrupted before its end."""


class Predictor:
    """Runs networks on images, in batches of one size on the devices.

    origin: `Method.origin`. batch_size: is raised to a multiple of the number of
    devices. Each shape of a batch is compiled once, with the options of a step.
    """

    def __init__(
        self,
        nets: Mapping[str, Network],
        devices: Sequence[jax.Device],
        origin: Callable[[Mapping[str, jax.Array]], jax.Array | None],
        batch_size: int,
    ):
        self.devices = devices
        self.batch_size = math.ceil(batch_size / len(devices)) * len(devices)
        rows = functools.partial(_rows, nets, origin)
        self._mapped = parallel.map_eval(rows, devices)
        self._programs: dict[tuple[int, ...], jax.stages.Compiled] = {}

    def prepare(self, state: TrainState, task: Task):
        """Compiles what the first call would otherwise compile; runs nothing."""
        self._compiled(state, self._batch(task.test_images[:0], task.test_labels[:0]))

    def _compiled(self, state: TrainState, batch: Any) -> jax.stages.Compiled:
        shape = batch[0].shape
        if shape not in self._programs:
            with busy("compiling the evaluation"):
                lowered = self._mapped.lower((state.ema, state.stats), batch)
                platform = self.devices[0].platform
                self._programs[shape] = compilation.compiled(lowered, platform)
        return self._programs[shape]

    def _batch(self, images: Images, labels: np.ndarray, start: int = 0) -> Any:
        """Returns batch_size images and labels from `start` on, on the devices, padded.
        Each process reads the images of its devices."""
        local = parallel.own_rows(self.batch_size, self.devices)
        at = local[local < len(images) - start] + start
        x = np.asarray(images[at])
        y = np.asarray(labels[at], np.int32)
        missing = len(local) - len(x)
        x = np.pad(x, [(0, missing), (0, 0), (0, 0), (0, 0)])
        return parallel.shard_rows((x, np.pad(y, (0, missing))), self.devices)

    def __call__(
        self,
        state: TrainState,
        images: Images,
        labels: np.ndarray,
        interrupted: Callable[[], bool] = lambda: False,
        advance: Callable[[int], object] = lambda count: None,
    ) -> Rows:
        """Returns the rows of `_rows` for all images, in their order, in each process.

        images: uint8 [n, S, S, 3] or encoded, labels: int [n]. The last batch is padded
        to the size of the others, which saves a compilation. advance: gets the number
        of images of each batch that is done.

        Raises:
            Interrupted: `interrupted`, called before each batch, returns True.
        """
        parts, size = [], self.batch_size
        for start in range(0, max(len(images), 1), size):  # none: for the types
            batch = self._batch(images, labels, start)
            if interrupted():
                raise Interrupted
            # Not fetched yet: the device works while the host prepares the next batch.
            parts.append(self._compiled(state, batch)((state.ema, state.stats), batch))
            if len(parts) > AHEAD:
                jax.block_until_ready(parts[-1 - AHEAD])
                advance(size)
        fetched = [jax.tree.map(parallel.collect, part) for part in parts]
        advance(len(images) - size * max(len(parts) - AHEAD, 0))
        return {
            name: np.concatenate([part[name] for part in fetched])[: len(images)]
            for name in fetched[0]
        }


def _rows(nets, origin, variables, batch) -> dict[str, jax.Array]:
    """Returns, for a device's images: predicted int32 [n], confidence float32 [n], rank
    int32 [n] (classes with a higher logit than the label's), and with an origin
    synthetic_score float32 [n] (Eq. 1)."""
    params, stats = variables
    images, labels = batch
    logits = {}
    for name, net in nets.items():
        outputs, _ = net.apply(params[name], stats[name], images, False)
        logits |= outputs.logits
    real = logits["real"]
    of_label = jnp.take_along_axis(real, labels[:, None], axis=1)
    rows = {
        "predicted": jnp.argmax(real, axis=1).astype(jnp.int32),
        "confidence": jnp.max(jax.nn.softmax(real), axis=1),
        "rank": jnp.sum(real > of_label, axis=1, dtype=jnp.int32),
    }
    origins = origin(logits)
    if origins is not None:
        rows["synthetic_score"] = jax.nn.softmax(origins)[:, 1]
    return rows


def measure(
    predict: Predictor,
    state: TrainState,
    task: Task,
    *,
    queue: CSQueue | None,
    threshold: float,
    interrupted: Callable[[], bool] = lambda: False,
) -> Measured:
    """Returns all figures of a state. queue: of the state's method. threshold: tau of
    the pseudo-label figures. interrupted: as in `Predictor`, which raises Interrupted.
    """

    sets = task.test_labels, task.val_labels, task.unl_labels
    done = Progress("evaluating", "images", sum(map(len, sets)), last_line=False)

    def rows_of(images, labels):
        return predict(state, images, labels, interrupted, done.advance)

    with done:
        test = held_out = rows_of(task.test_images, task.test_labels)
        if len(task.val_images):
            held_out = rows_of(task.val_images, task.val_labels)
        rows = rows_of(task.unl_images, task.unl_labels)
    num_classes = len(task.class_names)
    scored: dict[str, Any] = dict.fromkeys(("accuracy", *names.TEST))
    confusion, bins = np.zeros((num_classes, num_classes), np.int64), None
    if len(task.test_labels):
        scored |= scores.test_metrics(test, task.test_labels, num_classes)
        confusion = scored.pop("confusion")
        bins, scored["ece"] = scores.calibration(test, task.test_labels)
    figures = {f"test_{name}": value for name, value in scored.items()}
    if len(task.val_images):
        right = held_out["predicted"] == task.val_labels
        figures["validation_accuracy"] = float(np.mean(right))
    figures |= scores.detector_metrics(rows, task)
    figures |= scores.pseudo_label_metrics(rows, task, threshold)
    figures |= scores.queue_metrics(queue, task)
    details = {
        "test_reliability": bins,
        **scores.detector_groups(rows, task),
        "queue_purity_per_class": scores.queue_purity_per_class(queue, task),
        "known": scores.known_counts(queue, task),
    }
    origin_scores = None
    if "synthetic_score" in rows:
        unlabelled = np.split(rows["synthetic_score"], [len(task.lab_images)])
        origin_scores = OriginScores(*unlabelled, held_out["synthetic_score"])
    mistaken = mistakes.collect(task, test, rows)
    return Measured(figures, details, confusion, mistaken, origin_scores)
