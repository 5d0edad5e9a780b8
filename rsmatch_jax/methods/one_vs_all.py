"""One-against-all classifiers of open-set methods (Saito and Saenko 2021): for each of
K classes, whether an image is out of it or in it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int

OUT, IN = 0, 1  # order of a class's two logits
# Inside the logarithms, as in the code of OpenMatch and IOMatch: bounds them.
EPSILON = 1e-8
Members = Float32[Array, "n 2 classes"]


def log_members(logits: Float[Array, "n _"]) -> Members:
    """Returns log P(OUT), log P(IN) by class from logits [n, 2 K], read as (2, K)."""
    return jax.nn.log_softmax(
        logits.astype(jnp.float32).reshape(len(logits), 2, -1), axis=1
    )


def loss(
    logits: Float[Array, "labelled _"], labels: Int[Array, " labelled"]
) -> Float[Array, ""]:
    """Returns <-log P(in y)> + <max over k != y of -log P(out of k)> of labelled images
    with label y."""
    surprise = -jnp.log(jnp.exp(log_members(logits)) + EPSILON)
    is_label = jax.nn.one_hot(labels, surprise.shape[2])
    inside = jnp.sum(surprise[:, IN] * is_label, axis=1)
    hardest = jnp.max(surprise[:, OUT] * (1 - is_label), axis=1)
    return jnp.mean(inside) + jnp.mean(hardest)
