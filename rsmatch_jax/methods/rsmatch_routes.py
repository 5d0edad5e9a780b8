"""Which head RSMatch sends an unlabelled image to, in a step and outside of one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rsmatch_jax.methods import base, routing
from rsmatch_jax.state import PyTree, TrainState

# Buffers of routing and of prior "statistics".
STATISTICS, PRIOR = "synthetic_by_statistics", "prior_logit"
Origins = Float[Array, "unlabelled 2"]  # q' = softmax(C'(F'(u))): real, synthetic


def with_prior(method: Any, origins: Origins, extra: PyTree, at: jax.Array) -> Origins:
    """Returns q' joined to the prior of the images at these positions, if it has one.
    extra: the method's buffers."""
    if method.prior == "none":
        return origins
    return routing.with_prior(origins, extra[PRIOR][at])


def route(
    method: Any,
    origins: Origins,
    logits: base.Logits | None,
    inputs: base.StepInputs,
    key: jax.Array,
) -> routing.Routes:
    """Returns which images of the step go to the fake head. logits: of the real head,
    weak views; only entropy needs them."""
    batch = inputs.batch
    if method.routing == "random":
        synthetic = routing.by_coin(
            key, method.synthetic_share, len(origins), inputs.axis
        )
    elif method.routing == "entropy":
        assert logits is not None
        synthetic = routing.by_entropy(logits, inputs.axis)
    else:
        truth = batch.synthetic
        synthetic = _judged(method, origins, inputs.extra, batch.indices, truth)
    return synthetic & (inputs.step >= method.route_warmup_steps)


def in_evaluation(
    method: Any,
    state: TrainState,
    at: np.ndarray,
    scores: Callable[[], np.ndarray],
    truth: np.ndarray | None,
) -> np.ndarray:
    """See `Method.routed_synthetic`: as `route`, by the detector's scores of plain
    images in evaluation mode. rsmatch_checks refuses what judges in a step alone."""
    origins = None
    if method.routing == "detector":
        score = scores()
        origins = jnp.stack([1 - score, score], axis=1)
        origins = with_prior(method, origins, state.extra, jnp.asarray(at))
    synthetic = np.asarray(_judged(method, origins, state.extra, at, truth))
    return synthetic & (int(state.step) >= method.route_warmup_steps)


def _judged(method, origins: Origins | None, extra: PyTree, at, truth):
    """Returns the verdicts on the images at these positions that need no other image:
    by truth, statistics or the detector."""
    if method.routing == "oracle":
        assert truth is not None
        return truth
    if method.routing == "statistics":
        return extra[STATISTICS][at]
    assert origins is not None
    return routing.by_detector(origins, method.route_threshold)
