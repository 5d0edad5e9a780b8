"""The contract of methods and rules, and the pieces that methods share.

A method is a frozen dataclass. Its fields are its hyper-parameters, each a config key
with its bounds (keys.py). It declares networks and heads, creates its buffers, and
turns one batch into one scalar. Gradient, update, EMA, devices and saving happen once,
in step.py, for all methods. No file outside this folder names a method.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from rsmatch_jax import losses
from rsmatch_jax.methods import keys
from rsmatch_jax.models import networks
from rsmatch_jax.models.networks import Head, Network
from rsmatch_jax.state import (
    Batch,
    CSQueue,
    OriginScores,
    Outputs,
    PyTree,
    TrainingImages,
    TrainState,
)

Metrics = dict[str, Float[Array, ""]]
Buffers = Mapping[str, jax.Array]
HostBuffers = Mapping[str, np.ndarray]  # some of a method's buffers, by name
# int32 class numbers, or float32 distributions over the classes.
Labels = Int[Array, " unlabelled"] | Float[Array, "unlabelled classes"]
Weights = Float[Array, " unlabelled"]
Logits = Float[Array, "unlabelled classes"]
LabLogits = Float[Array, "labelled classes"]
Loss = Float[Array, ""]
Tree = TypeVar("Tree")


@dataclasses.dataclass(frozen=True)
class Dims:
    """Static sizes that a method's buffers may need. Batches are global ones."""

    num_classes: int  # K
    image_shape: tuple[int, int, int]  # S, S, C
    crop_pad: int  # pixels of the weak view's reflect padding
    batch_size: int  # B
    unlabeled_batch: int  # U = mu * B, see `keys.unlabelled_rows`
    num_labeled: int
    num_unlabeled: int  # N


@dataclasses.dataclass(frozen=True)
class StepInputs:
    """What a loss reads beside the parameters, before the step."""

    nets: Mapping[str, Network]
    stats: PyTree
    extra: PyTree  # the method's buffers
    batch: Batch  # this device's share
    key: jax.Array  # equal on all devices
    step: Int[Array, ""]
    axis: str | None  # the mapped axis, None = one device
    ema: PyTree | None = None  # shadow parameters, None unless `reads_ema`


