"""The formulas of diffusion: noise schedule, noising, guidance, a drawing step.

DDPM (Ho et al. 2020, arXiv 2006.11239), cosine schedule (Nichol and Dhariwal 2021,
2102.09672), DDIM (Song et al. 2021, 2010.02502), classifier-free guidance (Ho and
Salimans 2022, 2207.12598).
"""

import jax
import jax.numpy as jnp
import numpy as np

from rsmatch_jax.synthesis.ddpm.settings import NOISE_LEVELS


def alpha_bars(levels: int = NOISE_LEVELS) -> np.ndarray:
    """Returns the signal's share of variance at level 0..levels, float32 [levels + 1].

    Cosine schedule, 2102.09672 eq. 17 (s = 0.008, betas at most 0.999).
    """
    f = np.cos((np.arange(levels + 1) / levels + 0.008) / 1.008 * np.pi / 2) ** 2
    alphas = np.maximum(f[1:] / f[:-1], 0.001)
    return np.concatenate([[1.0], np.cumprod(alphas)]).astype(np.float32)


def add_noise(images: jax.Array, noise: jax.Array, signal: jax.Array) -> jax.Array:
    """Returns x_t, 2006.11239 eq. 4. images, noise: [B, ...]; signal: alpha bar [B]."""
    signal = signal.reshape((-1,) + (1,) * (images.ndim - 1))
    return jnp.sqrt(signal) * images + jnp.sqrt(1 - signal) * noise


def drop_labels(
    key: jax.Array, labels: jax.Array, rate: float, num_classes: int
) -> jax.Array:
    """Replaces a share `rate` of the labels, int32 [B], by num_classes (no label)."""
    dropped = jax.random.bernoulli(key, rate, labels.shape)
    return jnp.where(dropped, num_classes, labels)


def flip_some(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors each image of [B, H, W, C] left to right with probability 0.5."""
    flipped = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def guide(labelled: jax.Array, unlabelled: jax.Array, guidance: float) -> jax.Array:
    """Returns the guided noise, 2207.12598 eq. 6."""
    return (1 + guidance) * labelled - guidance * unlabelled


def ddim_step(
    noisy: jax.Array, noise: jax.Array, signal: jax.Array, next_signal: jax.Array
) -> jax.Array:
    """Takes one deterministic step of 2010.02502 eq. 12 (sigma = 0).

    noisy, noise: [B, ...]. signal, next_signal: alpha bar before and after, scalars.
    The estimated image is clipped to [-1, 1] and the noise follows from it. Otherwise
    guidance would drive both out of the range that the net was trained on.
    """
    clean = (noisy - jnp.sqrt(1 - signal) * noise) / jnp.sqrt(signal)
    clean = jnp.clip(clean, -1, 1)
    noise = (noisy - jnp.sqrt(signal) * clean) / jnp.sqrt(1 - signal)
    return jnp.sqrt(next_signal) * clean + jnp.sqrt(1 - next_signal) * noise
