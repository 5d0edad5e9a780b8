"""The layers that all encoders share: convolutions and batch normalisation."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from rsmatch_jax.errors import RequestError
from rsmatch_jax.models.norm import BatchNorm

CHOICES = {"bn_variance": ("unbiased", "biased"), "wrn_preact": ("usb", "tf")}

# He's for ReLUs: fan-out, and not truncated as nn.initializers.he_normal is.
he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


@dataclasses.dataclass(frozen=True)
class Layers:
    """An encoder's options and layers; parameters and running statistics are float32.

    bn_variance: "unbiased" averages n/(n-1) times the variance of n values, as torch
      does; "biased" averages the variance itself.
    sync_axis: mapped axis over which the batch statistics of training are averaged.
      None means one device's statistics; an unbound name raises a NameError.
    """

    dtype: Any = jnp.float32  # or bfloat16, of convolutions and activations
    bn_momentum: float = 0.999  # share of the old running statistics in the new ones
    bn_variance: str = "unbiased"
    sync_axis: str | None = None
    wrn_preact: str = "usb"  # or "tf", see `wrn.Block`; a resnet ignores it
    split_bn: bool = False  # see `norm.BatchNorm`

    def __post_init__(self):
        for key, choices in CHOICES.items():
            value = getattr(self, key)
            if value not in choices:
                raise RequestError(
                    f"model.{key}={value!r} is unknown; choose {' or '.join(choices)}"
                )

    def conv(
        self, channels: int, width: int, stride: int = 1, **options: Any
    ) -> nn.Conv:
        """Returns a convolution, padded by (width - 1) / 2 pixels on every side, where
        "SAME" would pad (0, 1) if the stride is 2 and the size is even."""
        options = {"use_bias": False, "padding": width // 2, **options}
        options |= {"kernel_init": he_normal, "dtype": self.dtype}
        return nn.Conv(channels, (width, width), stride, **options)

    def norm(
        self, train: bool, name: str, epsilon: float = 1e-5, slope: float = 1.0
    ) -> BatchNorm:
        """Returns a norm by the batch's statistics, or by the running ones, with a ReLU
        after it that multiplies negative values by `slope`."""
        return BatchNorm(
            use_running_average=not train,
            momentum=self.bn_momentum,
            epsilon=epsilon,
            dtype=self.dtype,
            axis_name=self.sync_axis,
            unbiased=self.bn_variance == "unbiased",
            slope=slope,
            split=self.split_bn,
            name=name,
        )


def stage(module: nn.Module, name: str, x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Returns x, a stage's output, which `Network.probe` reads and shifts."""
    module.sow("intermediates", name, x)
    return module.perturb(name, x)
