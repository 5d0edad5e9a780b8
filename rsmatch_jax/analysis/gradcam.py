"""Grad-CAM++: which parts of an image speak for a class (paper, Fig. 4b).

Chattopadhyay et al., "Grad-CAM++", arXiv 1710.11063. With the score of a class
Y = exp(S), S its logit, and A^k the k-th activation map of a stage (Eqs. 16 to 19):

    alpha^k_ij = g^2 / (2 g^2 + g^3 sum_ab A^k_ab),    g = dS/dA^k_ij,
    w^k        = sum_ij alpha^k_ij relu(dY/dA^k_ij),    L = relu(sum_k w^k A^k).

The second and third derivatives of Y are exp(S) g^2 and exp(S) g^3, because S is
piecewise linear in A: convolutions, norms with fixed statistics, (leaky) ReLUs and a
mean follow a stage. dY/dA = exp(S) g scales the whole map, which is normalised to its
maximum, so exp(S) is left out. For the detector of OpenMatch and IOMatch the maps are
an approximation: its S comes from a log-softmax or a logsumexp, which is not linear.

The paper's A come from a ReLU. Those of a leaky one, or of a sum of branches, may have
a negative sum, for which alpha has a pole: such a sum counts as zero.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rsmatch_jax.deploy import frozen
from rsmatch_jax.errors import RequestError
from rsmatch_jax.progress import Progress, busy
from rsmatch_jax.runtime import compilation


class Maps(NamedTuple):
    """Maps of N images. maps: float32 [N, S, S] in [0, 1], what speaks for `classes`,
    all zero if nothing does. classes: int64 [N]. probabilities: float32 [N, K]."""

    maps: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray


def channel_weights(gradients: jax.Array, activations: jax.Array) -> jax.Array:
    """Returns w^k / exp(S) [C] for dS/dA [h, w, C] and A [h, w, C]."""
    sums = jax.nn.relu(jnp.sum(activations, axis=(0, 1), keepdims=True))
    positive = jax.nn.relu(gradients)
    # alpha relu(g) with g^2 cancelled, because g^2 underflows long before g does.
    return jnp.sum(positive / (2 + positive * sums), axis=(0, 1))


def class_map(gradients: jax.Array, activations: jax.Array) -> jax.Array:
    """Returns L [h, w], not normalised, for dS/dA [h, w, C] and A [h, w, C]."""
    weights = channel_weights(gradients, activations)[None, None]
    return jax.nn.relu(jnp.sum(weights * activations, axis=-1))


def _probe(part: frozen.Part, stage: str) -> Callable:
    """probe(params, images, shift) -> (outputs, activations of the stage)."""
    probe = part.net.probe
    assert probe is not None  # every encoder has one
    return lambda params, images, shift: probe(params, part.stats, images, stage, shift)


def make_maps(part: frozen.Part, stage: str) -> Callable:
    """Returns maps(params, images uint8 [n, S, S, 3], classes int32 [n]). It returns
    (maps float32 [n, S, S] in [0, 1], probabilities [n, K])."""

    forward = _probe(part, stage)

    def maps(params, images, classes):
        def score(shift):
            outputs, activations = forward(params, images, shift)
            logits = part.logits(outputs.logits)
            scores = jnp.take_along_axis(logits, classes[:, None], axis=1)
            # Images do not affect each other, so the sum has each one's gradient.
            return jnp.sum(scores), (activations, jax.nn.softmax(logits))

        _, like = jax.eval_shape(forward, params, images, 0.0)
        gradients, (activations, probabilities) = jax.grad(score, has_aux=True)(
            jnp.zeros(like.shape, like.dtype)
        )
        small = jax.vmap(class_map)(
            gradients.astype(jnp.float32), activations.astype(jnp.float32)
        )
        n, size = images.shape[:2]
        large = jax.image.resize(small, (n, size, size), "bilinear")
        top = jnp.max(large, axis=(1, 2), keepdims=True)
        return large / jnp.where(top > 0, top, 1), probabilities

    return maps


def choose_stage(part: frozen.Part, stage: str | None) -> str:
    """Returns the stage's name; None = the last. RequestError if there is no such."""
    stages = part.net.stages
    if not stages:
        raise RequestError(
            f"the encoder of the {part.name} names no stages, and Grad-CAM++ needs one "
            "(docs/own-encoder.md)"
        )
    if stage is not None and stage not in stages:
        raise RequestError(
            f"--stage={stage} is no stage of the {part.name}; choose one of "
            f"{', '.join(stages)}"
        )
    return stage or stages[-1]


def positions(part: frozen.Part, stage: str, size: int) -> tuple[int, int]:
    """Returns height and width of a stage's output for images of `size` pixels."""
    images = jax.ShapeDtypeStruct((1, size, size, 3), np.uint8)
    _, activations = jax.eval_shape(_probe(part, stage), part.params, images, 0.0)
    return activations.shape[1:3]


def gradcam(
    model: frozen.Model,
    images: np.ndarray,
    classes: np.ndarray | None = None,
    *,
    part: str = "classifier",
    stage: str | None = None,
) -> Maps:
    """Returns the maps of uint8 images [N, S, S, 3], N >= 1.

    classes: int [N], None = the predicted ones; the detector's class 1 is synthetic.
    part: classifier or detector. stage: None = the last one. Raises RequestError if
    there is no such part or stage, ValueError for wrong images or classes.
    """
    if part not in model.parts:
        raise RequestError(f"this run has no {part}; it has {', '.join(model.parts)}")
    network = model.parts[part]
    stage = choose_stage(network, stage)
    if classes is None:
        classes = model.probabilities(images, part).argmax(axis=1)
    images, classes = np.asarray(images), np.asarray(classes, np.int64)
    shape = (len(classes), model.image_size, model.image_size, 3)
    if images.dtype != np.uint8 or images.shape != shape:
        raise ValueError(
            f"images are {images.dtype} {images.shape}; {len(classes)} classes of this "
            f"run take uint8 {shape}"
        )
    if not np.all((classes >= 0) & (classes < network.classes)):
        raise ValueError(
            f"classes of the {part} lie between 0 and {network.classes - 1}"
        )
    batch = min(model.batch_size, len(images))
    shapes = (
        jax.ShapeDtypeStruct((batch, *images.shape[1:]), np.uint8),
        jax.ShapeDtypeStruct((batch,), np.int32),
    )
    device, outputs = model.run.exp.devices[0], []
    with busy(f"compiling the maps of the {part}"):
        lowered = jax.jit(make_maps(network, stage)).lower(network.params, *shapes)
        program = compilation.compiled(lowered, device.platform)
    name = f"Grad-CAM++ of the {part}"
    with Progress(name, "images", len(images), last_line=False) as progress:
        for start in range(0, len(images), batch):
            rows = slice(start, start + batch)
            count = len(images[rows])
            padded = (
                np.resize(images[rows], shapes[0].shape),
                np.resize(classes[rows], batch).astype(np.int32),
            )
            out = program(network.params, *jax.device_put(padded, device))
            outputs.append([np.asarray(x)[:count] for x in out])
            progress.advance(count)
    maps, probabilities = map(np.concatenate, zip(*outputs, strict=True))
    return Maps(maps, classes, probabilities)
