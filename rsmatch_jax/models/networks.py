"""Networks, each as two pure functions; nothing outside this folder sees flax.linen."""

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
from rsmatch_jax.models.resnet import resnet18, resnet50
from rsmatch_jax.models.wrn import PREACTS, WideResNet
from rsmatch_jax.state import Outputs, PyTree


class Network(NamedTuple):
    """An encoder with its heads.

    init(key, images) -> (params, stats): float32 trees of parameters and of BatchNorm's
    running statistics. Only the shape of `images` matters. Values follow from the key
    and the parameter's path alone (jitting init moves last bits, so always or never).
    apply(params, stats, images, train) -> (Outputs, new stats): images float32
    [N, S, S, 3], normalised (or uint8, where `uint8.take_uint8` stands before it);
    features [N, D], logits {head: [N, classes]} and projections {head: [N, size]}
    float32. With train=True the batch normalises itself and moves the statistics; with
    train=False the statistics are used and returned unchanged.
    probe(params, stats, images, stage, shift) -> (Outputs, activations): apply with
    train=False and `shift` added to what leaves a stage of the encoder ("stage1", ...,
    the last one after its activation), [N, h, w, channels]; the activations are those
    without it. For gradients with respect to them. stages: their names, in order.
    """

    init: Callable[[jax.Array, jax.Array], tuple[PyTree, PyTree]]
    apply: Callable[[PyTree, PyTree, jax.Array, bool], tuple[Outputs, PyTree]]
    probe: Callable[..., tuple[Outputs, jax.Array]] | None = None
    stages: tuple[str, ...] = ()


MODELS: dict[str, functools.partial[nn.Module]] = {
    "wrn_10_1": functools.partial(WideResNet, 10, 1),
    "wrn_10_2": functools.partial(WideResNet, 10, 2),
    "wrn_16_1": functools.partial(WideResNet, 16, 1),
    "wrn_16_2": functools.partial(WideResNet, 16, 2),
    "wrn_28_2": functools.partial(WideResNet, 28, 2),
    "wrn_28_8": functools.partial(WideResNet, 28, 8),
    "wrn_28_10": functools.partial(WideResNet, 28, 10),
    "wrn_40_2": functools.partial(WideResNet, 40, 2),
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
    preact: str = "usb",
) -> Network:
    """The network `name` with `heads`: {name: classes of a linear classifier, or a
    `Projector`}.

    dtype: of convolutions and activations, float32 or bfloat16; parameters, statistics
    and outputs stay float32. bn_momentum: share of the old running statistics that an
    update keeps. sync_axis: mapped axis over which the batch statistics of training are
    averaged. preact: "usb" or "tf", see `wrn.Block`; of no meaning to a resnet.

    Raises RequestError for an unknown name or preact.
    """
    if preact not in PREACTS:
        raise RequestError(
            f"model.wrn_preact={preact!r} is unknown; choose {' or '.join(PREACTS)}"
        )
    constructor = _constructor(name)
    if constructor.func is WideResNet:
        constructor = functools.partial(constructor, preact=preact)
    encoder = constructor(dtype=dtype, bn_momentum=bn_momentum, sync_axis=sync_axis)
    projectors = {k: h for k, h in heads.items() if isinstance(h, Projector)}
    linear = {k: h for k, h in heads.items() if k not in projectors}
    model = EncoderWithHeads(
        encoder=encoder,
        heads=LinearHeads(sizes=linear),
        projectors=Projectors(specs=projectors),
    )

    def init(key, images):
        # Lazy: the shape is enough, so the forward pass is traced but never run.
        shape = jax.ShapeDtypeStruct(images.shape, images.dtype)
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
        seen = {}

        def tap(name, x):
            seen[name] = x
            return x + shift if name == stage else x

        variables = {"params": params, "batch_stats": stats}
        outputs = model.apply(variables, images, train=False, tap=tap)
        return outputs, seen[stage]

    return Network(init, apply, probe, encoder.stages)


def _constructor(name: str) -> functools.partial[nn.Module]:
    if name in MODELS:
        return MODELS[name]
    # Any other of the family: three stages of n blocks of two convolutions.
    match = re.fullmatch(r"wrn_(\d+)_(\d+)", name)
    if match:
        depth, widen = int(match[1]), int(match[2])
        if depth >= 10 and (depth - 4) % 6 == 0 and widen >= 1:
            return functools.partial(WideResNet, depth, widen)
    raise RequestError(
        f"the network {name!r} is unknown; choose one of {', '.join(MODELS)}, "
        "or any wrn_D_K with depth D = 6n + 4 (10, 16, 22, ...) and width K >= 1"
    )