class Method:
    """What training asks of a method; `heads` and `loss` have no default."""

    uses_unlabeled: ClassVar[bool] = True  # False = batches have no unlabelled rows
    weak_views: ClassVar[int] = 1  # 2 = `batch.weak2` holds a second weak view
    reads_ema: ClassVar[bool] = False  # True = `StepInputs.ema` has shadow parameters
    screens: ClassVar[bool] = False  # True = has `screen`, for train.candidate_ratio
    splits: ClassVar[bool] = False  # True = routes images before `forward` (split_bn)
    # Heads that `origin` reads, in one network. A head's name is unique in a method.
    origin_heads: ClassVar[tuple[str, ...]] = ("detector",)
    rule_key: ClassVar[str | None] = None  # config key that names the rule, if any
    # {buffer: config key that makes it smaller}, for buffers large enough to be listed.
    memory_keys: ClassVar[Mapping[str, str]] = {}
    # Metrics on the progress line.
    progress: ClassVar[tuple[str, ...]] = ("loss", "utilisation")

    @classmethod
    def make(cls, config: keys.Config, dims: Dims) -> "Method":
        """Builds the method from the whole config."""
        return keys.from_config(cls, config.method.name, config)

    @classmethod
    def check(cls, config: keys.Config):
        """Raises RequestError for keys that do not fit each other."""

    @classmethod
    def idle(cls, config: keys.Config) -> Mapping[str, str]:
        """Returns {dotted key that other keys leave without effect: the setting that
        reads it}, of those that a config file may set and a command line may not."""
        return {}

    @classmethod
    def check_data(
        cls, config: keys.Config, num_classes: int, num_synthetic: int | None
    ) -> list[str]:
        """Returns warnings about keys and data; raises RequestError if they clash.
        num_synthetic: of the unlabelled images, None = nobody knows."""
        return []

    def as_saved(self, shapes: Mapping[str, tuple[int, ...]]) -> "Method":
        """Returns the method with the network shapes of an earlier version's run.
        shapes: {path of a leaf of the state: its shape}."""
        return self

    @property
    def needs_truth(self) -> bool:
        """Whether `batch.synthetic` holds the ground truth."""
        return False

    @property
    def reads_images(self) -> bool:
        """Whether `prepared` computes buffers from the images before step 0."""
        return False

    def optimiser(self) -> Mapping[str, Mapping[str, float]]:
        """Returns {network: {field of optim.SGD: value}} that replace the config's."""
        return {}

    def heads(self, num_classes: int) -> Mapping[str, Mapping[str, Head]]:
        """Returns {network: {head: number of classes, a Linear or a Projector}}. The
        head "real" has the class logits; inference needs no other."""
        raise NotImplementedError

    def origin(
        self, logits: Mapping[str, Float[Array, "n _"]]
    ) -> Float[Array, "n 2"] | None:
        """Returns logits of (real, synthetic) origin from those of `origin_heads`, None
        if the method has no opinion."""
        return logits.get("detector")

    def parts(self, num_classes: int) -> dict[str, tuple[str, dict[str, Head]]]:
        """Returns {part: (network, heads)} of inference: "classifier", and "detector"
        if the method has the heads of `origin`."""
        wanted = {"classifier": ("real",), "detector": self.origin_heads}
        return {
            part: (network, networks.needed(heads, names))
            for part, names in wanted.items()
            for network, heads in self.heads(num_classes).items()
            if heads.keys() >= set(names)
        }

    def init_extra(self, dims: Dims) -> PyTree:
        """Returns the buffers before step 0, every leaf with an explicit dtype."""
        return {}

    def prepared(self, images: TrainingImages) -> HostBuffers:
        """Returns first values of buffers, from all images of a new run; RequestError
        if there are too few. Called once before step 0, if `reads_images`."""
        return {}

    def after_evaluation(self, scores: OriginScores) -> HostBuffers:
        """Returns new values of buffers, from the scores of an evaluation by `origin`.
        A checkpoint of this step, and the next step, have them."""
        return {}

    def routed_synthetic(
        self,
        state: TrainState,
        at: np.ndarray,
        scores: Callable[[], np.ndarray],
        truth: np.ndarray | None,
    ) -> np.ndarray:
        """Returns which unlabelled images training now counts as synthetic, bool [n],
        for `eval.real_bn`. at: their positions, int [n]. scores: predicts those of an
        evaluation by `origin`, float32 [n]. truth: bool [n], None unless `needs_truth`.
        """
        return np.zeros(len(at), bool)

    def queue(self, extra: PyTree) -> CSQueue | None:
        """Returns the queue among the buffers, None if the method has none."""
        return None

    def loss(
        self, params: PyTree, inputs: StepInputs
    ) -> tuple[Loss, tuple[PyTree, PyTree, Metrics]]:
        """Returns this device's loss, float32, and (new stats, new extra, metrics).

        The losses' mean over devices is differentiated. New extra must be equal on all
        devices. Metrics are scalars; the step reports their means over devices.
        """
        raise NotImplementedError

    def screen(self, params: PyTree, inputs: StepInputs) -> Float[Array, " candidates"]:
        """Returns scores of this device's candidates, higher = more synthetic. The
        batch has their weak views, positions and, if needed, truth, and no other row.
        """
        raise NotImplementedError

    def alarms(
        self, steps: Sequence[Mapping[str, float]], *, first: bool, images_a_step: int
    ) -> dict[str, str]:
        """Returns {short name for the progress line: warning} of one log interval.
        steps: metrics of each. first: of the run. images_a_step: unlabelled ones."""
        return {}


@dataclasses.dataclass(frozen=True)
class RuleInputs:
    """What a rule sees of a step: this device's rows, constants for the gradient."""

    weak_logits: Logits
    indices: Int[Array, " unlabelled"]  # positions in the unlabelled set
    lab_logits: LabLogits
    labels: Int[Array, " labelled"]
    axis: str | None  # the mapped axis, None = one device


