"""Which head RSMatch sends an unlabelled image to, in a step and outside of one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rsmatch_jax.methods import base, routing
from rsmatch_jax.state import TrainState

# Buffers of routing and of prior "statistics".
STATISTICS, PRIOR = "synthetic_by_statistics", "prior_logit"
Origins = Float[Array, "unlabelled 2"]  # q' = softmax(C'(F'(u))): real, synthetic


def route(
    method: Any,
    origins: Origins,
    logits: base.Logits | None,
    inputs: base.StepInputs,
    key: jax.Array,
) -> routing.Routes:
    """Returns which images of the step go to the fake head. logits: of the real head,
    weak views; only entropy needs them."""
    if method.routing == "oracle":
        synthetic = inputs.batch.synthetic
    elif method.routing == "random":
        synthetic = routing.by_coin(
            key, method.synthetic_share, len(origins), inputs.axis
        )
    elif method.routing == "entropy":
        assert logits is not None
        synthetic = routing.by_entropy(logits, inputs.axis)
    elif method.routing == "statistics":
        synthetic = inputs.extra[STATISTICS][inputs.batch.indices]
    else:
        synthetic = routing.by_detector(origins, method.route_threshold)
    return synthetic & (inputs.step >= method.route_warmup_steps)


def before(
    method: Any, origins: Origins, inputs: base.StepInputs, key: jax.Array
) -> routing.Routes | None:
    """Returns `route` before the classifier runs, for its norms; None without
    model.split_bn. rsmatch_checks refuses entropy then."""
    if not method.split_bn:
        return None
    return route(method, origins, None, inputs, key)


def in_evaluation(
    method: Any,
    state: TrainState,
    at: np.ndarray,
    scores: np.ndarray | None,
    truth: np.ndarray | None,
) -> np.ndarray:
    """See `Method.routed_synthetic`: as `route`, by the detector's scores of plain
    images in evaluation mode. rsmatch_checks refuses what judges in a step alone."""
    if method.routing == "oracle":
        assert truth is not None
        synthetic = truth
    elif method.routing == "statistics":
        synthetic = np.asarray(state.extra[STATISTICS])[at]
    else:
        assert scores is not None
        origins = jnp.stack([1 - scores, scores], axis=1)
        if method.prior != "none":
            logit = np.asarray(state.extra[PRIOR])[at]
            origins = routing.with_prior(origins, jnp.asarray(logit))
        synthetic = np.asarray(routing.by_detector(origins, method.route_threshold))
    return synthetic & (int(state.step) >= method.route_warmup_steps)
