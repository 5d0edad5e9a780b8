"""Batch normalisation and the initial values of convolutions, for all encoders."""

import functools

import flax.linen as nn

# He's for ReLUs: fan-out, and not truncated as nn.initializers.he_normal is.
conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def make_norm(module: nn.Module, train: bool) -> functools.partial:
    """Returns BatchNorm with an encoder's options and, by default, epsilon 1e-5.

    The running variance averages the biased batch variance; torch averages n/(n-1)
    times that. `module`, an encoder or a block, has the fields
    dtype: of activations; parameters and running statistics are float32.
    bn_momentum: share of the old running statistics that an update keeps.
    sync_axis: mapped axis over which batch statistics are averaged. None means one
      device's statistics; a name that is not bound raises a NameError in training.
    """
    return functools.partial(
        nn.BatchNorm,
        use_running_average=not train,
        momentum=module.bn_momentum,
        epsilon=1e-5,
        dtype=module.dtype,
        axis_name=module.sync_axis,
    )
