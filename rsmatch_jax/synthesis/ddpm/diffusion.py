"""The formulas of diffusion, the network, and how pictures are drawn with it.

DDPM (Ho et al. 2020, arXiv 2006.11239), cosine schedule (Nichol and Dhariwal 2021,
2102.09672), DDIM (Song et al. 2021, 2010.02502), classifier-free guidance (Ho and
Salimans 2022, 2207.12598). Random numbers are drawn for the complete batch and each
device takes its rows, so the number of devices changes results by rounding alone.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rsmatch_jax.models import unet
from rsmatch_jax.runtime import compilation, parallel
from rsmatch_jax.synthesis.ddpm.settings import NOISE_LEVELS, Settings

# Purposes of random numbers.
INIT, TRAIN, DRAW, MIX, ADAPT, TUNE, DIFFICULTY = range(7)
HIDDEN = -1.0  # a difficulty that the network does not see


def network(settings: Settings, size: int, num_classes: int) -> unet.UNet:
    """Returns the U-Net for images of `size` px."""
    return unet.UNet(
        num_classes,
        settings.width,
        multipliers=unet.multipliers(size),
        blocks=settings.blocks,
        attention=unet.attention_sizes(size),
        dropout=settings.dropout,
        dtype=jnp.dtype(settings.dtype),
    )


def alpha_bars() -> np.ndarray:
    """Returns the signal's share of variance by level, float32 [NOISE_LEVELS + 1].
    Cosine schedule, 2102.09672 eq. 17 (s = 0.008, betas at most 0.999)."""
    time = np.arange(NOISE_LEVELS + 1) / NOISE_LEVELS
    f = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2
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


def make_sampler(
    settings: Settings,
    shape: tuple[int, ...],
    num_classes: int,
    devices: Sequence[jax.Device],
    difficulty_guidance: float = 0.0,
) -> Callable[..., np.ndarray]:
    """Returns draw(params, key, labels, tick) -> float32 [B, *shape] in [-1, 1].

    labels: int32 [B], the same B in all calls. tick is called after every step. With
    second_labels, int32 [B], pictures between two classes y and z: the labelled
    prediction is (eps(x, y) + eps(x, z)) / 2. With difficulty, float32 [B], pictures of
    difficulty s: (1 + v) (eps(x, y, s) - eps(x, y)), v = difficulty_guidance, joins the
    guided prediction; between two classes it is the mean of both.
    """
    net = network(settings, shape[0], num_classes)
    signals = alpha_bars()
    times = np.linspace(NOISE_LEVELS, 0, settings.sampling_steps + 1)
    times = np.rint(times).astype(np.int32)

    def forward(params_and_levels, batch):
        params, level, signal, next_signal = params_and_levels
        noisy, classes, levels = batch  # one or two classes, one or no difficulty
        noise = _guided(
            functools.partial(net.apply, params),
            (noisy, level, classes, levels),
            num_classes,
            settings.guidance,
            difficulty_guidance,
        )
        return ddim_step(noisy, noise, signal, next_signal)

    mapped = parallel.map_eval(forward, devices)
    program: Callable | None = None

    def draw(
        params, key, labels, tick=lambda: None, *, second_labels=None, difficulty=None
    ) -> np.ndarray:
        nonlocal program
        noise = np.asarray(jax.random.normal(key, (len(labels), *shape)))
        # Every device needs equally many rows, so the first ones repeat at the end.
        rows = np.arange(-(-len(labels) // len(devices)) * len(devices)) % len(labels)
        classes = [labels] if second_labels is None else [labels, second_labels]
        levels = [] if difficulty is None else [difficulty]
        batch = (noise, classes, levels)
        batch = jax.tree.map(lambda column: column[rows], batch)
        x, *conditions = parallel.shard_rows(batch, devices)
        params = parallel.replicate(params, devices)
        for now, after in zip(times[:-1], times[1:], strict=True):
            variables = params, now, signals[now], signals[after]
            if program is None:
                lowered = mapped.lower(variables, (x, *conditions))
                program = compilation.compiled(lowered, devices[0].platform)
            x = program(variables, (x, *conditions))
            x.block_until_ready()  # otherwise the progress line is ahead of the device
            tick()
        return parallel.collect(x)[: len(labels)]

    return draw


def _guided(predict: Callable, batch: tuple, hidden_class: int, w: float, v: float):
    """Returns `make_sampler`'s prediction of the noise, from one pass over as many
    copies of the pictures as it has terms. batch: pictures, noise level, the classes, s
    or nothing. hidden_class: stands for no class. w, v: strengths of guidance."""
    noisy, level, classes, levels = batch
    hidden = jnp.full_like(classes[0], hidden_class)
    terms = [*classes, hidden, *classes * len(levels)]
    shown = jnp.concatenate(terms)
    copies = jnp.concatenate([noisy] * len(terms))
    inputs = [copies, jnp.full(shown.shape, level), shown]
    if levels:
        unknown = jnp.full_like(levels[0], HIDDEN)
        parts = [unknown] * (len(classes) + 1) + [levels[0]] * len(classes)
        inputs += [None, jnp.concatenate(parts)]
    noises = jnp.split(predict(*inputs), len(terms))
    count = len(classes)
    labelled, unlabelled = sum(noises[1:count], noises[0]) / count, noises[count]
    noise = (1 + w) * labelled - w * unlabelled  # 2207.12598 eq. 6
    if levels:
        full = sum(noises[count + 2 :], noises[count + 1]) / count
        noise += (1 + v) * (full - labelled)
    return noise
