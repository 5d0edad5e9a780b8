"""The heads of an encoder: linear classifiers and projectors."""

import dataclasses
from collections.abc import Callable, Mapping

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

    Each is D -> hidden -> size with a ReLU between; hidden=None means D, as in USB
    (nets/simmatch). With count > 1 it is the ensemble of EPASS (Nguyen 2023).
    """

    size: int
    count: int = 1
    hidden: int | None = None


Head = int | Projector  # int: a linear classifier with that many classes


def torch_linear(size: int, fan_in: int, name: str) -> nn.Dense:
    """Returns a linear layer that starts as torch's: U(-b, b), b = 1/sqrt(fan-in)."""
    bound = fan_in**-0.5

    def symmetric(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nn.Dense(
        size,
        dtype=jnp.float32,
        kernel_init=symmetric,
        bias_init=symmetric,
        name=name,
    )


def xavier_linear(size: int, fan_in: int, name: str) -> nn.Dense:
    """Returns a linear layer with Xavier's normal weights and no bias at first."""
    del fan_in
    return nn.Dense(size, dtype=jnp.float32, kernel_init=xavier_normal, name=name)


class LinearHeads(nn.Module):
    """A linear classifier per name in `sizes`: [N, D] -> {name: [N, size]}, float32.

    linear: makes a layer, `xavier_linear` or `torch_linear`.
    """

    sizes: Mapping[str, int]
    linear: Callable[[int, int, str], nn.Dense] = xavier_linear

    @nn.compact
    def __call__(self, features: jax.Array) -> dict[str, jax.Array]:
        return {
            name: self.linear(size, features.shape[-1], name)(features)
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
                Perceptron(spec.size, spec.hidden, name=f"{name}_{i}")(features)
                for i in range(spec.count)
            ]
            projections[name] = sum(members) / spec.count
        return projections


class Perceptron(nn.Module):
    """Linear, ReLU, linear: [N, D] -> [N, size], float32; hidden as in `Projector`."""

    size: int
    hidden: int | None = None

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        width = features.shape[-1]
        middle = self.hidden or width
        hidden = nn.relu(torch_linear(middle, width, "hidden")(features))
        return torch_linear(self.size, middle, "out")(hidden)


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
