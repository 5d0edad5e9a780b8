"""Draws a class-balanced pool of different pictures."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from rsmatch_jax.data.stores.arrays import ImageArrays
from rsmatch_jax.errors import RunFailed
from rsmatch_jax.synthesis.ddpm import diffusion
from rsmatch_jax.synthesis.ddpm.settings import Settings
from rsmatch_jax.terminal import Progress

GENERATOR = "ddpm"
MAX_ROUNDS = 5  # of drawing, to replace dropped duplicates


def to_uint8(images: np.ndarray, levels: int) -> np.ndarray:
    """Rounds images in [-1, 1] to `levels` evenly spaced grey values of uint8."""
    steps = np.rint((np.clip(images, -1, 1) + 1) / 2 * (levels - 1))
    return np.rint(steps * (255 / (levels - 1))).astype(np.uint8)


def draw_pool(
    settings: Settings,
    params: Any,
    data: ImageArrays,
    levels: int,
    say: Callable[[str], None] = lambda line: None,
    *,
    devices: Sequence[jax.Device] | None = None,
    keep: Callable[[int, Callable], np.ndarray] = lambda number, draw: draw(),
) -> tuple[ImageArrays, int]:
    """Draws per_class pictures of every class, all different and none in `data`.

    Args:
        keep: keep(number, draw) returns chunk `number`, uint8 [B, S, S, C]: the stored
            one, or else that of draw().

    Returns:
        The pool, sorted by class, and the number of dropped pictures: exact duplicates
        of another picture or of a training image.

    Raises:
        RunFailed: MAX_ROUNDS give too few different pictures.
    """
    classes = np.arange(data.num_classes, dtype=np.int32)
    draw = diffusion.make_sampler(
        settings, data.images.shape[1:], data.num_classes, devices
    )
    root = jax.random.fold_in(jax.random.key(settings.seed), diffusion.DRAW)
    seen = {_digest(image) for image in data.images}
    pictures: list[list[np.ndarray]] = [[] for _ in classes]
    size = min(settings.sampling_batch, settings.per_class * data.num_classes)
    number = dropped = 0
    for _ in range(MAX_ROUNDS):
        missing = [settings.per_class - len(images) for images in pictures]
        labels = np.repeat(classes, missing)
        if not len(labels):
            break
        chunks = [labels[i : i + size] for i in range(0, len(labels), size)]
        total = len(chunks) * settings.sampling_steps
        progress = Progress("drawing", "DDIM steps", total, say)
        for i, chunk in enumerate(chunks, start=1):

            def drawn(number=number, chunk=chunk, tick=progress.advance) -> np.ndarray:
                key = jax.random.fold_in(root, number)
                same_shape = np.resize(chunk, size)  # compiled once
                images = draw(params, key, same_shape, lambda: tick(1))
                return to_uint8(images, levels)

            images = keep(number, drawn)
            progress.skip_to(i * settings.sampling_steps)
            number += 1
            for image, label in zip(images, chunk, strict=False):
                digest = _digest(image)
                if digest in seen:
                    dropped += 1
                else:
                    seen.add(digest)
                    pictures[label].append(image)
    return _pool(settings, data, pictures), dropped


def _pool(
    settings: Settings, data: ImageArrays, pictures: Sequence[Sequence[np.ndarray]]
) -> ImageArrays:
    counts = zip(data.class_names, map(len, pictures), strict=True)
    short = {name: n for name, n in counts if n < settings.per_class}
    if short:
        raise RunFailed(
            f"{MAX_ROUNDS} rounds gave too few different pictures (by class: {short}, "
            f"needed: {settings.per_class}); lower --guidance or raise --steps"
        )
    labels = np.arange(data.num_classes, dtype=np.int32)
    labels = np.repeat(labels, settings.per_class)
    return ImageArrays(
        name=data.name,
        images=np.concatenate([np.stack(images) for images in pictures]),
        labels=labels,
        class_names=data.class_names,
        generators=np.zeros_like(labels),
        generator_names=(GENERATOR,),
    )


def _digest(image: np.ndarray) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()
