"""Networks as pure functions; nothing outside this folder sees flax.linen."""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rsmatch_jax.errors import RequestError
from rsmatch_jax.models.heads import (
    EncoderWithHeads,
    Head,
    LinearHeads,
    Projector,
    Projectors,
)
from rsmatch_jax.models.norm import VARIANCES
from rsmatch_jax.models.resnet import resnet18, resnet50
from rsmatch_jax.models.wrn import PREACTS, WideResNet
from rsmatch_jax.state import Outputs, PyTree


class Network(NamedTuple):
    """An encoder with its heads.

    init(key, images) -> (params, stats): float32 trees of parameters and of BatchNorm's
      running statistics. Only the shape of `images` matters. Values depend only on the
      key and the parameter's path. jit moves their last bits: use it always or never.
    apply(params, stats, images, train) -> (Outputs, new stats): images are normalised
      float32 [N, S, S, 3], or uint8 after `uint8.take_uint8`. train=True normalises by
      the batch and updates the statistics; train=False uses the statistics and returns
      them unchanged.
    probe(params, stats, images, stage, shift) -> (Outputs, activations): apply with
      train=False, and with `shift` added to a stage's output [N, h, w, channels], which
      comes back as it is without the shift. For gradients with respect to activations.
    stages: the stages' names in order ("stage1", ...); the last ends in an activation.
    """

    init: Callable[[jax.Array, jax.Array], tuple[PyTree, PyTree]]
    apply: Callable[[PyTree, PyTree, jax.Array, bool], tuple[Outputs, PyTree]]
    probe: Callable[..., tuple[Outputs, jax.Array]] | None = None
    stages: tuple[str, ...] = ()


WIDE = ((10, 1), (10, 2), (16, 1), (16, 2), (28, 2), (28, 8), (28, 10), (40, 2))
MODELS: dict[str, functools.partial[nn.Module]] = {
    **{f"wrn_{d}_{k}": functools.partial(WideResNet, d, k) for d, k in WIDE},
    "resnet18": resnet18,
    "resnet50": resnet50,
}


def make(
    name: str,
    heads: Mapping[str, Head],
    *,
    dtype: Any = jnp.float32,
    bn_momentum: float = 0.999,
    sync_axis: str | None = None,
    bn_variance: str = "unbiased",
    preact: str = "usb",
) -> Network:
    """Returns the network `name` with these heads.

    Args:
        name: a key of MODELS, or any wrn_D_K with D = 6n + 4.
        heads: {name: number of classes of a linear classifier, or a `Projector`}.
        dtype: float32 or bfloat16, of convolutions and activations; parameters,
            statistics and outputs stay float32.
        bn_momentum: share of the old running statistics that an update keeps.
        sync_axis: mapped axis over which the batch statistics of training are averaged;
            None for one device or for statistics of each device.
        bn_variance: "unbiased" or "biased", see `norm.make_norm`.
        preact: "usb" or "tf", see `wrn.Block`; a resnet ignores it.

    Raises:
        RequestError: name, bn_variance or preact is unknown.
    """
    for key, value, choices in (
        ("wrn_preact", preact, PREACTS),
        ("bn_variance", bn_variance, VARIANCES),
    ):
        if value not in choices:
            raise RequestError(
                f"model.{key}={value!r} is unknown; choose {' or '.join(choices)}"
            )
    constructor = _constructor(name)
    if constructor.func is WideResNet:
        constructor = functools.partial(constructor, preact=preact)
    encoder = constructor(
        dtype=dtype,
        bn_momentum=bn_momentum,
        sync_axis=sync_axis,
        bn_variance=bn_variance,
    )
    projectors = {k: h for k, h in heads.items() if isinstance(h, Projector)}
    linear = {k: h for k, h in heads.items() if k not in projectors}
    model = EncoderWithHeads(
        encoder=encoder,
        heads=LinearHeads(sizes=linear, linear=encoder.linear),
        projectors=Projectors(specs=projectors),
    )
    return _pure(model, encoder.stages)


def _pure(model: nn.Module, stages: tuple[str, ...]) -> Network:
    def init(key, images):
        # Lazy: only shapes matter, so the forward pass is traced but never run.
        shape = jax.ShapeDtypeStruct(images.shape, jnp.float32)
        variables = model.lazy_init(key, shape, train=False)
        return variables["params"], variables["batch_stats"]

    def apply(params, stats, images, train):
        variables = {"params": params, "batch_stats": stats}
        if not train:
            return model.apply(variables, images, train=False), stats
        outputs, updates = model.apply(
            variables, images, train=True, mutable=["batch_stats"]
        )
        return outputs, updates["batch_stats"]

    def probe(params, stats, images, stage, shift):
        activations = {}

        def tap(name, x):
            activations[name] = x
            return x + shift if name == stage else x

        variables = {"params": params, "batch_stats": stats}
        outputs = model.apply(variables, images, train=False, tap=tap)
        return outputs, activations[stage]

    return Network(init, apply, probe, stages)


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
        "or any wrn_D_K with depth D = 6n + 4 (10, 16, 22, ...) and width K >= 1"
    )
