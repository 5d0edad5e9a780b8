"""Networks that take images as they are stored."""

import jax.numpy as jnp
from jaxtyping import Array, Float32, UInt8

from rsmatch_jax.models.networks import Network


def take_uint8(
    net: Network, mean: tuple[float, ...], std: tuple[float, ...]
) -> Network:
    """Returns `net` with (x / 255 - mean) / std in front of it, for uint8 images.

    Batches keep a quarter of their float32 size until they reach the network.
    """

    def normalised(images: UInt8[Array, "n s s 3"]) -> Float32[Array, "n s s 3"]:
        scale = 255 * jnp.asarray(std, jnp.float32).reshape(1, 1, 1, 3)
        shift = 255 * jnp.asarray(mean, jnp.float32).reshape(1, 1, 1, 3)
        return (images.astype(jnp.float32) - shift) / scale

    def apply(params, stats, images, train):
        return net.apply(params, stats, normalised(images), train)

    def probe(params, stats, images, stage, shift):
        return net.probe(params, stats, normalised(images), stage, shift)

    return Network(net.init, apply, probe, net.stages)
