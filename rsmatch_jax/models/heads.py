"""The heads of an encoder: linear classifiers and projectors."""

import dataclasses
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from rsmatch_jax.state import Outputs

# Not nn.initializers.xavier_normal, which is truncated.
xavier_normal = nn.initializers.variance_scaling(1.0, "fan_avg", "normal")


@dataclasses.dataclass(frozen=True)
class Projector:
    """A head that embeds: the mean of `count` independent perceptrons, each D -> hidden
    -> size with a ReLU between. count > 1 is the ensemble of EPASS (Nguyen 2023)."""

    size: int
    count: int = 1
    hidden: int | None = None  # None = D, as in USB (nets/simmatch)


Head = int | Projector  # int: a linear classifier with that many classes


def torch_linear(size: int, fan_in: int, name: str) -> nn.Dense:
    """Returns a linear layer that starts as torch's: U(-b, b), b = 1/sqrt(fan-in)."""
    bound = fan_in**-0.5

    def uniform(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    inits = {"kernel_init": uniform, "bias_init": uniform}
    return nn.Dense(size, dtype=jnp.float32, **inits, name=name)


def xavier_linear(size: int, fan_in: int, name: str) -> nn.Dense:
    """Returns a linear layer with Xavier's normal weights and no bias at first."""
    del fan_in
    return nn.Dense(size, dtype=jnp.float32, kernel_init=xavier_normal, name=name)


class Perceptron(nn.Module):
    """Linear, ReLU, linear; hidden as in `Projector`."""

    size: int
    hidden: int | None = None

    @nn.compact
    def __call__(
        self, features: Float32[Array, "n d"]
    ) -> Float32[Array, "n {self.size}"]:
        width = features.shape[-1]
        middle = self.hidden or width
        hidden = nn.relu(torch_linear(middle, width, "hidden")(features))
        return torch_linear(self.size, middle, "out")(hidden)


class Heads(nn.Module):
    """Heads by name, side by side on the same features."""

    specs: Mapping[str, Head]
    linear: Callable[[int, int, str], nn.Dense]  # `xavier_linear` or `torch_linear`

    @nn.compact
    def __call__(
        self, features: Float32[Array, "n d"]
    ) -> dict[str, Float32[Array, "n _"]]:
        outputs = {}
        for name, spec in self.specs.items():
            if isinstance(spec, Projector):
                first, *others = (
                    Perceptron(spec.size, spec.hidden, name=f"{name}_{i}")(features)
                    for i in range(spec.count)
                )
                outputs[name] = sum(others, start=first) / spec.count
            else:
                linear = self.linear(spec, features.shape[-1], name)
                outputs[name] = linear(features)
        return outputs


class EncoderWithHeads(nn.Module):
    """An encoder and its heads: images to features, logits and projections.

    Parameters lie under "encoder", "heads"/<name> and, for a projector's i-th
    perceptron, "projectors"/<name>_<i>. Linen derives every initial value from the key
    and this path, so another head leaves the encoder and the other heads as they are.
    """

    encoder: nn.Module
    specs: Mapping[str, Head]

    @nn.compact
    def __call__(self, images: Float[Array, "n s s 3"], train: bool) -> Outputs:
        features = self.encoder(images, train)
        # A user's encoder may name none.
        linear = getattr(self.encoder, "linear", torch_linear)
        specs = self.specs
        projectors = {k: s for k, s in specs.items() if isinstance(s, Projector)}
        classifiers = {k: s for k, s in specs.items() if k not in projectors}
        classify = Heads(classifiers, linear, name="heads")
        project = Heads(projectors, linear, name="projectors")
        return Outputs(features, classify(features), project(features))
