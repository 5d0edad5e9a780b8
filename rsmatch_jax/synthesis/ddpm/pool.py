"""Draws a class-balanced pool of different pictures, and writes it with its source."""

import functools
import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from rsmatch_jax import files
from rsmatch_jax.data import sources
from rsmatch_jax.data.stores import arrays, dataset_folder
from rsmatch_jax.data.stores.arrays import ImageArrays
from rsmatch_jax.errors import RequestError, RunFailed
from rsmatch_jax.forensics import features
from rsmatch_jax.progress import Progress
from rsmatch_jax.synthesis.ddpm import diffusion
from rsmatch_jax.synthesis.ddpm.settings import Settings
from rsmatch_jax.terminal import say

GENERATOR = "ddpm"
MAX_ROUNDS = 5  # of drawing, to replace dropped duplicates
DIGITS_SOURCE = (
    "Drawn by a diffusion model trained on scikit-learn's digits: the test part of "
    "'Optical Recognition of Handwritten Digits' (E. Alpaydin, C. Kaynak, 1998, UCI "
    "Machine Learning Repository, doi 10.24432/C50P49), CC BY 4.0."
)


def to_uint8(images: np.ndarray, levels: int) -> np.ndarray:
    """Rounds images in [-1, 1] to `levels` evenly spaced grey values of uint8."""
    steps = np.rint((np.clip(images, -1, 1) + 1) / 2 * (levels - 1))
    return np.rint(steps * (255 / (levels - 1))).astype(np.uint8)


def draw_pool(
    settings: Settings,
    params: Any,
    data: ImageArrays,
    levels: int,
    devices: Sequence[jax.Device],
    folder: str,
    conditions: Mapping[str, np.ndarray] | None = None,
    difficulty_guidance: float = 0.0,
) -> tuple[ImageArrays, int, dict[str, np.ndarray]]:
    """Draws per_class pictures of every class, all different and none in `data`.

    levels: grey values of the pictures, evenly spaced. folder: holds the chunks drawn
    so far, and gets the others. conditions: what the sampler gets beside the labels of
    `all_labels`, a row of each per picture. A dropped picture's row is drawn anew.

    Returns:
        The pool, sorted by class; the number of dropped pictures: exact duplicates
        of another picture or of a training image; the conditions in the pool's order.
    """
    labels, conditions = all_labels(settings, data), conditions or {}
    draw = diffusion.make_sampler(
        settings, data.images.shape[1:], data.num_classes, devices, difficulty_guidance
    )
    root = jax.random.fold_in(jax.random.key(settings.seed), diffusion.DRAW)
    seen = set(features.digests(data.images).tolist())
    pictures: list[list[np.ndarray]] = [[] for _ in range(data.num_classes)]
    done: list[list[int]] = [[] for _ in pictures]  # their rows
    size = min(settings.sampling_batch, len(labels))
    number = dropped = 0
    for _ in range(MAX_ROUNDS):
        missing = np.setdiff1d(np.arange(len(labels)), np.concatenate(done))
        if not len(missing):
            break
        chunks = [missing[i : i + size] for i in range(0, len(missing), size)]
        total = len(chunks) * settings.sampling_steps
        with Progress("drawing", "DDIM steps", total, say) as progress:
            tick = functools.partial(progress.advance, 1)
            for i, chunk in enumerate(chunks, start=1):
                path = os.path.join(folder, f"{number:06d}.npy")
                if not os.path.exists(path):
                    key = jax.random.fold_in(root, number)
                    rows = np.resize(chunk, size)  # one shape, compiled once
                    further = {name: c[rows] for name, c in conditions.items()}
                    pixels = draw(params, key, labels[rows], tick, **further)
                    with files.replacing(path) as f:
                        np.save(f, to_uint8(pixels, levels), allow_pickle=False)
                progress.skip_to(i * settings.sampling_steps)
                number += 1
                made = _load(path)[: len(chunk)]
                digests = features.digests(made).tolist()
                for image, digest, row in zip(made, digests, chunk, strict=True):
                    if digest in seen:
                        dropped += 1
                    else:
                        seen.add(digest)
                        pictures[labels[row]].append(image)
                        done[labels[row]].append(row)
    pool = _pool(settings, data, pictures)
    return pool, dropped, {k: c[np.concatenate(done)] for k, c in conditions.items()}


