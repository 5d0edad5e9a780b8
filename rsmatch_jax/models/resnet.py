"""ImageNet's residual networks, version 1.5, as torchvision and USB build them.

Source: USB nets/resnet/resnet.py. A bottleneck's stride is on the 3x3 convolution, not
on the 1x1 before it. A norm follows every convolution, which has no bias. Linear
classifiers start as torch's.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from rsmatch_jax.models.heads import torch_linear
from rsmatch_jax.models.norm import conv_init, make_norm
from rsmatch_jax.models.tap import Tap, untouched


class Block(nn.Module):
    """Residual block: convolutions with norms, plus the shortcut, then a ReLU.

    bottleneck: 1x1, 3x3, 1x1 to four times `channels`; otherwise 3x3, 3x3 to
    `channels`. A 1x1 convolution with a norm is the shortcut where the shape changes.
    """

    channels: int
    stride: int
    bottleneck: bool
    dtype: Any
    bn_momentum: float
    sync_axis: str | None
    bn_variance: str = "unbiased"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = make_norm(self, train)

        def conv(y, number, channels, width, stride=1):
            return _conv(self, channels, width, stride, f"conv{number}")(y)

        last = self.channels
        if self.bottleneck:
            last = 4 * self.channels
            y = nn.relu(norm(name="bn1")(conv(x, 1, self.channels, 1)))
            y = conv(y, 2, self.channels, 3, self.stride)
            y = nn.relu(norm(name="bn2")(y))
            y = norm(name="bn3")(conv(y, 3, last, 1))
        else:
            y = conv(x, 1, last, 3, self.stride)
            y = nn.relu(norm(name="bn1")(y))
            y = norm(name="bn2")(conv(y, 2, last, 3))
        if self.stride > 1 or x.shape[-1] != last:
            x = _conv(self, last, 1, self.stride, "shortcut")(x)
            x = norm(name="bn_shortcut")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """[N, S, S, 3] images -> [N, D] features, D = 2048 with bottlenecks, else 512.

    blocks: number of blocks of each of the four stages. A 7x7 convolution and a pooling
    come first, each of stride 2, so the first stage works at S / 4 and the last at
    S / 32 pixels. The other fields are those of `norm.make_norm`. Features are pooled
    in float32. tap(name, x) -> x is called on the outputs of "stage1" to "stage4".
    """

    blocks: Sequence[int]
    bottleneck: bool
    dtype: Any = jnp.float32
    bn_momentum: float = 0.999
    sync_axis: str | None = None
    bn_variance: str = "unbiased"

    @property
    def linear(self) -> Callable[[int, int, str], nn.Dense]:
        """Makes the linear classifiers."""
        return torch_linear

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(f"stage{i + 1}" for i in range(len(self.blocks)))

    @nn.compact
    def __call__(
        self, images: Float[Array, "n s s 3"], train: bool, tap: Tap = untouched
    ) -> Float32[Array, "n d"]:
        x = _conv(self, 64, 7, 2, "stem")(images)
        x = nn.relu(make_norm(self, train)(name="bn")(x))
        # Explicit padding: "SAME" would pad (0, 1) if the size is even.
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for stage, count in enumerate(self.blocks):
            for block in range(count):
                x = Block(
                    channels=64 * 2**stage,
                    stride=2 if stage and not block else 1,
                    bottleneck=self.bottleneck,
                    dtype=self.dtype,
                    bn_momentum=self.bn_momentum,
                    sync_axis=self.sync_axis,
                    bn_variance=self.bn_variance,
                    name=f"stage{stage + 1}_block{block}",
                )(x, train)
            x = tap(f"stage{stage + 1}", x)
        return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)


def _conv(module: Block | ResNet, channels: int, width: int, stride: int, name: str):
    """Convolution without bias, padded by (width - 1) / 2 on every side."""
    side = (width - 1) // 2
    return nn.Conv(
        channels,
        (width, width),
        strides=(stride, stride),
        padding=((side, side), (side, side)),
        use_bias=False,
        dtype=module.dtype,
        kernel_init=conv_init,
        name=name,
    )


resnet18 = functools.partial(ResNet, (2, 2, 2, 2), False)
resnet50 = functools.partial(ResNet, (3, 4, 6, 3), True)
