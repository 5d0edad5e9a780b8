"""Views made on the device, from uint8 images and a key."""

import jax
import jax.numpy as jnp


def weak_view(
    key: jax.Array, images: jax.Array, *, flip: bool, crop_pad: int
) -> jax.Array:
    """Reflect-pad, random crop, random mirror: uint8 [N, S, S, C] -> the same shape.

    Offsets are uniform in {0..2 * crop_pad} per axis, the border row is not repeated;
    mirrored with probability 1/2 if `flip`.
    """
    count, size = images.shape[:2]
    offset_key, flip_key = jax.random.split(key)
    offsets = jax.random.randint(offset_key, (2, count, 1), 0, 2 * crop_pad + 1)
    positions = jnp.arange(size, dtype=jnp.int32)[None, None, :] + offsets - crop_pad
    rows, columns = (size - 1) - jnp.abs((size - 1) - jnp.abs(positions))
    if flip:
        mirrored = jax.random.bernoulli(flip_key, 0.5, (count, 1))
        columns = jnp.where(mirrored, columns[:, ::-1], columns)
    image = jnp.arange(count)[:, None, None]
    return images[image, rows[:, :, None], columns[:, None, :]]
