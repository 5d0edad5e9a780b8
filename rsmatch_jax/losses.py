"""Cross-entropies, pseudo-labels and the masked mean, from logits, in float32."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Float32, Int, Int32


def cross_entropy(
    logits: Float[Array, "n k"], labels: Int[Array, " n"]
) -> Float32[Array, " n"]:
    """Returns H(label, softmax(logits)) of each row."""
    # Not by a lookup, whose gradient is a scatter: a kernel of its own on a GPU.
    return soft_cross_entropy(logits, jax.nn.one_hot(labels, logits.shape[1]))


def soft_cross_entropy(
    logits: Float[Array, "n k"], targets: Float[Array, "n k"]
) -> Float32[Array, " n"]:
    """Returns H(targets, softmax(logits)) of each row; targets get no gradient."""
    targets = jax.lax.stop_gradient(targets)
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), targets)


def probabilities(logits: Float[Array, "n k"]) -> Float32[Array, "n k"]:
    """Returns softmax(logits) of each row, a constant for the gradient."""
    return jax.nn.softmax(jax.lax.stop_gradient(logits.astype(jnp.float32)))


def pseudo_label(
    logits: Float[Array, "n k"],
) -> tuple[Int32[Array, " n"], Float32[Array, " n"]]:
    """Returns each row's most probable class, the first on a tie, and its probability;
    both are constants for the gradient."""
    probs = probabilities(logits)
    return jnp.argmax(probs, axis=-1).astype(jnp.int32), jnp.max(probs, axis=-1)


def masked_mean(
    values: Float[Array, " n"], mask: Bool[Array, " n"] | Float[Array, " n"]
) -> Float[Array, ""]:
    """Returns the sum over the mask, or by soft weights, divided by ALL rows, mu B."""
    return jnp.mean(values * mask.astype(values.dtype))
