"""Whether predicting waits for the networks or for Python: what the command does from
image files to JSON lines, once it has started, loaded the run and compiled, beside the
same networks on batches that are on the device.

Random weights, PNG files of random pixels in a temporary folder. Needs Pillow, Orbax.
"""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from rsmatch_jax import terminal
from rsmatch_jax.bench.harness import request, results, timing, workload
from rsmatch_jax.bench.harness.results import Limit, interval, number
from rsmatch_jax.runtime import compilation

COMMAND, FORWARD = "files to JSON lines", "networks alone"
READING = "reading alone"
LIMITS = {
    "predict": Limit("images/s, whole command / networks", 0.7, 0.9, at_least=True),
}
NETWORKS = {"model.classifier": "wrn_10_1", "model.detector": "wrn_10_1"}
PRESETS = {"cpu": NETWORKS, "gpu": NETWORKS}
IMAGES = 10_000
ROUNDS = 5


def main(argv: list[str]):
    """Measures, shows two tables, and writes --out=FILE.json."""
    asked = request.parse(argv, PRESETS)
    content = measure(asked)
    results.show([_shown(row) for row in content["rows"]])
    results.deliver(asked, content, LIMITS)


def measure(
    asked: request.Request, count: int = IMAGES, rounds: int = ROUNDS
) -> dict[str, Any]:
    """The bench's JSON; count: images, which every round takes all."""
    model = _model(asked)
    parts = ", ".join(f"{name} {n:,}" for name, n in _parameters(model).items())
    terminal.say(
        f"{count} PNG files of {model.image_size} pixels, {model.batch_size} at a "
        f"time; parameters: {parts}; device: {asked.device.device_kind}, host: "
        f"{results.cores()} cores"
    )
    rng = np.random.default_rng(asked.config.seed)
    shape = (count, model.image_size, model.image_size, 3)
    images = rng.integers(0, 256, shape, dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        paths = _write_files(folder, images)
        runs = {
            COMMAND: _command(model, paths, os.path.join(folder, "lines.jsonl")),
            FORWARD: _forward(model, images),
            READING: _reading(model, paths),
        }
        for run in runs.values():
            run(1)  # compiles
        seconds = timing.interleave(runs, dict.fromkeys(runs, 1), rounds)
    table = [
        {
            "row": name,
            "images": count,
            **results.timed(seconds, name, FORWARD),
            "images_per_second": count / timing.spread(of).median,
        }
        for name, of in seconds.items()
    ]
    return results.document(asked, "predict", figures(seconds, asked, count), table)


def figures(
    seconds: Mapping[str, np.ndarray], asked: request.Request, count: int
) -> dict[str, dict[str, Any]]:
    """{ID: figure}, with the networks and the number of images of the limit alone."""
    if count != IMAGES or not workload.holds(asked.config, NETWORKS):
        return {}
    _, speed = timing.ratios(seconds, FORWARD)[COMMAND]
    return {"predict": LIMITS["predict"].figure(speed.median, speed)}


def _model(asked: request.Request):
    from rsmatch_jax.deploy import frozen, saved  # lazy: Orbax

    exp = workload.build(asked.config, {}, asked.device)
    names = tuple(map(str, range(exp.dims.num_classes)))
    return frozen.Model(
        saved.Saved(
            folder="random weights",
            step=0,
            exp=exp,
            state=exp.init_state(),
            dataset=asked.config.data.name,
            class_names=names,
            generator_names=(),
        )
    )


def _parameters(model) -> dict[str, int]:
    return {
        name: sum(leaf.size for leaf in jax.tree.leaves(part.params))
        for name, part in model.parts.items()
    }


def _write_files(folder: str, images: np.ndarray) -> list[str]:
    from PIL import Image  # lazy: no other bench needs it

    paths = []
    for number_, pixels in enumerate(images):
        paths.append(os.path.join(folder, f"{number_}.png"))
        Image.fromarray(pixels).save(paths[-1])
    return paths


def _command(model, paths: Sequence[str], out: str) -> timing.Run:
    from rsmatch_jax import predict  # lazy: Orbax, Pillow

    def run(times):
        for _ in range(times):
            with open(out, "w", encoding="utf-8") as lines:
                predict.run(model, paths, lines)

    return run


def _forward(model, images: np.ndarray) -> timing.Run:
    networks = _networks(model, images)

    def run(times):
        for _ in range(times):
            jax.block_until_ready(networks())

    return run


def _networks(model, images: np.ndarray) -> Callable[[], list[dict[str, jax.Array]]]:
    """A function for the probabilities of all batches, which are on the device before
    it is called, the last one padded."""
    size = model.batch_size
    padding = [(0, -len(images) % size), (0, 0), (0, 0), (0, 0)]
    padded = np.pad(images, padding).reshape(-1, size, *images.shape[1:])
    device = model.run.exp.devices[0]
    batches = [jax.device_put(batch, device) for batch in padded]
    variables = {name: part.variables for name, part in model.parts.items()}

    def forward(variables, batch):
        return {
            name: part.outputs(variables[name], batch)[1]
            for name, part in model.parts.items()
        }

    program = compilation.compiled(
        jax.jit(forward).lower(variables, batches[0]), device.platform
    )

    return lambda: [program(variables, batch) for batch in batches]


def _reading(model, paths: Sequence[str]) -> timing.Run:
    from rsmatch_jax.data.images import image_files  # lazy: Pillow

    def run(times):
        for _ in range(times):
            for _ in image_files.batches(paths, model.image_size, model.batch_size):
                pass

    return run


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "predict": row["row"],
        "s": number(row["ms"] / 1e3),
        "images/s": number(row["images_per_second"], 0),
        "time / networks'": number(row["ratio"]),
        "its quartiles": interval(row["ratio_quartiles"]),
    }
