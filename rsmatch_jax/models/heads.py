"""What sits on top of an encoder."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from rsmatch_jax.state import Outputs

# Not nn.initializers.xavier_normal, which is truncated.
xavier_normal = nn.initializers.variance_scaling(1.0, "fan_avg", "normal")


class LinearHeads(nn.Module):
    """A linear classifier per name of `sizes`: [N, D] -> {name: [N, size]}, float32."""

    sizes: Mapping[str, int]

    @nn.compact
    def __call__(self, features: jax.Array) -> dict[str, jax.Array]:
        return {
            name: nn.Dense(
                size, dtype=jnp.float32, kernel_init=xavier_normal, name=name
            )(features)
            for name, size in self.sizes.items()
        }


class EncoderWithHeads(nn.Module):
    """Parameters lie under "encoder" and under "heads"/<name>.

    Linen derives every initial value from the key and this path, so a further head
    leaves the encoder and the other heads as they are.
    """

    encoder: nn.Module
    heads: nn.Module

    def __call__(self, images: jax.Array, train: bool) -> Outputs:
        features = self.encoder(images, train)
        return Outputs(features=features, logits=self.heads(features))
