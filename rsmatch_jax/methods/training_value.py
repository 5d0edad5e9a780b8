"""How much a synthetic image counts in Eq. 6, by `method.rsmatch.synthetic_weight`.

one           all alike (the paper)
confidence    the confidence of the pseudo-label
difficulty    a bell of the image's difficulty: neither what is known nor what is lost

The paper leaves this to later work ("different synthetic images have different values
for training"). Difficulty is s = 1 - p(y | x), as in Difficulty Controlled Diffusion
(Wang et al., arXiv 2411.18109), where pictures of medium difficulty help most.
"""

import jax
import jax.numpy as jnp

from rsmatch_jax import losses
from rsmatch_jax.methods import base

CHOICES = ("one", "confidence", "difficulty")
MEDIUM, WIDTH = 0.5, 0.2  # centre and standard deviation of the bell


def weights(
    choice: str, labels: base.Labels, weak: base.Logits, strong: base.Logits
) -> base.Weights | float:
    """Returns the weights, float32 [unlabelled] in 0..1, constants for the gradient.

    weak, strong: logits of the real head. The difficulty is that of the strong view,
    whose label is the weak view's: s = 1 - p(label | strong view). On the weak view an
    image that passes the threshold would be easy by definition.
    """
    if choice == "one":
        return 1.0
    if choice == "confidence":
        return jnp.max(losses.probabilities(weak), axis=1)
    p = losses.probabilities(strong)
    if labels.ndim == 1:
        labels = jax.nn.one_hot(labels, p.shape[1])
    s = 1 - jnp.sum(labels * p, axis=1)
    return jnp.exp(-((s - MEDIUM) ** 2) / (2 * WIDTH**2))
