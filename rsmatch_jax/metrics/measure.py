"""What a state is worth: its networks on all images, and the figures made of that.

With `figures` and `mistakes` the only part that sees which unlabelled image is
synthetic. EMA parameters with the live BN statistics, as in USB (semilearn
hooks/evaluation.py).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rsmatch_jax.data.rs_ssl import Task
from rsmatch_jax.metrics import mistakes, scores
from rsmatch_jax.metrics.scores import Rows
from rsmatch_jax.models.networks import Network
from rsmatch_jax.runtime import compilation, parallel
from rsmatch_jax.state import PyTree, TrainState

_AHEAD = 2  # batches under way at most, that an interruption need not wait for more


class Measured(NamedTuple):
    """One evaluation.

    figures: {name: number, None where there is none}, flat. details: JSON-ready lists
    and dicts, by class, by generator or by bin. confusion: int64 [K, K], row = truth.
    """

    figures: dict[str, float | None]
    details: dict[str, Any]
    confusion: np.ndarray
    mistakes: mistakes.Mistakes


class Interrupted(Exception):
    """An evaluation was asked to end before it was done."""


def make_forward(nets: Mapping[str, Network]) -> Callable[[PyTree, Any], Any]:
    """forward((params, stats), (uint8 images [n, S, S, 3], labels int32 [n])) -> rows.

    Rows: predicted int32 [n], confidence float32 [n], rank int32 [n] (classes with a
    higher logit than the label's), and where there is a detector synthetic_score
    float32 [n] (Eq. 1). One device's program; `mapped_forward` runs it on all.
    """

    def forward(variables, batch):
        params, stats = variables
        images, labels = batch
        logits = {}
        for name, net in nets.items():
            outputs, _ = net.apply(params[name], stats[name], images, False)
            logits.update(outputs.logits)
        real = logits["real"]
        own = jnp.take_along_axis(real, labels[:, None], axis=1)
        rows = {
            "predicted": jnp.argmax(real, axis=1).astype(jnp.int32),
            "confidence": jnp.max(jax.nn.softmax(real), axis=1),
            "rank": jnp.sum(real > own, axis=1, dtype=jnp.int32),
        }
        if "detector" in logits:
            rows["synthetic_score"] = jax.nn.softmax(logits["detector"])[:, 1]
        return rows

    return forward


def mapped_forward(
    nets: Mapping[str, Network], devices: Sequence[jax.Device]
) -> Callable[[PyTree, Any], Any]:
    """`make_forward` on devices: rows dealt by `parallel.shard_rows` in and out.

    Compiled once for each shape of a batch, with the options of a step.
    """
    mapped = parallel.map_eval(make_forward(nets), devices)
    programs: dict[tuple[int, ...], jax.stages.Compiled] = {}

    def run(variables, batch):
        shape = batch[0].shape
        if shape not in programs:
            lowered = mapped.lower(variables, batch)
            programs[shape] = compilation.compiled(lowered, devices[0].platform)
        return programs[shape](variables, batch)

    return run


def predict(
    forward: Callable,
    state: TrainState,
    images: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    devices: Sequence[jax.Device],
    interrupted: Callable[[], bool] = lambda: False,
) -> Rows:
    """Rows of `make_forward` for all images, in their order.

    The last batch is padded to the size of the others: one compilation. Each process
    reads the images of its own devices and gets the rows of all. interrupted: asked
    once a batch. Raises: Interrupted where it says so.
    """
    batch_size = math.ceil(batch_size / len(devices)) * len(devices)
    own, parts = parallel.own_rows(batch_size, devices), []
    for start in range(0, len(images), batch_size):
        at = own[own < len(images) - start] + start
        x = np.asarray(images[at])
        y = np.asarray(labels[at], np.int32)
        missing = len(own) - len(x)
        x = np.pad(x, [(0, missing), (0, 0), (0, 0), (0, 0)])
        batch = parallel.shard_rows((x, np.pad(y, (0, missing))), devices)
        if interrupted():
            raise Interrupted
        # Not fetched here: the device goes on while the host prepares the next batch.
        parts.append(forward((state.ema, state.stats), batch))
        jax.block_until_ready(parts[-1 - _AHEAD : -_AHEAD])
    fetched = [jax.tree.map(parallel.collect, part) for part in parts]
    return {
        name: np.concatenate([part[name] for part in fetched])[: len(images)]
        for name in fetched[0]
    }


def measure(
    forward: Callable,
    state: TrainState,
    task: Task,
    *,
    threshold: float,
    batch_size: int,
    devices: Sequence[jax.Device],
    interrupted: Callable[[], bool] = lambda: False,
) -> Measured:
    """All that is known of a state.

    threshold: tau of the pseudo-label figures. interrupted: as of `predict`.
    """

    def rows_of(images, labels):
        return predict(forward, state, images, labels, batch_size, devices, interrupted)

    num_classes = len(task.class_names)
    test = rows_of(task.test_images, task.test_labels)
    scored = scores.test_metrics(test, task.test_labels, num_classes)
    confusion = scored.pop("confusion")
    bins, ece = scores.calibration(test, task.test_labels)
    found = {f"test_{name}": value for name, value in {**scored, "ece": ece}.items()}
    if len(task.val_images):
        rows = rows_of(task.val_images, task.val_labels)
        found["validation_accuracy"] = float(
            np.mean(rows["predicted"] == task.val_labels)
        )
    rows = rows_of(task.unl_images, task.unl_labels)
    synthetic = task.unl_synthetic
    found |= scores.detector_metrics(rows, synthetic, len(task.lab_images))
    found |= scores.pseudo_label_metrics(rows, task.unl_labels, synthetic, threshold)
    found |= scores.queue_metrics(state, synthetic)
    details = {
        "test_reliability": bins,
        **scores.detector_groups(rows, task),
        "queue_purity_per_class": scores.queue_purity_per_class(
            state, synthetic, num_classes
        ),
    }
    return Measured(found, details, confusion, mistakes.collect(task, test, rows))
