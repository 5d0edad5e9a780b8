"""Grad-CAM++: which parts of an image speak for a class (paper, Fig. 4b). The command
that draws it is `rsmatch_jax.analysis.see`.

Chattopadhyay et al., "Grad-CAM++", arXiv 1710.11063. With the score of a class
Y = exp(S), S its logit, and A^k the k-th activation map of a stage (Eqs. 16 to 19):

    alpha^k_ij = g^2 / (2 g^2 + g^3 sum_ab A^k_ab),    g = dS/dA^k_ij,
    w^k        = sum_ij alpha^k_ij relu(dY/dA^k_ij),    L = relu(sum_k w^k A^k).

The second and third derivatives of Y are exp(S) g^2 and exp(S) g^3 where S is piecewise
linear in A, as it is in the last stage. dY/dA = exp(S) g scales a whole map, which is
normalised to its maximum, so exp(S) is left out.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rsmatch_jax import inference
from rsmatch_jax.errors import RequestError


class Maps(NamedTuple):
    """Of N images: maps float32 [N, S, S] in [0, 1], probabilities float32 [N, K]."""

    maps: np.ndarray
    probabilities: np.ndarray


def channel_weights(gradients: jax.Array, activations: jax.Array) -> jax.Array:
    """w^k: [h, w, C], [h, w, C] -> [C], but for the factor exp(S)."""
    g2 = gradients**2
    below = 2 * g2 + gradients**3 * jnp.sum(activations, axis=(0, 1))
    # Where the gradient is zero so is alpha: the position does not speak.
    alpha = jnp.where(below == 0, 0, g2 / jnp.where(below == 0, 1, below))
    return jnp.sum(alpha * jax.nn.relu(gradients), axis=(0, 1))


def class_map(gradients: jax.Array, activations: jax.Array) -> jax.Array:
    """L: [h, w, C], [h, w, C] -> [h, w], not yet normalised."""
    weights = channel_weights(gradients, activations)
    return jax.nn.relu(jnp.sum(weights * activations, axis=-1))


def make_maps(part: inference.Part, stage: str) -> Callable:
    """maps(params, images uint8 [n, S, S, 3], classes int32 [n]) -> (float32 [n, S, S]
    in [0, 1], probabilities [n, K]): each for its image's class; bilinear."""

    def forward(params, images, shift):
        return part.net.probe(params, part.stats, images, stage, shift)

    def maps(params, images, classes):
        _, activations = forward(params, images, 0.0)

        def scores(shift):
            outputs, _ = forward(params, images, shift)
            logits = outputs.logits[part.head]
            own = jnp.take_along_axis(logits, classes[:, None], axis=1)
            # Images do not see each other, so the gradient of the sum is each one's.
            return jnp.sum(own), jax.nn.softmax(logits)

        gradients, probabilities = jax.grad(scores, has_aux=True)(
            jnp.zeros_like(activations)
        )
        small = jax.vmap(class_map)(
            gradients.astype(jnp.float32), activations.astype(jnp.float32)
        )
        n, size = images.shape[:2]
        large = jax.image.resize(small, (n, size, size), "bilinear")
        top = jnp.max(large, axis=(1, 2), keepdims=True)
        return large / jnp.where(top > 0, top, 1), probabilities

    return maps


def gradcam(
    model: inference.Model,
    images: np.ndarray,
    classes: np.ndarray | None = None,
    *,
    part: str = "classifier",
    stage: str | None = None,
) -> Maps:
    """Maps of uint8 images [N, S, S, 3] for classes int [N].

    classes: None = the predicted ones; of the detector 1 is synthetic. part: classifier
    or detector. stage: None = the last one. Raises: RequestError where the run has no
    such part or the network no such stage.
    """
    if part not in model.parts:
        raise RequestError(f"this run has no {part}; it has {', '.join(model.parts)}")
    own = model.parts[part]
    stage = stage or own.net.stages[-1]
    if stage not in own.net.stages:
        raise RequestError(
            f"--stage={stage} is none of the {part}'s: {', '.join(own.net.stages)}"
        )
    if classes is None:
        classes = model.probabilities(images, part).argmax(axis=1)
    program = jax.jit(make_maps(own, stage))
    found = []
    for start in range(0, len(images), model.batch_size):
        rows = slice(start, start + model.batch_size)
        found.append(
            program(own.params, images[rows], np.asarray(classes[rows], np.int32))
        )
    return Maps(*(np.concatenate(x) for x in zip(*jax.device_get(found), strict=True)))
