"""The heads of an encoder: linear classifiers and projectors."""

import dataclasses
from collections.abc import Callable, Collection, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from rsmatch_jax.state import Outputs, PyTree

# Not nn.initializers.xavier_normal, which is truncated.
xavier_normal = nn.initializers.variance_scaling(1.0, "fan_avg", "normal")


@dataclasses.dataclass(frozen=True)
class Projector:
    """A head that embeds: the mean of `count` independent perceptrons, each D -> hidden
    -> size with a ReLU between. count > 1 is the ensemble of EPASS (Nguyen 2023)."""

    size: int
    count: int = 1
    hidden: int | None = None  # None = D, as in USB (nets/simmatch)


@dataclasses.dataclass(frozen=True)
class Linear:
    """A head of logits: one linear layer to `size` of them."""

    size: int
    bias: bool = True
    of: str | None = None  # the projector whose output it reads, None = the features


Head = int | Linear | Projector  # int: a `Linear` with that many classes


def needed(specs: Mapping[str, Head], names: Collection[str]) -> dict[str, Head]:
    """Returns the heads `names` and the projectors that they read."""
    read = {getattr(specs[name], "of", None) for name in names}
    return {name: spec for name, spec in specs.items() if name in {*names, *read}}


def reduced(params: PyTree, specs: Mapping[str, Head]) -> PyTree:
    """Returns the parameters of an `EncoderWithHeads` that has only these heads."""
    projectors = {k: s.count for k, s in specs.items() if isinstance(s, Projector)}
    paths = {"heads": [name for name in specs if name not in projectors]}
    if projectors:
        paths["projectors"] = [
            f"{name}_{i}" for name, count in projectors.items() for i in range(count)
        ]
    kept = {
        group: {k: params[group][k] for k in names} for group, names in paths.items()
    }
    return {"encoder": params["encoder"], **kept}


def torch_linear(size: int, fan_in: int, name: str, bias: bool = True) -> nn.Dense:
    """Returns a linear layer that starts as torch's: U(-b, b), b = 1/sqrt(fan-in)."""
    bound = fan_in**-0.5

    def uniform(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    inits = {"kernel_init": uniform, "bias_init": uniform}
    return nn.Dense(size, bias, dtype=jnp.float32, **inits, name=name)


def xavier_linear(size: int, fan_in: int, name: str, bias: bool = True) -> nn.Dense:
    """Returns a linear layer with Xavier's normal weights; a bias starts at 0."""
    del fan_in
    return nn.Dense(size, bias, dtype=jnp.float32, kernel_init=xavier_normal, name=name)


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


class Projectors(nn.Module):
    """Projectors by name, side by side on the same features."""

    specs: Mapping[str, Projector]

    @nn.compact
    def __call__(
        self, features: Float32[Array, "n d"]
    ) -> dict[str, Float32[Array, "n _"]]:
        outputs = {}
        for name, spec in self.specs.items():
            first, *others = (
                Perceptron(spec.size, spec.hidden, name=f"{name}_{i}")(features)
                for i in range(spec.count)
            )
            outputs[name] = sum(others, start=first) / spec.count
        return outputs


class Classifiers(nn.Module):
    """Linear heads by name, on the features or on a projector's output."""

    specs: Mapping[str, Linear]
    linear: Callable[..., nn.Dense]  # `xavier_linear` or `torch_linear`

    @nn.compact
    def __call__(
        self,
        features: Float32[Array, "n d"],
        projections: Mapping[str, Float32[Array, "n _"]],
    ) -> dict[str, Float32[Array, "n _"]]:
        outputs = {}
        for name, spec in self.specs.items():
            x = projections[spec.of] if spec.of else features
            outputs[name] = self.linear(spec.size, x.shape[-1], name, spec.bias)(x)
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
    def __call__(self, images: Float[Array, "n s s _"], train: bool) -> Outputs:
        features = self.encoder(images, train)
        # A user's encoder may name none.
        linear = getattr(self.encoder, "linear", torch_linear)
        projectors, classifiers = {}, {}
        for name, spec in self.specs.items():
            if isinstance(spec, Projector):
                projectors[name] = spec
            else:
                classifiers[name] = Linear(spec) if isinstance(spec, int) else spec
        projections = Projectors(projectors, name="projectors")(features)
        classify = Classifiers(classifiers, linear, name="heads")
        return Outputs(features, classify(features, projections), projections)
