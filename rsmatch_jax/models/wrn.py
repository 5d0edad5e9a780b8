"""Wide residual networks as semi-supervised learning uses them (USB nets/wrn/wrn.py).

They differ from the published WRN by leaky ReLUs, a bias in the stem, a larger epsilon
in the last norm, and the input of the first block's conv1 in stages 2 and 3 (`Block`).
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from rsmatch_jax.models.heads import xavier_linear
from rsmatch_jax.models.norm import conv_init, make_norm
from rsmatch_jax.models.tap import Tap, untouched

PREACTS = ("usb", "tf")

leaky_relu = functools.partial(nn.leaky_relu, negative_slope=0.1)


def stem_bias_init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32):
    """U(-b, b), b = 1/sqrt(27): torch's default for a 3x3 convolution of 3 channels."""
    bound = 27**-0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


class Block(nn.Module):
    """Pre-activation residual block: BN, LReLU, conv3x3, BN, LReLU, conv3x3, plus x.

    If the number of channels changes, the shortcut is a 1x1 convolution. Its input and
    that of conv1 are then, with a(x) = LReLU(BN1(x)):
    - `activate_before_residual` (stage 1): a(x) for both.
    - otherwise, preact "usb": x for both, and a(x) is unused. BN1 keeps its running
      statistics and its parameters, whose gradient is exactly zero.
    - otherwise, preact "tf" (as google-research/fixmatch): a(x) for conv1, x for the
      shortcut.
    """

    channels: int
    stride: int
    activate_before_residual: bool
    preact: str
    dtype: Any
    bn_momentum: float
    sync_axis: str | None
    bn_variance: str = "unbiased"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = make_norm(self, train)
        conv = functools.partial(
            nn.Conv,
            self.channels,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=conv_init,
        )
        activated = leaky_relu(norm(name="bn1")(x))
        if x.shape[-1] == self.channels:
            inner, shortcut = activated, x
        elif self.activate_before_residual:
            inner, shortcut = activated, activated
        else:
            inner, shortcut = (x if self.preact == "usb" else activated), x

        strides = (self.stride, self.stride)
        # Explicit padding: "SAME" would pad (0, 1) if the stride is 2.
        pad = ((1, 1), (1, 1))
        y = conv(kernel_size=(3, 3), strides=strides, padding=pad, name="conv1")(inner)
        y = leaky_relu(norm(name="bn2")(y))
        y = conv(kernel_size=(3, 3), padding=pad, name="conv2")(y)
        if x.shape[-1] != self.channels:
            shortcut = conv(
                kernel_size=(1, 1), strides=strides, padding="VALID", name="shortcut"
            )(shortcut)
        return y + shortcut


class WideResNet(nn.Module):
    """WRN-depth-widen, depth = 6n + 4: [N, S, S, 3] images -> [N, 64 widen] features.

    preact: see `Block`. dtype, bn_momentum, sync_axis and bn_variance: see
    `norm.make_norm`.
    Features are pooled in float32. tap(name, x) -> x is called on the outputs of
    "stage1", "stage2" and, after the last norm and activation, "stage3".
    """

    depth: int
    widen: int
    preact: str = "usb"
    dtype: Any = jnp.float32
    bn_momentum: float = 0.999
    sync_axis: str | None = None
    bn_variance: str = "unbiased"

    @property
    def linear(self) -> Callable[[int, int, str], nn.Dense]:
        """Makes the linear classifiers."""
        return xavier_linear

    @property
    def stages(self) -> tuple[str, ...]:
        return "stage1", "stage2", "stage3"

    @nn.compact
    def __call__(
        self, images: Float[Array, "n s s 3"], train: bool, tap: Tap = untouched
    ) -> Float32[Array, "n d"]:
        x = nn.Conv(
            16,
            (3, 3),
            padding=((1, 1), (1, 1)),
            dtype=self.dtype,
            kernel_init=conv_init,
            bias_init=stem_bias_init,
            name="stem",
        )(images)
        for stage in (1, 2, 3):
            for block in range((self.depth - 4) // 6):
                x = Block(
                    channels=2 ** (stage + 3) * self.widen,
                    stride=2 if stage > 1 and block == 0 else 1,
                    activate_before_residual=stage == 1,
                    preact=self.preact,
                    dtype=self.dtype,
                    bn_momentum=self.bn_momentum,
                    sync_axis=self.sync_axis,
                    bn_variance=self.bn_variance,
                    name=f"stage{stage}_block{block}",
                )(x, train)
            if stage < 3:
                x = tap(f"stage{stage}", x)
        x = leaky_relu(make_norm(self, train)(epsilon=1e-3, name="bn")(x))
        x = tap("stage3", x)
        return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
