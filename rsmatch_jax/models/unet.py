"""A small class-conditional U-Net that predicts the noise in a noisy image.

The net of denoising diffusion (Ho et al. 2020, arXiv 2006.11239) cut down to small
images: one residual block per resolution, no attention. Time and class enter every
block as a scale and a shift (Nichol and Dhariwal 2021, arXiv 2102.09672, section 3).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

MAX_PERIOD = 10_000.0  # of the sinusoids, Vaswani et al. 2017


def time_features(times: jax.Array, width: int) -> jax.Array:
    """Sinusoidal features, float32 [B, width] (width even), of times, [B]."""
    half = width // 2
    rates = jnp.exp(-jnp.log(MAX_PERIOD) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = times.astype(jnp.float32)[:, None] * rates[None, :]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)


class Block(nn.Module):
    """Residual block: [B, S, S, *] and condition [B, E] to [B, S, S, width].

    The second convolution starts at zero, so a new block is its shortcut.
    """

    width: int

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array) -> jax.Array:
        shortcut = x
        if x.shape[-1] != self.width:
            shortcut = nn.Conv(self.width, (1, 1), name="shortcut")(x)
        h = nn.Conv(self.width, (3, 3), name="conv_0")(nn.swish(_norm(x, "norm_0")))
        change = nn.Dense(2 * self.width, name="condition")(nn.swish(condition))
        scale, shift = jnp.split(change[:, None, None, :], 2, axis=-1)
        h = nn.swish(_norm(h, "norm_1") * (1 + scale) + shift)
        zeros = nn.initializers.zeros
        h = nn.Conv(self.width, (3, 3), kernel_init=zeros, name="conv_1")(h)
        return shortcut + h


class UNet(nn.Module):
    """Noise prediction, float32 [B, S, S, C], zero before training.

    images: float32 [B, S, S, C], noisy, S divisible by 2 ** (len(multipliers) - 1).
    times: int32 or float32 [B], noise levels. labels: int32 [B] of 0..num_classes,
    where num_classes means "no label" (classifier-free guidance).
    width: channels at full resolution, divisible by 4; resolution i has
    width * multipliers[i].
    """

    num_classes: int
    width: int = 32
    multipliers: tuple[int, ...] = (1, 2)

    @nn.compact
    def __call__(
        self, images: jax.Array, times: jax.Array, labels: jax.Array
    ) -> jax.Array:
        embedding = 4 * self.width
        features = time_features(times, self.width)
        h = nn.swish(nn.Dense(embedding, name="time_0")(features))
        condition = nn.Dense(embedding, name="time_1")(h)
        condition += nn.Embed(self.num_classes + 1, embedding, name="label")(labels)

        widths = [self.width * m for m in self.multipliers]
        h = nn.Conv(self.width, (3, 3), name="stem")(images)
        skips = []
        for i, width in enumerate(widths):
            if i > 0:
                h = nn.Conv(width, (3, 3), strides=2, name=f"down_{i}")(h)
            h = Block(width, name=f"encode_{i}")(h, condition)
            skips.append(h)
        h = Block(widths[-1], name="middle")(h, condition)
        for i, width in reversed(list(enumerate(widths))):
            h = jnp.concatenate([h, skips[i]], axis=-1)
            h = Block(width, name=f"decode_{i}")(h, condition)
            if i > 0:
                h = jnp.repeat(jnp.repeat(h, 2, axis=1), 2, axis=2)
                h = nn.Conv(widths[i - 1], (3, 3), name=f"up_{i}")(h)
        h = nn.swish(_norm(h, "norm"))
        zeros = nn.initializers.zeros
        out = nn.Conv(images.shape[-1], (3, 3), kernel_init=zeros, name="head")(h)
        return out.astype(jnp.float32)


def _norm(x: jax.Array, name: str) -> jax.Array:
    """GroupNorm of at most 8 groups."""
    groups = 8 if x.shape[-1] % 8 == 0 else 4
    return nn.GroupNorm(groups, name=name)(x)
