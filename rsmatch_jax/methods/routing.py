"""Which unlabelled images count as synthetic, by `method.rsmatch.routing`.

detector      the detector's verdict (Eq. 5 and 6)
entropy       entropy of the class prediction: no detector is asked
statistics    statistics of the pictures, judged once before training
oracle        ground truth: an upper bound
random        a coin: a lower bound

`method.rsmatch.prior=statistics` joins those statistics to the detector instead.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from rsmatch_jax.errors import RequestError
from rsmatch_jax.forensics import features, threshold
from rsmatch_jax.forensics import scores as forensic_scores
from rsmatch_jax.methods import base
from rsmatch_jax.runtime import parallel
from rsmatch_jax.state import TrainingImages

CHOICES = ("detector", "oracle", "random", "entropy", "statistics")
PRIORS = ("none", "statistics")
# Largest prior logit: 0.98 to 0.02. A detector that is surer than that overrules it.
MOST = 4.0
Routes = Bool[Array, " unlabelled"]  # True = synthetic


def by_detector(
    origins: Float[Array, "unlabelled 2"], least_confidence: float
) -> Routes:
    """Returns [q-hat' = 1] of the probabilities q' (real, synthetic)."""
    sure = jnp.max(origins, axis=1) >= least_confidence
    return (jnp.argmax(origins, axis=1) == 1) & sure


def by_coin(key: jax.Array, probability: float, count: int, axis: str | None) -> Routes:
    """Returns verdicts on this device's `count` rows; True with a probability."""
    coins = (count * parallel.num_devices(axis),)
    return parallel.local_rows(jax.random.bernoulli(key, probability, coins), axis)


def by_entropy(logits: base.Logits, axis: str | None) -> Routes:
    """Returns True where the entropy of softmax(logits) is not above the median of the
    global batch; an image at the median is synthetic.

    ESRM, arXiv 2411.13852 (maorong-wang/ESRM, learners/baseline/ours.py), calls the
    upper half real, because classifiers are surer of synthetic images. The authors
    predict without augmentation and in evaluation mode; here it is the weak view in the
    step's own forward pass.
    """
    log_p = jax.nn.log_softmax(jax.lax.stop_gradient(logits.astype(jnp.float32)))
    entropy = -jnp.sum(jnp.exp(log_p) * log_p, axis=1)
    return entropy <= jnp.median(parallel.gather_rows(entropy, axis))


def with_prior(
    origins: Float[Array, "unlabelled 2"], logit: Float[Array, " unlabelled"]
) -> Float[Array, "unlabelled 2"]:
    """Returns q' of the detector's logits plus the prior's, by Bayes' rule: as if both
    judged independent traits of an image. An untrained detector leaves the decision to
    the prior; the surer it grows, the less the prior counts."""
    odds = jnp.log(origins[:, 1] + 1e-8) - jnp.log(origins[:, 0] + 1e-8) + logit
    synthetic = jax.nn.sigmoid(odds)
    return jnp.stack([1 - synthetic, synthetic], axis=1)


class Statistics(NamedTuple):
    """What statistics of the pictures say of the unlabelled images. The labelled ones,
    the first, are real."""

    synthetic: np.ndarray  # bool [N], what `sift` calls so, at its rate of false alarms
    logit: np.ndarray  # float32 [N], of `sift`'s scores, within +-MOST


def by_statistics(images: TrainingImages) -> Statistics:
    """Judges by the scores of `sift --labeled --unlabeled`; RequestError if there are
    too few images."""
    labelled, unlabelled = len(images.labelled), len(images.unlabelled)
    fewest = forensic_scores.MIN_REAL, forensic_scores.FOLDS
    if labelled < fewest[0] or unlabelled < fewest[1]:
        raise RequestError(
            f"method.rsmatch.routing or prior=statistics: there are {labelled} "
            f"labelled images and {unlabelled} others, and scores by statistics need "
            f"{fewest[0]} and {fewest[1]}; add some (data.labels_per_class), or use "
            "routing=detector and prior=none"
        )
    scores = forensic_scores.cross_fit(
        features.compute(images.labelled),
        features.compute(images.unlabelled),
        classes=images.labels,
        digests=np.concatenate(
            [features.digests(x) for x in (images.labelled, images.unlabelled)]
        ),
    )
    limit = threshold.conformal(scores.labeled, threshold.FALSE_ALARM).value
    if limit is None:  # too few labelled images
        limit = forensic_scores.BOUNDARY
    logit = np.log(scores.unlabeled) - np.log1p(-scores.unlabeled)
    return Statistics(
        np.concatenate([np.zeros(labelled, bool), scores.unlabeled > limit]),
        np.concatenate([np.full(labelled, -MOST), logit.clip(-MOST, MOST)]).astype(
            np.float32
        ),
    )
