"""Makes a synthetic pool with a small class-conditional diffusion model of our own.

    python -m rsmatch_jax.synthesis.ddpm --dataset=digits --out=DIR
    python -m rsmatch_jax.synthesis.ddpm --dataset=cifar10 --out=DIR --dtype=bfloat16

Trains a U-Net on the dataset's training split, draws a class-balanced pool and saves
it. Strong guidance makes pictures that are clearer than real ones, as those of
text-to-image models are. Same seed, machine and versions: same pool. Interrupted, the
same command goes on from what it saved in DIR/.staging.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import math
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from rsmatch_jax.data import sources
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.errors import RequestError, RunFailed, exit_code
from rsmatch_jax.runs import workdir
from rsmatch_jax.runtime import compilation
from rsmatch_jax.synthesis.ddpm import diffusion, output
from rsmatch_jax.synthesis.ddpm import settings as ddpm_settings
from rsmatch_jax.synthesis.ddpm.settings import Settings
from rsmatch_jax.terminal import Progress, say

MAX_ROUNDS = 5  # of drawing, to make up for dropped duplicates
DIGITS_LEVELS = 17  # grey levels of the scans, which the pictures then share
PACKAGES = ("jax", "flax", "optax", "numpy", "scikit-learn")
GO_ON = "the same command goes on from what is saved in .staging below --out"


def to_uint8(images: np.ndarray, levels: int) -> np.ndarray:
    """Images in [-1, 1] as uint8, rounded to `levels` evenly spaced grey values."""
    steps = np.rint((np.clip(images, -1, 1) + 1) / 2 * (levels - 1))
    return np.rint(steps * (255 / (levels - 1))).astype(np.uint8)


def draw_pool(
    settings: Settings,
    params: Any,
    data: arrays.ImageArrays,
    levels: int,
    say: Callable[[str], None] = lambda line: None,
    *,
    devices: Sequence[jax.Device] | None = None,
    keep: Callable[[int, Callable], np.ndarray] = lambda number, draw: draw(),
) -> tuple[arrays.ImageArrays, int]:
    """Draws per_class pictures of every class, all different and none of `data`.

    keep(number, draw): chunk `number`, which is what draw() gives, uint8 [B, S, S, C].
    Returns: the pool, sorted by class, and how many pictures were dropped as exact
    duplicates of another or of a training image.
    Raises: RuntimeError where MAX_ROUNDS do not yield enough different pictures.
    """
    shape = data.images.shape[1:]
    draw = diffusion.make_sampler(settings, shape, data.num_classes, devices)
    root = jax.random.fold_in(jax.random.key(settings.seed), diffusion.DRAW)
    seen = {_digest(image) for image in data.images}
    kept: list[list[np.ndarray]] = [[] for _ in range(data.num_classes)]
    size = min(settings.sampling_batch, settings.per_class * data.num_classes)
    number = dropped = 0  # of the chunk; of pictures
    for _ in range(MAX_ROUNDS):
        missing = [settings.per_class - len(images) for images in kept]
        wanted = np.repeat(np.arange(data.num_classes, dtype=np.int32), missing)
        if not len(wanted):
            break
        chunks = math.ceil(len(wanted) / size)
        total = chunks * settings.sampling_steps
        progress = Progress("drawing", "DDIM steps", total, say)
        for i in range(chunks):
            chunk = wanted[i * size : (i + 1) * size]
            labels = np.resize(chunk, size)  # one shape, compiled once
            key = jax.random.fold_in(root, number)

            def drawn(key=key, labels=labels, p=progress) -> np.ndarray:
                return to_uint8(draw(params, key, labels, lambda: p.advance(1)), levels)

            images = keep(number, drawn)
            progress.skip_to((i + 1) * settings.sampling_steps)
            number += 1
            for image, label in zip(images, chunk, strict=False):
                digest = _digest(image)
                if digest in seen:
                    dropped += 1
                else:
                    seen.add(digest)
                    kept[label].append(image)
    short = {data.class_names[c]: len(k) for c, k in enumerate(kept)}
    short = {name: n for name, n in short.items() if n < settings.per_class}
    if short:
        raise RuntimeError(
            f"{MAX_ROUNDS} rounds gave too few different pictures (class: number "
            f"{short}, wanted {settings.per_class}); lower --guidance or raise --steps"
        )
    count = settings.per_class * data.num_classes
    pool = arrays.ImageArrays(
        name=data.name,
        images=np.concatenate([np.stack(images) for images in kept]),
        labels=np.repeat(
            np.arange(data.num_classes, dtype=np.int32), settings.per_class
        ),
        class_names=data.class_names,
        generators=np.zeros(count, np.int32),
        generator_names=(output.GENERATOR,),
    )
    return pool, dropped


def _digest(image: np.ndarray) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def run(argv: list[str], say: Callable[[str], None]):
    """The whole command: trains, draws, saves."""
    start = time.monotonic()
    request = ddpm_settings.parse(argv)
    out = os.path.abspath(os.path.expanduser(request.out))
    output.check_out(out)
    tf_write = _tf_write() if request.format == "tfds" else None
    data, _ = sources.load_real(
        request.dataset, data_dir=request.data_dir, cache_dir=request.cache_dir
    )
    ddpm_settings.check_images(data, request.dataset)
    settings = ddpm_settings.settle(
        request.given, data.images.shape[1], len(data.labels) // data.num_classes
    )
    devices = jax.local_devices()
    ddpm_settings.check_devices(settings, len(devices))
    source, licence = output.origin(request.dataset, request.data_dir)
    compilation.use_cache(request.cache_dir)

    staging = os.path.join(out, output.STAGING)
    model, flag = staging, f"--out={request.out}"
    if request.model_dir:
        model = os.path.abspath(os.path.expanduser(request.model_dir))
        workdir.check_writable(model, "--model_dir")
    with contextlib.ExitStack() as locks:
        locks.enter_context(output.locked(staging, flag))
        if request.model_dir:
            flag = f"--model_dir={request.model_dir}"
            locks.enter_context(output.locked(model, flag))
        asked = dataclasses.asdict(settings)
        output.claim_training(model, data, asked, flag)
        output.claim_drawing(staging, asked)
        state, losses = diffusion.train(
            settings,
            data,
            say,
            devices=devices,
            folder=model,
            save_every=request.save_every,
        )
        pool, dropped = draw_pool(
            settings,
            state.ema,
            data,
            DIGITS_LEVELS if request.dataset == "digits" else 256,
            say,
            devices=devices,
            keep=output.keeper(staging),
        )
        command = ["python", "-m", "rsmatch_jax.synthesis.ddpm", *argv]
        report = {
            "command": shlex.join(command),
            "settings": asked,
            "final_loss": round(losses.mean(), 4),
            "duplicates_dropped": dropped,
            "versions": {p: importlib.metadata.version(p) for p in PACKAGES},
            "device": devices[0].device_kind,
            "source": source,
            "licence": licence,
        }
        if tf_write:
            output.write_tfds(out, staging, pool, report, tf_write)
        else:
            output.write_arrays(out, pool, report)
        shutil.rmtree(staging)
    say(
        f"{len(pool.labels)} pictures of {pool.num_classes} classes in {out}, "
        f"{time.monotonic() - start:.0f} s; {dropped} duplicates dropped"
    )


def _tf_write():
    try:
        from rsmatch_jax.data.stores import (
            tf_write,  # lazy: array pools need no TensorFlow
        )
    except ImportError as e:
        raise RequestError(
            f"writing a TFDS folder needs TensorFlow and tensorflow-datasets ({e}): "
            "pip install -r requirements.txt, or choose --format=arrays"
        ) from e
    return tf_write


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 the run failed, 2 the request was wrong."""
    argv = sys.argv[1:] if argv is None else argv

    def command():
        try:
            run(argv, say)
        except FloatingPointError as e:
            raise RunFailed(f"{e} and name another --out: it is other training") from e
        except (RuntimeError, OSError) as e:
            full = "RESOURCE_EXHAUSTED" in str(e)
            way_out = "; lower --batch_size or --sampling_batch" if full else ""
            raise RunFailed(f"{e}{way_out}; {GO_ON}") from e

    return exit_code(command, GO_ON, resumable=True)


if __name__ == "__main__":
    sys.exit(main())
