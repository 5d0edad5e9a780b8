"""What RSMatch's detector learns from, by `method.rsmatch.detector_loss`:

    queue         Eq. 2 + weight * Eq. 3, the paper's
    nnpu          the nnPU risk + weight * Eq. 3; there is no queue
    queue+nnpu    Eq. 2 + the nnPU risk + weight * Eq. 3

nnPU: Kiryo et al. 2017, "Positive-unlabeled learning with non-negative risk estimator",
arXiv 1703.00593, as in kiryor/nnPUlearning (pu_loss.py). Positive are the labelled
images, which are real; unlabelled are the weak views. All functions take the detector's
logits [n, 2]; class 0 is real, 1 synthetic.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from rsmatch_jax import losses
from rsmatch_jax.forensics import share
from rsmatch_jax.methods import base
from rsmatch_jax.runtime import parallel
from rsmatch_jax.state import OriginScores, PyTree

QUEUE, NNPU = "queue", "nnpu"
CHOICES = (QUEUE, NNPU, f"{QUEUE}+{NNPU}")
FIRST_PRIOR = 0.5  # before the first evaluation
# An estimate is kept inside: at 1 no labelled image counts, at 0 none is synthetic.
PRIORS = (0.01, 0.99)

PRIOR = "synthetic_prior"  # the buffer of an estimate

OriginLogits = Float[Array, "_ 2"]


@dataclasses.dataclass(frozen=True)
class DetectorLoss:
    """The choice and its settings: threshold and weight of Eq. 3; prior of nnPU, the
    share of synthetic images among a step's unlabelled ones, None = estimated."""

    choice: str
    threshold: float
    weight: float
    prior: float | None

    @property
    def has_queue(self) -> bool:
        """Whether Eq. 2 is part of it."""
        return QUEUE in self.choice

    @property
    def has_nnpu(self) -> bool:
        """Whether the nnPU risk is part of it."""
        return NNPU in self.choice

    @property
    def estimates_prior(self) -> bool:
        """Whether evaluations estimate the prior."""
        return self.has_nnpu and self.prior is None

    def buffers(self) -> base.Buffers:
        """Returns the buffers before step 0: an estimated prior, float32 scalar."""
        first = jnp.full((), FIRST_PRIOR, jnp.float32)
        return {PRIOR: first} if self.estimates_prior else {}

    def after_evaluation(self, scores: OriginScores) -> base.HostBuffers:
        """See `Method.after_evaluation`."""
        prior = estimated_prior(scores) if self.estimates_prior else None
        return {} if prior is None else {PRIOR: prior}

    def total(
        self,
        supervised: Sequence[OriginLogits],
        weak: OriginLogits,
        strong: OriginLogits,
        ready: Float[Array, ""] | None,
        extra: PyTree,
        axis: str | None,
    ) -> tuple[base.Loss, base.Metrics]:
        """Returns this device's loss and metrics. supervised: logits of the labelled
        images and, if there is a queue, of those drawn from it; ready: see `by_queue`.
        """
        unsup, metrics = by_consistency(weak, strong, self.threshold)
        lab, *queued = supervised
        sup = jnp.float32(0.0)
        if self.has_queue:
            sup += by_queue(lab, *queued, ready)
            metrics["detector_loss_sup"] = sup
        if self.has_nnpu:
            prior = extra[PRIOR] if self.prior is None else jnp.float32(self.prior)
            risk, is_cut = nnpu(lab, weak, prior, axis)
            sup += risk
            metrics["detector_loss_nnpu"] = risk
            metrics["detector_nnpu_cut"] = is_cut.astype(jnp.float32)
            metrics["synthetic_prior"] = prior
        return sup + self.weight * unsup, metrics


def by_queue(
    lab: OriginLogits, queued: OriginLogits, ready: Float[Array, ""]
) -> base.Loss:
    """Returns Eq. 2: half of the rows are labelled images (real), half come from the
    queue (synthetic). ready: 0 while the queue cannot give its half, else 1."""
    rows = lab.shape[0]
    is_real, is_synthetic = jnp.zeros(rows, jnp.int32), jnp.ones(rows, jnp.int32)
    return 0.5 * (
        jnp.mean(losses.cross_entropy(lab, is_real))
        + jnp.mean(losses.cross_entropy(queued, is_synthetic)) * ready
    )


def by_consistency(
    weak: OriginLogits, strong: OriginLogits, threshold: float
) -> tuple[base.Loss, base.Metrics]:
    """Returns Eq. 3, in which the weak views are constants, and metrics."""
    origin, confidence = losses.pseudo_label(weak)  # q-hat', max q'
    mask = confidence >= threshold
    loss = losses.masked_mean(losses.cross_entropy(strong, origin), mask)
    return loss, {
        "detector_loss_unsup": loss,
        "detector_utilisation": jnp.mean(mask.astype(jnp.float32)),
        "detector_synthetic": jnp.mean(origin.astype(jnp.float32)),
    }


def nnpu(
    lab: OriginLogits,
    weak: OriginLogits,
    prior: Float[Array, ""],
    axis: str | None,
) -> tuple[base.Loss, Bool[Array, ""]]:
    """Returns this device's nnPU risk, and whether its second part is cut off.

    R = pi R_p^+ + max(0, R_u^- - pi R_p^-) with pi = 1 - prior, the loss sigmoid(-y z)
    of z = real - synthetic logit, beta = 0 and gamma = 1. prior: share of synthetic
    images among the unlabelled ones. Where the second part is below 0, the gradient is
    that of its negative alone, as in the authors' code. The global batch decides, so
    that the gradient is that of one device.
    """
    z_lab, z_weak = (x[:, 0] - x[:, 1] for x in (lab, weak))
    real_share = 1 - prior  # pi
    as_real = real_share * jnp.mean(jax.nn.sigmoid(-z_lab))
    # The labelled images are the real part of the unlabelled ones: taken off.
    as_synthetic = jnp.mean(jax.nn.sigmoid(z_weak))
    as_synthetic -= real_share * jnp.mean(jax.nn.sigmoid(z_lab))
    constant = jax.lax.stop_gradient
    is_cut = parallel.mean(constant(as_synthetic), axis) < 0
    # The value of as_real, the gradient of -as_synthetic.
    cut = constant(as_real) + (constant(as_synthetic) - as_synthetic)
    return jnp.where(is_cut, cut, as_real + as_synthetic), is_cut


def estimated_prior(scores: OriginScores) -> np.ndarray | None:
    """Returns the share of synthetic images among the unlabelled ones, float32 scalar,
    by best-bin estimation as in `sift`; None if the evaluation has too few scores.

    sift's share is of the images without a label. The set of a step's unlabelled images
    contains the labelled ones, which are real.
    """
    count = len(scores.unlabelled)
    if len(scores.held_out) < share.MIN_REAL or count < share.MIN_UNLABELED:
        return None
    value = share.best_bin(scores.held_out, scores.unlabelled)
    value *= count / (len(scores.labelled) + count)
    return np.asarray(np.clip(value, *PRIORS), np.float32)
