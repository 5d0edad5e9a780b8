"""Cross-entropies and the confidence mask, from logits, in float32."""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """H(label, softmax(logits)) per row: logits [N, K], labels int [N] -> [N]."""
    return optax.softmax_cross_entropy_with_integer_labels(
        logits.astype(jnp.float32), labels
    )


def soft_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """H(targets, softmax(logits)) per row: both [N, K], targets constant -> [N]."""
    targets = jax.lax.stop_gradient(targets)
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), targets)


def pseudo_label(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Hard pseudo-label and its confidence, both constants for the gradient.

    logits [N, K] -> argmax int32 [N] (first index on a tie), max softmax [N].
    """
    probs = jax.nn.softmax(jax.lax.stop_gradient(logits.astype(jnp.float32)))
    return jnp.argmax(probs, axis=-1).astype(jnp.int32), jnp.max(probs, axis=-1)


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Sum over the masked rows, divided by the number of ALL rows (1 / (mu B))."""
    return jnp.mean(values * mask.astype(values.dtype))
