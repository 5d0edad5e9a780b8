"""Wide residual networks as in USB (nets/wrn/wrn.py and wrn_var.py).

They differ from the published WRN by leaky ReLUs, a bias in the stem, a larger epsilon
in the last norm, and the input of the first block's conv1 after stage 1 (`Block`).
"""

import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from rsmatch_jax.models import heads
from rsmatch_jax.models.layers import Layers, stage

SLOPE = 0.1  # of the leaky ReLUs, which the norms apply


def stem_bias_init(
    key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32
) -> jax.Array:
    """U(-b, b), b = 1/sqrt(27): torch's default for a 3x3 convolution of 3 channels."""
    return jax.random.uniform(key, shape, dtype, -(27**-0.5), 27**-0.5)


class Block(nn.Module):
    """Pre-activation residual block: BN, LReLU, conv3x3, BN, LReLU, conv3x3, plus x.

    If the number of channels changes, the shortcut is a 1x1 convolution. Its input and
    that of conv1 are then, with a(x) = LReLU(BN1(x)):
    - `activate_before_residual` (stage 1): a(x) for both.
    - else, wrn_preact "usb": x for both, and a(x) is unused. BN1 keeps its running
      statistics and its parameters, whose gradient is exactly zero.
    - else, wrn_preact "tf" (google-research/fixmatch): a(x) for conv1, x for the other.
    """

    channels: int
    stride: int
    activate_before_residual: bool
    layers: Layers

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w _"], train: bool
    ) -> Float[Array, "n _ _ {self.channels}"]:
        conv = functools.partial(self.layers.conv, self.channels)
        norm = functools.partial(self.layers.norm, train, slope=SLOPE)
        activated = norm("bn1")(x)
        if x.shape[-1] == self.channels:
            inner, shortcut = activated, x
        elif self.activate_before_residual:
            inner, shortcut = activated, activated
        else:
            inner, shortcut = x, x
            if self.layers.wrn_preact == "tf":
                inner = activated

        y = conv(3, self.stride, name="conv1")(inner)
        y = norm("bn2")(y)
        y = conv(3, name="conv2")(y)
        if x.shape[-1] != self.channels:
            shortcut = conv(1, self.stride, name="shortcut")(shortcut)
        return y + shortcut


class WideResNet(nn.Module):
    """WRN-depth-widen: images -> features, pooled in float32.

    depth = 6n + 4, with n blocks a stage. Of three stages there are 64 widen features,
    each further stage doubles them and has 2n more convolutions than the depth says.
    The last stage's activations are the output of the last norm.
    """

    depth: int
    widen: int
    layers: Layers = Layers()
    strides: tuple[int, ...] = (1, 2, 2)  # of each stage's first block

    linear: ClassVar = staticmethod(heads.xavier_linear)

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(f"stage{number + 1}" for number in range(len(self.strides)))

    @nn.compact
    def __call__(
        self, images: Float[Array, "n s s _"], train: bool
    ) -> Float32[Array, "n d"]:
        stem = {"use_bias": True, "bias_init": stem_bias_init, "name": "stem"}
        x = self.layers.conv(16, 3, **stem)(images)
        for number, stride in enumerate(self.strides, 1):
            for block in range((self.depth - 4) // 6):
                x = Block(
                    channels=2 ** (number + 3) * self.widen,
                    stride=stride if block == 0 else 1,
                    activate_before_residual=number == 1,
                    layers=self.layers,
                    name=f"stage{number}_block{block}",
                )(x, train)
            if number == len(self.strides):
                x = self.layers.norm(train, "bn", epsilon=1e-3, slope=SLOPE)(x)
            x = stage(self, f"stage{number}", x)
        return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
