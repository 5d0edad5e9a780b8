"""ImageNet's residual networks, version 1.5, as torchvision and USB build them.

Source: USB nets/resnet/resnet.py. A bottleneck's stride is on the 3x3 convolution, not
on the 1x1 before it. A norm follows every convolution, which has no bias.
"""

import functools
from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from rsmatch_jax.models import heads
from rsmatch_jax.models.layers import Layers, stage


class Block(nn.Module):
    """Residual block: convolutions with norms, plus the shortcut, then a ReLU.

    bottleneck: 1x1, 3x3, 1x1 to four times `channels`; otherwise 3x3, 3x3 to
    `channels`. A 1x1 convolution with a norm is the shortcut where the shape changes.
    """

    channels: int
    stride: int
    bottleneck: bool
    layers: Layers

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w _"], train: bool
    ) -> Float[Array, "n _ _ _"]:
        conv, norm = self.layers.conv, functools.partial(self.layers.norm, train)
        norm_relu = functools.partial(norm, slope=0.0)
        last = 4 * self.channels if self.bottleneck else self.channels
        if self.bottleneck:
            y = conv(self.channels, 1, name="conv1")(x)
            y = norm_relu("bn1")(y)
            y = conv(self.channels, 3, self.stride, name="conv2")(y)
            y = norm_relu("bn2")(y)
            y = norm("bn3")(conv(last, 1, name="conv3")(y))
        else:
            y = conv(last, 3, self.stride, name="conv1")(x)
            y = norm_relu("bn1")(y)
            y = norm("bn2")(conv(last, 3, name="conv2")(y))
        if self.stride > 1 or x.shape[-1] != last:
            x = conv(last, 1, self.stride, name="shortcut")(x)
            x = norm("bn_shortcut")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Images -> features [N, 2048], without bottlenecks 512, pooled in float32.

    A 7x7 convolution and a pooling come first, each of stride 2, so the first stage
    works at S / 4 and the last at S / 32 pixels.
    """

    blocks: Sequence[int]  # of each stage
    bottleneck: bool
    layers: Layers = Layers()

    linear: ClassVar = staticmethod(heads.torch_linear)

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(f"stage{i + 1}" for i in range(len(self.blocks)))

    @nn.compact
    def __call__(
        self, images: Float[Array, "n s s _"], train: bool
    ) -> Float32[Array, "n d"]:
        x = self.layers.conv(64, 7, 2, name="stem")(images)
        x = self.layers.norm(train, "bn", slope=0.0)(x)
        # Explicit padding: "SAME" would pad (0, 1) if the size is even.
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for i, (name, count) in enumerate(zip(self.stages, self.blocks, strict=True)):
            for block in range(count):
                x = Block(
                    channels=64 * 2**i,
                    stride=2 if i and not block else 1,
                    bottleneck=self.bottleneck,
                    layers=self.layers,
                    name=f"{name}_block{block}",
                )(x, train)
            x = stage(self, name, x)
        return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)


resnet18 = functools.partial(ResNet, (2, 2, 2, 2), False)
resnet50 = functools.partial(ResNet, (3, 4, 6, 3), True)
