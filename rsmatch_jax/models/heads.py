"""The heads of an encoder: linear classifiers and projectors."""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rsmatch_jax.models.tap import Tap, untouched
from rsmatch_jax.state import Outputs

# Not nn.initializers.xavier_normal, which is truncated.
xavier_normal = nn.initializers.variance_scaling(1.0, "fan_avg", "normal")


@dataclasses.dataclass(frozen=True)
class Projector:
    """A head that embeds: the mean of `count` independent two-layer perceptrons.

    Each is D -> size -> size with a ReLU between. With count > 1 it is the ensemble of
    EPASS (Nguyen 2023).
    """

    size: int
    count: int = 1


Head = int | Projector  # int: a linear classifier with that many classes


class LinearHeads(nn.Module):
    """A linear classifier per name in `sizes`: [N, D] -> {name: [N, size]}, float32."""

    sizes: Mapping[str, int]

    @nn.compact
    def __call__(self, features: jax.Array) -> dict[str, jax.Array]:
        return {
            name: nn.Dense(
                size, dtype=jnp.float32, kernel_init=xavier_normal, name=name
            )(features)
            for name, size in self.sizes.items()
        }


class Projectors(nn.Module):
    """A projector per name in `specs`: [N, D] -> {name: [N, size]}, float32.

    The parameters of a projector's i-th perceptron lie under <name>_<i>.
    """

    specs: Mapping[str, Projector]

    @nn.compact
    def __call__(self, features: jax.Array) -> dict[str, jax.Array]:
        projections = {}
        for name, spec in self.specs.items():
            members = [
                Perceptron(spec.size, name=f"{name}_{i}")(features)
                for i in range(spec.count)
            ]
            projections[name] = sum(members) / spec.count
        return projections


class Perceptron(nn.Module):
    """Linear, ReLU, linear: [N, D] -> [N, size], float32."""

    size: int

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        return self._linear("out", nn.relu(self._linear("hidden", features)))

    def _linear(self, name: str, x: jax.Array) -> jax.Array:
        """Weights and biases start from U(-b, b), b = 1/sqrt(fan-in), as in torch."""
        bound = x.shape[-1] ** -0.5

        def symmetric(key, shape, dtype=jnp.float32):
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        return nn.Dense(
            self.size,
            dtype=jnp.float32,
            kernel_init=symmetric,
            bias_init=symmetric,
            name=name,
        )(x)


class EncoderWithHeads(nn.Module):
    """An encoder and its heads.

    Parameters lie under "encoder", "heads"/<name> and "projectors"/<name>_<i>. Linen
    derives every initial value from the key and this path, so another head leaves the
    encoder and the other heads as they are.
    """

    encoder: nn.Module
    heads: nn.Module
    projectors: nn.Module

    def __call__(
        self, images: Float[Array, "n s s 3"], train: bool, tap: Tap = untouched
    ) -> Outputs:
        features = self.encoder(images, train, tap)
        return Outputs(
            features=features,
            logits=self.heads(features),
            projections=self.projectors(features),
        )