def all_labels(settings: Settings, data: ImageArrays) -> np.ndarray:
    """Returns the classes of all pictures to be drawn, int32 [N], in order."""
    classes = np.arange(data.num_classes, dtype=np.int32)
    return classes.repeat(settings.per_class)


def second_labels(settings: Settings, data: ImageArrays) -> np.ndarray:
    """Returns another class for each of `all_labels`, int32 [N], uniformly at random,
    but for each class equally many pictures, or one more, get each other class."""
    rng = np.random.default_rng((settings.seed, diffusion.MIX))
    count, classes = settings.per_class, np.arange(data.num_classes, dtype=np.int32)
    seconds = []
    for label in classes:
        others = np.delete(classes, label)
        # Rounds of all others in random order; the last one may be cut short.
        rounds = -(-count // len(others))
        turns = np.concatenate([rng.permutation(others) for _ in range(rounds)])
        seconds.append(rng.permutation(turns[:count]))
    return np.concatenate(seconds)


def _load(path: str) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (EOFError, ValueError) as e:
        raise RequestError(
            f"{path} is damaged ({e}); delete it, then it is drawn again"
        ) from None


def _pool(
    settings: Settings, data: ImageArrays, pictures: Sequence[Sequence[np.ndarray]]
) -> ImageArrays:
    counts = zip(data.class_names, map(len, pictures), strict=True)
    short = {name: count for name, count in counts if count < settings.per_class}
    if short:
        raise RunFailed(
            f"{MAX_ROUNDS} rounds gave too few different pictures (by class: {short}, "
            f"needed: {settings.per_class}); lower --guidance or raise --steps"
        )
    labels, images = all_labels(settings, data), np.concatenate(pictures)
    generators, names = np.zeros_like(labels), data.class_names
    return ImageArrays(data.name, images, labels, names, generators, (GENERATOR,))


def origin(dataset: str, data_dir: str | None) -> dict[str, str]:
    """Returns the source of the pictures and their licence, as text."""
    if dataset == "digits":
        return {"source": DIGITS_SOURCE, "licence": "CC BY 4.0"}
    folder = sources.prepared_folder(dataset, data_dir)
    info = dataset_folder.inspect(folder).info if folder else {}
    name = f"{info['name']} {info['version']}" if info else dataset
    about = f"{info.get('description', '')} {info.get('citation', '')}".split()
    licence = info.get("redistributionInfo", {}).get("license")
    return {
        "source": " ".join([f"Drawn by a diffusion model trained on {name}.", *about]),
        "licence": licence or f"that of the training images, {name}",
    }


def write_tfds(
    out: str,
    staging: str,
    pool: ImageArrays,
    report: dict[str, Any],
    columns: Mapping[str, np.ndarray],
    tf_write,
):
    """Writes the pool as a TFDS dataset folder with a pool.json, below `staging`, and
    moves it, its description last, so that no incomplete pool looks complete. columns:
    numbers of each picture, which pool.json gets in the order of the pictures."""
    parent = os.path.join(staging, "pool")
    shutil.rmtree(parent, ignore_errors=True)
    folder = os.path.join(parent, os.path.basename(out))
    images = arrays.to_rgb(np.asarray(pool.images))
    size = images.shape[1]
    terms = {key: report.pop(key) for key in ("licence", "source")}
    if columns:
        terms["pictures"] = {name: c.tolist() for name, c in columns.items()}
    rows = enumerate(zip(images, pool.labels.tolist(), strict=True))
    examples = (
        tf_write.Example(image, label, id=f"{GENERATOR}_{i:06d}", generator=0)
        for i, (image, label) in rows
    )
    tf_write.write(
        folder,
        {"train": examples},
        class_names=pool.class_names,
        size=(size, size),
        generator_names=pool.generator_names,
        pool={
            "generators": {GENERATOR: {"how": report, "images": len(images)}},
            "resize": {"kernel": None, "size": size, "resized": 0},
            "exact_duplicates": report["duplicates_dropped"],
            "exact_duplicates_dropped": report["duplicates_dropped"],
            **terms,
        },
        description=terms["source"],
        licence=terms["licence"],
    )
    for name in sorted(os.listdir(folder), key=lambda n: n == dataset_folder.INFO):
        os.replace(os.path.join(folder, name), os.path.join(out, name))
