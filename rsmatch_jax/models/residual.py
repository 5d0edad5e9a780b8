"""A fixed high-pass residual of an image, as further channels of a network's input."""

import jax.numpy as jnp
from jaxtyping import Array, Float32, UInt8


def residual(images: UInt8[Array, "n h w 3"]) -> Float32[Array, "n h w 3"]:
    """Returns sign(r) log(1 + |r|) of the Laplacian r: four times a pixel minus its
    neighbours, in levels of 0 to 255, with the image's edge repeated around it.

    The filter is one of the rich models (SRM; Fridrich and Kodovsky 2012), as in
    `forensics.groups`, whose histogram of r has bins of about equal width in log |r|:
    noise of a few levels counts beside edges of hundreds.
    """
    levels = images.astype(jnp.float32)
    x = jnp.pad(levels, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    vertical = x[:, :-2, 1:-1] + x[:, 2:, 1:-1]
    r = 4 * levels - vertical - x[:, 1:-1, :-2] - x[:, 1:-1, 2:]
    return jnp.sign(r) * jnp.log1p(jnp.abs(r))
