"""Counts views per second, made by the device's code, by Pillow and by tf.data.

On a CPU all of them use the same single core. The command then starts itself again on
that core, because running threads would stay on theirs.
"""

import dataclasses
import functools
import itertools
import os
import random
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rsmatch_jax import terminal
from rsmatch_jax.augment import on_device, views
from rsmatch_jax.bench.harness import command_line, frame, timing, workload
from rsmatch_jax.runtime import cores

DEVICE, PILLOW, TF_IMAGES = "device", "Pillow", "tf.data image by image"
MEASURED_AT = {
    **workload.PAPER,
    "input.flip": True,
    "input.crop_pad": None,
    "input.cutout": True,
}
COMPARED_OPS = 2  # operations per strong view in C1 and C2
_limit = functools.partial(
    frame.Limit,
    at_least=True,
    column="device_speed_ratio",
    at={"cpu": MEASURED_AT},
    one_core=True,
)
_STRONG, _VIEWS = f"strong, n = {COMPARED_OPS}", "strong views/s, device"
_EQUAL = "operations equal to Pillow's"
LIMITS = {
    "C1": _limit(f"{_VIEWS} / Pillow", 3.0, 5.0, row=f"{_STRONG}: {PILLOW}"),
    "C2": _limit(f"{_VIEWS} / tf.data", 2.5, 4.5, row=f"{_STRONG}: {TF_IMAGES}"),
    "C3": frame.Limit(_EQUAL, 14, 14, at_least=True, any_device=True),
}
EXACT_IMAGES = 64  # per operation
LEAST_SECONDS = 0.25  # of one contender's turn in a round
ROUNDS = 9


def measure(request: frame.Request) -> frame.Measured:
    """Times every installed contender, drawing of random numbers included. Images start
    in the memory in which the contender works, and end there as one batch."""
    exp = workload.build(request.config, {}, request.device)
    count, size = exp.dims.unlabeled_batch, exp.dims.image_shape[0]
    rng = np.random.default_rng(request.config.seed)
    images = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    strengths = sorted({COMPARED_OPS, exp.views.randaugment_ops})
    kinds = {"weak": 0, **{f"strong, n = {ops}": ops for ops in strengths}}
    makers = {DEVICE: _device, PILLOW: _pillow, TF_IMAGES: _tf_images}
    runs = {}
    for name, make in makers.items():
        try:
            for kind, ops in kinds.items():
                spec = dataclasses.replace(exp.views, randaugment_ops=ops)
                runs[f"{kind}: {name}"] = make(images, spec, kind != "weak")
        except ImportError as e:
            terminal.say(f"{name}: not measured ({e})")
    seconds = timing.in_turns(runs, LEAST_SECONDS, ROUNDS)
    table = []
    for kind, name in itertools.product(kinds, makers):
        if f"{kind}: {name}" in runs:
            times, device = seconds[f"{kind}: {name}"], seconds[f"{kind}: {DEVICE}"]
            row: frame.Row = {"row": f"{kind}: {name}", "view": kind}
            row |= {"contender": name, "images": count, **timing.timed(times)}
            row["views_per_second"] = 1e3 * count / row["ms"]
            table.append(row | timing.columns("device_speed_ratio", times / device))
    if f"weak: {PILLOW}" not in runs:
        return table, {}
    differ = inexact_operations(size)
    if differ:
        terminal.say(f"not equal to Pillow: {', '.join(sorted(differ))}")
    return table, {"C3": len(views.OP_NAMES) - len(differ)}


def inexact_operations(size: int) -> set[str]:
    """Names of the operations with a pixel that differs from Pillow's, on EXACT_IMAGES
    random images with a random level each. Needs Pillow."""
    from rsmatch_jax.bench.rivals import pillow_views  # lazy: Pillow

    spec = views.ViewSpec(flip=False, crop_pad=0, randaugment_ops=1, cutout=False)
    ops = np.repeat(np.arange(len(views.OPS), dtype=np.int32), EXACT_IMAGES)
    rng, count = np.random.default_rng(0), len(ops)
    # A random range per channel: on full-range noise some operations do nothing.
    low, high = np.sort(rng.integers(0, 256, (2, count, 1, 1, 3)), axis=0)
    images = rng.integers(low, high + 1, (count, size, size, 3)).astype(np.uint8)
    levels = rng.integers(0, views.LEVELS, count, dtype=np.int32)
    drawn = on_device.Numbers(
        shift=jnp.zeros((count, 2), jnp.int32),
        flip=jnp.zeros(count, bool),
        ops=jnp.asarray(ops[:, None]),
        levels=jnp.asarray(levels[:, None]),
        cutout=jnp.zeros((count, 3), jnp.int32),
    )
    strong = jax.jit(functools.partial(on_device.strong, spec=spec))
    made = np.asarray(strong(images, drawn, on_device.make_tables(size, spec)))
    differ = set()
    for op, level, image, view in zip(ops, levels, images, made, strict=True):
        name = views.OP_NAMES[op]
        value = float(views.value(name, level))
        if not np.array_equal(view, pillow_views.apply(name, image, value)):
            differ.add(name)
    return differ


def _device(images, spec, strong) -> timing.Run:
    """This package's augmentation; the numbers of step t come from a key and t."""

    def make(images, tables, step):
        key = jax.random.fold_in(jax.random.key(0), step)
        numbers = on_device.draw(key, images.shape[0], spec, strong, axis=None)
        if strong:
            return on_device.strong(images, numbers, tables, spec)
        return on_device.weak(images, numbers, spec)

    tables = on_device.make_tables(images.shape[1], spec)
    placed = jax.device_put((images, tables))
    compiled, steps = jax.jit(make), itertools.count()
    return timing.repeat(lambda: compiled(*placed, np.int32(next(steps))))


def _pillow(images, spec, strong) -> timing.Run:
    from rsmatch_jax.bench.rivals import pillow_views  # lazy: Pillow

    pillow, rng = pillow_views.PillowViews(spec), random.Random(0)

    def batch():
        made = [pillow.view(x, pillow.draw(rng, len(x), strong)) for x in images]
        return np.stack(made)

    return timing.repeat(batch)


def _tf_images(images, spec, strong) -> timing.Run:
    from rsmatch_jax.bench.rivals import tf_images  # lazy: TensorFlow

    stream = iter(tf_images.dataset(images, spec, strong=strong))
    return timing.repeat(lambda: next(stream))


def _on_one_core(argv: Sequence[str]) -> dict[str, int] | None:
    """The core of the child process; None if this process does as well."""
    request = BENCH.parse(argv)
    workload.build(request.config, {}, request.device)  # refuses what cannot work
    on_cpu = request.preset == request.device.platform == "cpu"
    if on_cpu and cores.count() > 1 and hasattr(os, "sched_setaffinity"):
        return {"core": max(os.sched_getaffinity(0))}
    return None


TABLE = ("row", "ms", "views_per_second", "device_speed_ratio")
BENCH = frame.Bench(
    "augment",
    measure,
    TABLE,
    LIMITS,
    presets=command_line.AS_CONFIGURED,
    rerun=_on_one_core,
)
