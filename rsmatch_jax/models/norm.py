"""Batch normalisation and the initial values of convolutions, for all encoders."""

import functools

import flax.linen as nn
import jax

from rsmatch_jax.runtime import parallel

VARIANCES = ("unbiased", "biased")

# He's for ReLUs: fan-out, and not truncated as nn.initializers.he_normal is.
conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class BatchNorm(nn.BatchNorm):
    """flax's BatchNorm, whose running variance can average the unbiased variance.

    Normalisation itself divides by the biased variance, as in torch.
    """

    unbiased: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        moves = not (self.use_running_average or self.is_initializing())
        if not (moves and self.unbiased):
            return super().__call__(x)
        start = self.momentum * self.get_variable("batch_stats", "var")
        y = super().__call__(x)
        count = x.size // x.shape[-1] * parallel.num_devices(self.axis_name)
        var = self.get_variable("batch_stats", "var")
        # n/(n-1) times the part that is new; torch refuses n = 1.
        var += (var - start) / max(1, count - 1)
        self.put_variable("batch_stats", "var", var)
        return y


def make_norm(module: nn.Module, train: bool) -> functools.partial:
    """Returns BatchNorm with an encoder's options and, by default, epsilon 1e-5.

    `module`, an encoder or a block, has the fields
    dtype: of activations; parameters and running statistics are float32.
    bn_momentum: share of the old running statistics that an update keeps.
    bn_variance: "unbiased" averages n/(n-1) times the variance of n values, as torch
      does; "biased" averages the variance itself.
    sync_axis: mapped axis over which batch statistics are averaged. None means one
      device's statistics; a name that is not bound raises a NameError in training.
    """
    return functools.partial(
        BatchNorm,
        use_running_average=not train,
        momentum=module.bn_momentum,
        epsilon=1e-5,
        dtype=module.dtype,
        axis_name=module.sync_axis,
        unbiased=module.bn_variance == "unbiased",
    )
