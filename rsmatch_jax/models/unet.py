"""A class-conditional U-Net that predicts the noise in a noisy image.

The network of denoising diffusion (DDPM, Ho et al. 2020, arXiv 2006.11239), with one
skip connection per residual block. Time and class enter every block as a scale and a
shift, and two resolutions have attention (improved DDPM, Nichol and Dhariwal 2021,
arXiv 2102.09672, section 3 and appendix A). Images of 8 px have two resolutions and no
attention.
"""

import zlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int, Key, Num

MAX_PERIOD = 10_000.0  # of the sinusoids, Vaswani et al. 2017
HEAD_WIDTH = 64  # channels of an attention head, Dhariwal and Nichol 2021, 2105.05233
ZEROS = nn.initializers.zeros


def multipliers(size: int) -> tuple[int, ...]:
    """Returns the channels at each resolution, in widths, for images of `size` px. 32
    px: as DDPM and improved DDPM on CIFAR-10; 64 px: as improved DDPM."""
    if size <= 8:
        return (1, 2)
    if size <= 16:
        return (1, 2, 2)
    return (1, 2, 2, 2) if size <= 40 else (1, 2, 3, 4)


def attention_sizes(size: int) -> tuple[int, ...]:
    """Returns the resolutions with self-attention: 8 to 16 px, none at `size` 8."""
    resolutions = [size >> i for i in range(len(multipliers(size)))]
    return tuple(s for s in resolutions if 8 <= s <= 16) if size >= 16 else ()


def time_features(times: Num[Array, " b"], width: int) -> Float32[Array, "b {width}"]:
    """Returns sinusoidal features of the times; width is even."""
    half = width // 2
    rates = jnp.exp(-jnp.log(MAX_PERIOD) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = times.astype(jnp.float32)[:, None] * rates[None, :]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)


def drop(
    x: Float[Array, "b ..."], keys: Key[Array, " b"], rate: float, name: str
) -> Float[Array, "b ..."]:
    """Returns x after dropout, with a key per row and the name of its place in the net.
    A mask does not depend on the number of devices."""
    place = zlib.crc32(name.encode())

    def mask(key):
        key = jax.random.fold_in(key, place)
        return jax.random.bernoulli(key, 1 - rate, x.shape[1:])

    return jnp.where(jax.vmap(mask)(keys), x / (1 - rate), jnp.zeros_like(x))


class Block(nn.Module):
    """Residual block: [B, S, S, *] and condition [B, E] -> [B, S, S, width].

    The second convolution starts at zero, so a new block equals its shortcut. keys: one
    per row for dropout; None means no dropout.
    """

    width: int
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, condition: jax.Array, keys: jax.Array | None = None
    ) -> jax.Array:
        shortcut = x
        if x.shape[-1] != self.width:
            shortcut = nn.Conv(self.width, (1, 1), dtype=self.dtype, name="shortcut")(x)
        h = nn.swish(_norm(x, "norm_0", self.dtype))
        h = nn.Conv(self.width, (3, 3), dtype=self.dtype, name="conv_0")(h)
        change = nn.Dense(2 * self.width, dtype=self.dtype, name="condition")
        change = change(nn.swish(condition))
        scale, shift = jnp.split(change[:, None, None, :], 2, axis=-1)
        h = nn.swish(_norm(h, "norm_1", self.dtype) * (1 + scale) + shift)
        if self.dropout and keys is not None:
            h = drop(h, keys, self.dropout, str(self.name))
        last = nn.Conv(
            self.width, (3, 3), dtype=self.dtype, kernel_init=ZEROS, name="conv_1"
        )
        return shortcut + last(h)


