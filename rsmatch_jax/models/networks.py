"""Networks as pure functions; nothing outside this folder sees flax.linen."""

import contextlib
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, UInt8

from rsmatch_jax.errors import RequestError
from rsmatch_jax.models import own_encoder, residual
from rsmatch_jax.models.heads import (
    EncoderWithHeads,
    Head,
    Linear,
    Projector,
    needed,
    reduced,
)
from rsmatch_jax.models.layers import Layers
from rsmatch_jax.models.norm import BatchNorm
from rsmatch_jax.models.resnet import resnet18, resnet50
from rsmatch_jax.models.wrn import WideResNet
from rsmatch_jax.state import Outputs, PyTree

__all__ = ["MODELS", "Head", "Linear", "Network", "Projector", "make", "needed"]
__all__ += ["reduced", "take_uint8"]


class Network(NamedTuple):
    """An encoder with its heads.

    init(key, images) -> (params, stats): float32 trees of parameters and of BatchNorm's
      running statistics. Of `images` only the shape matters. jit moves the last bits of
      initial values: use it always or never.
    apply(params, stats, images, train) -> (Outputs, new stats): images are normalised
      float32 [N, S, S, 3], or uint8 after `take_uint8`. train=True normalises by the
      batch and updates the statistics; train=False uses and returns them. With
      train=True and split_bn, synthetic=bool [N] names the rows that are apart.
    probe(params, stats, images, stage, shift) -> (Outputs, activations): apply with
      train=False, and with `shift` added to a stage's output [N, h, w, channels], which
      comes back without the shift. For gradients with respect to activations.
    """

    init: Callable[[jax.Array, jax.Array], tuple[PyTree, PyTree]]
    apply: Callable[..., tuple[Outputs, PyTree]]
    probe: Callable[..., tuple[Outputs, jax.Array]] | None = None
    stages: tuple[str, ...] = ()  # in order; the last ends in an activation


WIDE = ((10, 1), (10, 2), (16, 1), (16, 2), (28, 2), (28, 8), (28, 10), (40, 2))
MODELS: dict[str, functools.partial[nn.Module]] = {
    **{f"wrn_{d}_{k}": functools.partial(WideResNet, d, k) for d, k in WIDE},
    # USB's network for STL-10: WRN-28-2 with a fourth stage, which makes it 37 deep,
    # and half the size of an image from stage 1 on.
    "wrn_var_37_2": functools.partial(WideResNet, 28, 2, strides=(2, 2, 2, 2)),
    "resnet18": resnet18,
    "resnet50": resnet50,
}


def make(name: str, heads: Mapping[str, Head], **options: Any) -> Network:
    """Returns the network `name` with these heads and the options of `layers.Layers`.

    name: a key of MODELS, any wrn_D_K with D = 6n + 4, or package.module:factory of an
    encoder elsewhere, whose code then runs. heads: {name: number of classes of a linear
    classifier, a `Linear` or a `Projector`}. Raises RequestError for an unknown name or
    choice.
    """
    layers = Layers(**options)
    if not own_encoder.is_code(name):
        encoder = _constructor(name)(layers=layers)
        return _pure(EncoderWithHeads(encoder, heads), encoder.stages)
    encoder = own_encoder.make(name, layers)
    stages = tuple(getattr(encoder, "stages", ()))
    net = _pure(EncoderWithHeads(encoder, heads), stages)
    return own_encoder.guarded(name, net, encoder, layers)


def _pure(model: nn.Module, stages: tuple[str, ...]) -> Network:
    forward: Callable[..., Any] = model.apply

    def init(key, images):
        # Lazy: only shapes matter, so the forward pass is traced but never run.
        shape = jax.ShapeDtypeStruct(images.shape, jnp.float32)
        variables = model.lazy_init(key, shape, train=False)
        # Only a user's encoder may do without norms.
        return variables["params"], variables.get("batch_stats", {})

    def apply(params, stats, images, train, synthetic=None):
        variables = {"params": params, "batch_stats": stats}
        if not train:
            return forward(variables, images, train=False), stats
        with contextlib.nullcontext() if synthetic is None else _split(synthetic):
            outputs, updates = forward(
                variables, images, train=True, mutable=["batch_stats"]
            )
        return outputs, updates.get("batch_stats", {})

    def probe(params, stats, images, stage, shift):
        shifts = {"encoder": {name: 0.0 for name in stages} | {stage: shift}}
        variables = {"params": params, "batch_stats": stats, "perturbations": shifts}
        outputs, seen = forward(
            variables, images, train=False, mutable=["intermediates"]
        )
        return outputs, seen["intermediates"]["encoder"][stage][0]

    return Network(init, apply, probe, stages)


def _split(synthetic: jax.Array) -> contextlib.AbstractContextManager:
    """Tells every norm which rows are synthetic. Encoders only pass images on."""

    def intercepted(call, args, options, context):
        is_norm = isinstance(context.module, BatchNorm)
        if is_norm and context.method_name == "__call__":
            options = {**options, "synthetic": synthetic}
        return call(*args, **options)

    return nn.intercept_methods(intercepted)


def _constructor(name: str) -> functools.partial[nn.Module]:
    if name in MODELS:
        return MODELS[name]
    # Any member of the family: three stages of n blocks of two convolutions.
    match = re.fullmatch(r"wrn_(\d+)_(\d+)", name)
    if match:
        depth, widen = int(match[1]), int(match[2])
        if depth >= 10 and (depth - 4) % 6 == 0 and widen >= 1:
            return functools.partial(WideResNet, depth, widen)
    raise RequestError(
        f"the network {name!r} is unknown; choose one of {', '.join(MODELS)}, "
        "any wrn_D_K with depth D = 6n + 4 (10, 16, 22, ...) and width K >= 1, or "
        "package.module:factory (docs/own-encoder.md)"
    )


def take_uint8(
    net: Network,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    with_residual: bool = False,
) -> Network:
    """Returns `net` with (x / 255 - mean) / std in front of it, for uint8 images: they
    have a quarter of their float32 size until they reach the network. with_residual:
    the net sees `residual.residual` as three more channels."""

    def init(key, images):
        if with_residual:  # of images only the shape matters
            images = jnp.concatenate([images, images], axis=-1)
        return net.init(key, images)

    def normalised(images: UInt8[Array, "n s s 3"]) -> Float32[Array, "n s s _"]:
        scale = 255 * jnp.asarray(std, jnp.float32).reshape(1, 1, 1, 3)
        shift = 255 * jnp.asarray(mean, jnp.float32).reshape(1, 1, 1, 3)
        pixels = (images.astype(jnp.float32) - shift) / scale
        if not with_residual:
            return pixels
        return jnp.concatenate([pixels, residual.residual(images)], axis=-1)

    def apply(params, stats, images, train, **options):
        return net.apply(params, stats, normalised(images), train, **options)

    def probe(params, stats, images, stage, shift):
        assert net.probe is not None
        return net.probe(params, stats, normalised(images), stage, shift)

    return Network(init, apply, probe, net.stages)