class Rule:
    """A pseudo-labelling rule: how much each unlabelled image is trusted in a step.
    Like a method, a frozen dataclass. Its buffers must be equal on all devices."""

    @classmethod
    def check(cls, config: keys.Config):
        """Raises RequestError for keys that do not fit each other."""

    def init(self, dims: Dims) -> Buffers:
        """Returns the buffers before step 0, every leaf with an explicit dtype."""
        return {}

    def select(
        self, inputs: RuleInputs, buffers: Buffers
    ) -> tuple[Labels, Weights, Buffers]:
        """Returns (labels, weights, new buffers), constants for the gradient. A weight
        is the factor of a row in the unlabelled loss."""
        raise NotImplementedError

    def regulariser(
        self, logits: Logits, weights: Weights, buffers: Buffers, axis: str | None
    ) -> tuple[Loss, Metrics]:
        """Returns a weighted term of the loss, equal on all devices, and its metrics,
        from the logits of the strong views and what `select` returned."""
        return jnp.float32(0.0), {}


def rule_inputs(lab: LabLogits, weak: Logits, inputs: StepInputs) -> RuleInputs:
    """Returns what a rule sees, from labelled and weak logits."""
    lab, weak = jax.lax.stop_gradient((lab, weak))
    batch = inputs.batch
    return RuleInputs(weak, batch.indices, lab, batch.labels, inputs.axis)


def pseudo_label_loss(logits: Logits, labels: Labels, weights: Weights) -> Loss:
    """Returns the weighted cross-entropy, divided by the number of ALL rows."""
    hard = labels.ndim == 1
    entropy = losses.cross_entropy if hard else losses.soft_cross_entropy
    return losses.masked_mean(entropy(logits, labels), weights)


def written_once(slots: Int[Array, " n"], size: int) -> Int[Array, " n"]:
    """Sends all but the last row of a repeated slot out of range, to `size`, because a
    scatter has no defined order of duplicates."""
    again = jnp.triu(slots[:, None] == slots[None, :], k=1).any(axis=1)
    return jnp.where(again, size, slots)


def forward(
    name: str,
    params: PyTree,
    inputs: StepInputs,
    labelled: Sequence[UInt8[Array, "_ height width 3"]],
    weak_forward: str,
    synthetic: Bool[Array, " unlabelled"] | None = None,
) -> tuple[list[Outputs], Outputs, Outputs, PyTree]:
    """Runs a network in training mode on labelled groups and on both views.

    Returns (outputs per labelled group, weak outputs, strong outputs, new stats).
    weak_forward="cat": one pass over all rows, joint BN statistics. The weak images
    reach the gradient through those statistics, so only their logits may be treated as
    constants. "separate": labelled and strong rows together, then the weak rows without
    gradient (31 % fewer FLOPs, another gradient). synthetic: the unlabelled images
    whose rows have separate norms (model.split_bn), None for a network without.
    """
    net, params, stats = inputs.nets[name], params[name], inputs.stats[name]
    weak, strong = inputs.batch.weak, inputs.batch.strong
    joined = [weak] if weak_forward == "cat" else []
    groups = [*labelled, *joined, strong]
    split_rows = functools.partial(_split_rows, synthetic)
    outputs, stats = net.apply(
        params,
        stats,
        jnp.concatenate(groups),
        True,
        **split_rows(sum(map(len, labelled)), len(joined) + 1),
    )
    *supervised, strong_out = split(outputs, groups)
    if joined:
        weak_out = supervised.pop()
    else:
        params = jax.lax.stop_gradient(params)
        weak_out, stats = net.apply(params, stats, weak, True, **split_rows(0, 1))
    return supervised, weak_out, strong_out, stats


def _split_rows(synthetic, labelled: int, views: int) -> dict[str, jax.Array]:
    """Returns the option of `Network.apply` for rows of labelled images and views."""
    if synthetic is None:
        return {}
    real = jnp.zeros(labelled, bool)
    return {"synthetic": jnp.concatenate([real, *[synthetic] * views])}


def split(outputs: Tree, groups: Sequence[Any]) -> list[Tree]:
    """Cuts what came of concatenated groups, a tree of rows, into one per group."""
    cuts = list(itertools.accumulate((len(group) for group in groups), initial=0))
    rows = itertools.starmap(slice, itertools.pairwise(cuts))
    return [jax.tree.map(lambda x, s=s: x[s], outputs) for s in rows]
