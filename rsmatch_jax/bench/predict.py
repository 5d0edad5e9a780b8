"""Compares the predict command with its networks alone.

The command goes from image files to JSON lines, after it has started, loaded the run
and compiled. The networks take batches that lie on the device. Random weights, PNG
files of random pixels in a temporary folder. Needs Pillow and Orbax.
"""

import collections
import os
import tempfile
from collections.abc import Callable, Sequence

import jax
import numpy as np

from rsmatch_jax import terminal
from rsmatch_jax.bench.harness import frame, timing, workload

COMMAND, FORWARD = "files to JSON lines", "networks alone"
READING = "reading alone"
NETWORKS = {"model.classifier": "wrn_10_1", "model.detector": "wrn_10_1"}
PRESETS = {"cpu": NETWORKS, "gpu": NETWORKS}
_WHAT = "images/s, whole command / networks"
_AT = {"at": PRESETS, "any_device": True, "row": COMMAND, "column": "speed_ratio"}
LIMITS = {"predict": frame.Limit(_WHAT, 0.7, 0.9, at_least=True, **_AT)}
IMAGES = 10_000  # the number for which the limit was set
ROUNDS = 5


def measure(request: frame.Request) -> frame.Measured:
    """Times both, and reading the files, on all images in each round."""
    from rsmatch_jax.data.images import image_files  # lazy: Pillow

    model = _model(request)
    size = model.image_size
    terminal.say(f"{IMAGES} PNG files of {size} pixels, {model.batch_size} at a time")
    rng = np.random.default_rng(request.config.seed)
    images = rng.integers(0, 256, (IMAGES, size, size, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        paths = _write_files(folder, images)
        out = os.path.join(folder, "lines.jsonl")

        def read():
            batches = image_files.batches(paths, size, model.batch_size)
            collections.deque(batches, maxlen=0)

        runs = {
            COMMAND: timing.repeat(lambda: _predict(model, paths, out)),
            FORWARD: timing.repeat(_networks(model, images)),
            READING: timing.repeat(read),
        }
        for run in runs.values():
            run(1)  # compiles
        seconds = timing.interleave(runs, dict.fromkeys(runs, 1), ROUNDS)
    table, reference = [], seconds[FORWARD]
    for name, times in seconds.items():
        row = {"row": name, "images": IMAGES, **timing.timed(times, reference, IMAGES)}
        table.append(row | timing.columns("speed_ratio", reference / times))
    return table, {}


def _model(request: frame.Request):
    from rsmatch_jax.deploy import frozen, saved  # lazy: Orbax

    exp = workload.build(request.config, {}, request.device)
    return frozen.Model(
        saved.Saved(
            folder="random weights",
            step=0,
            exp=exp,
            state=exp.init_state(),
            dataset=request.config.data.name,
            class_names=tuple(map(str, range(exp.dims.num_classes))),
            generator_names=(),
        )
    )


def _write_files(folder: str, images: np.ndarray) -> list[str]:
    from PIL import Image  # lazy: few benches need it

    paths = [os.path.join(folder, f"{i}.png") for i in range(len(images))]
    for path, pixels in zip(paths, images, strict=True):
        Image.fromarray(pixels).save(path)
    return paths


def _predict(model, paths: Sequence[str], out: str):
    """What the command does once it has loaded the run."""
    from rsmatch_jax import predict  # lazy: Orbax, Pillow

    with open(out, "w", encoding="utf-8") as lines:
        predict.run(model, paths, lines)


def _networks(model, images: np.ndarray) -> Callable[[], list[dict]]:
    """A function that returns the features and probabilities of all batches. The
    batches already lie on the device, the last one padded."""
    size, device = model.batch_size, model.run.exp.devices[0]
    padding = [(0, -len(images) % size), (0, 0), (0, 0), (0, 0)]
    padded = np.pad(images, padding).reshape(-1, size, *images.shape[1:])
    batches = [jax.device_put(batch, device) for batch in padded]
    program = model.program(model.parts, size)
    return lambda: [program(batch) for batch in batches]


TABLE = ("row", "ms", "images_per_second", "ratio")
BENCH = frame.Bench("predict", measure, TABLE, LIMITS, presets=PRESETS)
