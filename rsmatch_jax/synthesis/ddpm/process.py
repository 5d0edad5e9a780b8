"""The formulas of diffusion: noise schedule, noising, guidance, a step of drawing.

DDPM (Ho et al. 2020, arXiv 2006.11239), cosine schedule (Nichol and Dhariwal 2021,
2102.09672), DDIM (Song et al. 2021, 2010.02502), classifier-free guidance (Ho and
Salimans 2022, 2207.12598).
"""

import jax
import jax.numpy as jnp
import numpy as np

from rsmatch_jax.synthesis.ddpm.settings import NOISE_LEVELS


def alpha_bars(levels: int = NOISE_LEVELS) -> np.ndarray:
    """Share of signal variance left at noise level 0..levels, float32 [levels + 1].

    Cosine schedule, 2102.09672 eq. 17 (s = 0.008, betas at most 0.999).
    """
    f = np.cos((np.arange(levels + 1) / levels + 0.008) / 1.008 * np.pi / 2) ** 2
    kept = np.maximum(f[1:] / f[:-1], 0.001)
    return np.concatenate([[1.0], np.cumprod(kept)]).astype(np.float32)


def add_noise(images: jax.Array, noise: jax.Array, signal: jax.Array) -> jax.Array:
    """x_t of 2006.11239 eq. 4. images, noise: [B, ...]; signal: alpha bar, [B]."""
    signal = signal.reshape((-1,) + (1,) * (images.ndim - 1))
    return jnp.sqrt(signal) * images + jnp.sqrt(1 - signal) * noise


def drop_labels(
    key: jax.Array, labels: jax.Array, rate: float, num_classes: int
) -> jax.Array:
    """Replaces a share `rate` of the labels, int32 [B], by num_classes: no label."""
    dropped = jax.random.bernoulli(key, rate, labels.shape)
    return jnp.where(dropped, num_classes, labels)


def flip_some(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors every second image, [B, H, W, C], left to right."""
    flipped = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def guide(labelled: jax.Array, unlabelled: jax.Array, guidance: float) -> jax.Array:
    """Guided noise, 2207.12598 eq. 6: away from the prediction without a class."""
    return (1 + guidance) * labelled - guidance * unlabelled


def ddim_step(
    noisy: jax.Array, noise: jax.Array, signal: jax.Array, next_signal: jax.Array
) -> jax.Array:
    """One deterministic step of 2010.02502 eq. 12 (sigma = 0).

    noisy, noise: [B, ...]; signal, next_signal: alpha bar now and after, scalars.
    The estimate of the image is kept in [-1, 1] and the noise follows from it, or
    guidance would drive both out of the range the net was trained on.
    """
    clean = (noisy - jnp.sqrt(1 - signal) * noise) / jnp.sqrt(signal)
    clean = jnp.clip(clean, -1, 1)
    noise = (noisy - jnp.sqrt(signal) * clean) / jnp.sqrt(1 - signal)
    return jnp.sqrt(next_signal) * clean + jnp.sqrt(1 - next_signal) * noise