class Attention(nn.Module):
    """Residual self-attention over the pixels of [B, S, S, C]; it starts as zero. Heads
    have about HEAD_WIDTH channels; the softmax is float32."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b, height, width, c = x.shape
        heads = max(1, c // HEAD_WIDTH)
        while c % heads:
            heads -= 1
        h = _norm(x, "norm", self.dtype).reshape(b, height * width, c)
        h = nn.Dense(3 * c, dtype=self.dtype, name="query_key_value")(h)
        h = h.reshape(b, height * width, 3, heads, c // heads)
        h = jax.nn.dot_product_attention(h[:, :, 0], h[:, :, 1], h[:, :, 2])
        out = nn.Dense(c, dtype=self.dtype, kernel_init=ZEROS, name="out")
        return x + out(h.reshape(b, height * width, c)).reshape(x.shape)


class Difficulty(nn.Module):
    """Embeds a class and a difficulty: labels, int32 [B], difficulty, float32 [B] ->
    [B, width], MLP([one-hot label, difficulty]) (Wang et al., arXiv 2411.18109). Zero
    before training, and where the difficulty is negative, which means hidden. The
    one-hot code of no label (num_classes) is zero."""

    num_classes: int
    width: int

    @nn.compact
    def __call__(self, labels: jax.Array, difficulty: jax.Array) -> jax.Array:
        code = jax.nn.one_hot(labels, self.num_classes)
        h = jnp.concatenate([code, difficulty[:, None]], axis=1)
        h = nn.swish(nn.Dense(self.width, name="hidden_0")(h))
        h = nn.swish(nn.Dense(self.width, name="hidden_1")(h))
        h = nn.Dense(self.width, kernel_init=ZEROS, name="out")(h)
        return jnp.where(difficulty[:, None] < 0, 0.0, h)


class UNet(nn.Module):
    """Predicts the noise in images, float32 [B, S, S, C]; zero before training.

    Inputs: noisy images, S divisible by 2 ** (len(multipliers) - 1); times, the noise
    levels; labels in 0..num_classes, where num_classes means no label (classifier-free
    guidance); keys, one per row for dropout, or None for no dropout; difficulty, of
    0..1 or negative (see Difficulty), or None for a network that does not know it.

    width: channels at full resolution, divisible by 4; resolution i has
    width * multipliers[i]. blocks: residual blocks per resolution and direction.
    attention: resolutions (px) at which self-attention follows every block; if there
    are any, the middle has it too. dtype: of activations; parameters are float32.
    """

    num_classes: int
    width: int = 32
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 1
    attention: tuple[int, ...] = ()
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        images: Float32[Array, "b s s c"],
        times: Num[Array, " b"],
        labels: Int[Array, " b"],
        keys: Key[Array, " b"] | None = None,
        difficulty: Float32[Array, " b"] | None = None,
    ) -> Float32[Array, "b s s c"]:
        embedding = 4 * self.width
        features = time_features(times, self.width)
        h = nn.swish(nn.Dense(embedding, name="time_0")(features))
        condition = nn.Dense(embedding, name="time_1")(h)
        condition += nn.Embed(self.num_classes + 1, embedding, name="label")(labels)
        if difficulty is not None:
            embed = Difficulty(self.num_classes, embedding, name="difficulty")
            condition += embed(labels, difficulty)

        def conv(width: int, name: str, **options) -> nn.Conv:
            return nn.Conv(width, (3, 3), dtype=self.dtype, name=name, **options)

        def residual(h: jax.Array, width: int, name: str) -> jax.Array:
            block = Block(width, self.dropout, self.dtype, name=name)
            return block(h, condition, keys)

        def block(h: jax.Array, width: int, name: str) -> jax.Array:
            h = residual(h, width, name)
            if h.shape[1] in self.attention:
                h = Attention(self.dtype, name=f"attention_{name}")(h)
            return h

        widths = [self.width * m for m in self.multipliers]
        h = conv(self.width, "stem")(images)
        skips = []
        for i, width in enumerate(widths):
            if i > 0:
                h = conv(width, f"down_{i}", strides=2)(h)
            for j in range(self.blocks):
                h = block(h, width, f"encode_{i}_{j}")
                skips.append(h)
        h = residual(h, widths[-1], "middle_0")
        if self.attention:
            h = Attention(self.dtype, name="attention_middle")(h)
            h = residual(h, widths[-1], "middle_1")
        for i, width in reversed(list(enumerate(widths))):
            for j in range(self.blocks):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(h, width, f"decode_{i}_{j}")
            if i > 0:
                h = jnp.repeat(jnp.repeat(h, 2, axis=1), 2, axis=2)
                h = conv(widths[i - 1], f"up_{i}")(h)
        h = nn.swish(_norm(h, "norm", self.dtype))
        # The last sum is float32: its rounding would be noise in the picture.
        out = nn.Conv(images.shape[-1], (3, 3), kernel_init=ZEROS, name="head")
        return out(h.astype(jnp.float32))


def _norm(x: jax.Array, name: str, dtype: Any) -> jax.Array:
    """GroupNorm with 8 or 4 groups; mean and variance are float32."""
    groups = 8 if x.shape[-1] % 8 == 0 else 4
    return nn.GroupNorm(groups, dtype=dtype, name=name)(x)
