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
from collections.abc import Callable

import jax
import numpy as np

from rsmatch_jax.data.rs_ssl import Task
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.methods.catalogue import Method
from rsmatch_jax.metrics.measure import Interrupted, Predictor
from rsmatch_jax.models.networks import Network
from rsmatch_jax.runtime import compilation, parallel
from rsmatch_jax.state import PyTree, TrainState

CANDIDATES = 8192  # unlabelled images that are judged at most
NETWORK = "classifier"


class Renewal:
    """renew(state, interrupted) -> a state with other statistics of the classifier, to
    be evaluated.

    net: the classifier, whose training pass returns the statistics of its batch over
    all devices (momentum 0, biased). It is compiled once, for batches of `predict`,
    which gives the detector's scores.
    """

    def __init__(self, method: Method, net: Network, predict: Predictor, task: Task):
        self._method, self._predict, self._task = method, predict, task

        def statistics(variables, images):
            _, new = net.apply(*variables, images, True)
            return jax.tree.map(lambda x: x[None], new)

        self._mapped = parallel.map_eval(statistics, predict.devices)
        self._program: jax.stages.Compiled | None = None

    def prepare(self, state: TrainState) -> jax.stages.Compiled:
        """Returns the program, which it compiles at the first call."""
        if self._program is None:
            size, devices = self._predict.batch_size, self._predict.devices
            images = self._batch(np.zeros(size, int))
            lowered = self._mapped.lower(_variables(state), images)
            self._program = compilation.compiled(lowered, devices[0].platform)
        return self._program

    def _batch(self, at: np.ndarray) -> PyTree:
        """Returns the unlabelled images at positions `at`, on the devices."""
        devices = self._predict.devices
        local = at[parallel.own_rows(len(at), devices)]
        return parallel.shard_rows(np.asarray(self._task.unl_images[local]), devices)

    def __call__(
        self, state: TrainState, interrupted: Callable[[], bool]
    ) -> TrainState:
        program, size = self.prepare(state), self._predict.batch_size
        at = self._real(state, interrupted)
        batches = []
        # The last batch is filled with the first images.
        for part in np.resize(at, (math.ceil(len(at) / size), size)):
            if interrupted():
                raise Interrupted
            new = program(_variables(state), self._batch(part))
            # All devices have the same.
            batches.append(jax.tree.map(lambda x: parallel.collect(x)[0], new))
        new = parallel.replicate(pooled(batches), self._predict.devices)
        return dataclasses.replace(state, stats={**state.stats, NETWORK: new})

    def _real(self, state: TrainState, interrupted: Callable[[], bool]) -> np.ndarray:
        """Returns positions in the unlabelled set, int [n], in random order: of the
        labelled images, which are its first, and of those that the method counts as
        real among CANDIDATES others."""
        method, task = self._method, self._task
        labelled, size = len(task.lab_images), len(task.unl_images)
        order = np.random.default_rng(0).permutation(size)
        if not method.uses_unlabeled:
            return order[order < labelled]
        at = order[(order < labelled) | (np.arange(size) < CANDIDATES)]
        is_real = at < labelled
        others = at[~is_real]

        def scores() -> np.ndarray:
            images = arrays.take(task.unl_images, others)  # encoded ones stay encoded
            rows = self._predict(state, images, task.unl_labels[others], interrupted)
            return rows["synthetic_score"]

        truth = task.unl_synthetic[others] if method.needs_truth else None
        is_real[~is_real] = ~method.routed_synthetic(state, others, scores, truth)
        return at[is_real]


def _variables(state: TrainState) -> tuple[PyTree, PyTree]:
    return state.ema[NETWORK], state.stats[NETWORK]


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
