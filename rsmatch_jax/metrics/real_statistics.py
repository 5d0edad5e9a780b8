"""BatchNorm statistics for evaluation, of real images alone: `eval.real_bn`.

The running statistics of training are those of the weak and strong views of all images,
synthetic ones among them. Here the classifier with its EMA weights sees images that the
method counts as real, plain as evaluation shows them: no view, and so no random number
but their order. As in precise BatchNorm (Wu and Johnson 2021, arXiv 2105.07576), of the
means m and variances v of all batches:

    mean = E[m],  var = E[v + m^2] - mean^2 = E[v] + Var[m]

The state of the run keeps its statistics.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import numpy as np

from rsmatch_jax.data.rs_ssl import Task
from rsmatch_jax.methods.catalogue import Method
from rsmatch_jax.metrics import measure
from rsmatch_jax.models.networks import Network
from rsmatch_jax.runtime import compilation, parallel
from rsmatch_jax.state import PyTree, TrainState

CANDIDATES = 8192  # unlabelled images that are judged at most
NETWORK = "classifier"


def renewal(
    method: Method,
    net: Network | None,
    forward: Callable,
    task: Task,
    *,
    batch_size: int,
    devices: Sequence[jax.Device],
) -> Callable[[TrainState, Callable[[], bool]], TrainState] | None:
    """Returns renew(state, interrupted) -> a state with other statistics of the
    classifier, to be evaluated; None without a network.

    net: the classifier, whose training pass returns the statistics of its batch over
    all devices (momentum 0, biased). forward: of `measure.mapped_forward`.
    """
    if net is None:
        return None
    rows = math.ceil(batch_size / len(devices)) * len(devices)
    of_batch = _mapped(net, devices)

    def renew(state: TrainState, interrupted: Callable[[], bool]) -> TrainState:
        variables = state.ema[NETWORK], state.stats[NETWORK]
        at = _real(method, forward, state, task, rows, devices, interrupted)
        batches = []
        # The last batch is filled with the first images.
        for part in np.resize(at, (math.ceil(len(at) / rows), rows)):
            if interrupted():
                raise measure.Interrupted
            local = part[parallel.own_rows(rows, devices)]
            images = parallel.shard_rows(np.asarray(task.unl_images[local]), devices)
            batches.append(of_batch(variables, images))
        new = parallel.replicate(pooled(batches), devices)
        return dataclasses.replace(state, stats={**state.stats, NETWORK: new})

    return renew


def _real(method, forward, state, task, rows, devices, interrupted) -> np.ndarray:
    """Returns positions in the unlabelled set, int [n], in random order: of the
    labelled images, which are its first, and of those that the method counts as real
    among CANDIDATES others."""
    labelled, size = len(task.lab_images), len(task.unl_images)
    at = np.random.default_rng(0).permutation(size)
    if not method.uses_unlabeled:
        return at[at < labelled]
    at = at[(at < labelled) | (np.arange(size) < CANDIDATES)]

    def scores() -> np.ndarray:
        judged = []
        for part in np.split(at, range(rows, len(at), rows)):
            images, labels = task.unl_images[part], task.unl_labels[part]
            how = rows, devices, interrupted
            judged.append(measure.predict(forward, state, images, labels, *how))
        return np.concatenate([part["synthetic_score"] for part in judged])

    truth = task.unl_synthetic[at] if method.needs_truth else None
    return at[(at < labelled) | ~method.routed_synthetic(state, at, scores, truth)]


def _mapped(net: Network, devices: Sequence[jax.Device]) -> Callable[..., PyTree]:
    """Returns (variables, images) -> the statistics of a batch, numpy; compiled once,
    since all batches have one shape."""

    def statistics(variables, images):
        _, new = net.apply(*variables, images, True)
        return jax.tree.map(lambda x: x[None], new)

    mapped = parallel.map_eval(statistics, devices)
    programs: list[jax.stages.Compiled] = []

    def run(*arguments):
        if not programs:
            lowered = mapped.lower(*arguments)
            programs.append(compilation.compiled(lowered, devices[0].platform))
        # All devices have the same.
        return jax.tree.map(lambda x: parallel.collect(x)[0], programs[0](*arguments))

    return run


def pooled(batches: list[PyTree]) -> PyTree:
    """Returns the statistics of all images, float32, from those of batches of one size:
    trees whose leaves are called mean and var."""
    first = batches[0]
    if not isinstance(first.get("mean"), np.ndarray):
        return {name: pooled([batch[name] for batch in batches]) for name in first}
    means, variances = (
        np.asarray([batch[name] for batch in batches], np.float64)
        for name in ("mean", "var")
    )
    var = variances.mean(axis=0) + means.var(axis=0)
    return {"mean": np.float32(means.mean(axis=0)), "var": np.float32(var)}
