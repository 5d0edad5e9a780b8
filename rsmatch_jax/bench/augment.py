"""Views a second, made by the device's code, by Pillow and by tf.data.

On a CPU all of them have one core, the same one: the command starts itself again on it,
for threads that are already running would stay where they are.
"""

import dataclasses
import functools
import itertools
import os
import random
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from rsmatch_jax import terminal
from rsmatch_jax.augment import on_device, views
from rsmatch_jax.bench.harness import child, request, results, timing, workload
from rsmatch_jax.bench.harness.results import Limit, interval, number
from rsmatch_jax.bench.rivals import pillow_views, tf_images

DEVICE, PILLOW = "device", "Pillow"
TFDATA = "tf.data in batches"  # this package's own
TF_IMAGES = "tf.data image by image"
LIMITS = {
    "C1": Limit("strong views/s, device / Pillow", 3.0, 5.0, at_least=True),
    "C2": Limit("strong views/s, device / tf.data", 2.5, 4.5, at_least=True),
    "C3": Limit("operations equal to Pillow's", 14, 14, at_least=True),
}
COMPARED_OPS = 2  # operations a strong view in C1 and C2
MEASURED_AT = {
    "train.batch_size": 64,
    "train.unlabeled_ratio": 7,
    "input.flip": True,
    "input.crop_pad": None,
    "input.cutout": True,
}
EXACT_IMAGES = 64  # that each operation is compared on
LEAST_SECONDS = 0.25  # of one contender's turn in a round
ROUNDS = 9


def main(argv: list[str]):
    """Measures, shows two tables, and writes --out=FILE.json."""
    asked = request.parse(argv, request.AS_CONFIGURED)
    workload.build(asked.config, {}, asked.device)  # raises what it would raise later
    if asked.preset == "cpu" and asked.device.platform == "cpu" and _can_pin():
        _again_on_one_core(argv)
        return
    content = measure(asked)
    results.show([_shown(row) for row in content["rows"]])
    results.deliver(asked, content, LIMITS)


def measure(
    asked: request.Request, least_seconds: float = LEAST_SECONDS, rounds: int = ROUNDS
) -> dict[str, Any]:
    """The bench's JSON. Random numbers are part of making a view; images start in
    memory of the contender's kind, and end as one batch there."""
    exp = workload.build(asked.config, {}, asked.device)
    count, size = exp.dims.unlabeled_batch, exp.dims.image_shape[0]
    rng = np.random.default_rng(asked.config.seed)
    images = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    terminal.say(
        f"{count} images of {size} pixels at a time; device: "
        f"{asked.device.device_kind}, host: {results.cores()} core(s)"
    )
    makers = {DEVICE: functools.partial(_device, device=asked.device)}
    rivals = ((PILLOW, _pillow), (TFDATA, _tf_data), (TF_IMAGES, _tf_images))
    for name, available in rivals:
        try:
            makers[name] = available()
        except ImportError as e:
            terminal.say(f"{name}: not measured ({e})")

    rows, runs = [], {}
    kinds = {"weak": 0}
    for ops in sorted({COMPARED_OPS, exp.views.randaugment_ops}):
        kinds[f"strong, n = {ops}"] = ops
    for kind, name in itertools.product(kinds, makers):
        spec = dataclasses.replace(exp.views, randaugment_ops=kinds[kind])
        label, strong = f"{kind}: {name}", kind != "weak"
        runs[label] = makers[name](images, spec, strong)
        rows.append({"row": label, "view": kind, "contender": name, "images": count})
    seconds = workload.in_turns(runs, least_seconds, rounds)
    table = [{**row, **timed_columns(seconds, row)} for row in rows]
    exact = None
    if PILLOW in makers:
        exact = exact_operations(size, asked.device)
        differ = [name for name in views.OP_NAMES if name not in exact]
        if differ:
            terminal.say(f"not equal to Pillow: {', '.join(differ)}")
    found = figures(table, exact, asked, results.cores())
    return results.document(asked, "augment", found, table)


def timed_columns(
    seconds: Mapping[str, np.ndarray], row: Mapping[str, Any]
) -> dict[str, Any]:
    """A row's columns from seconds a batch, {label: float [rounds]}; the ratio says how
    many times as fast the device is, taken within a round."""
    reference = f"{row['view']}: {DEVICE}"
    ratio, _ = timing.ratios(seconds, reference)[row["row"]]
    wall = timing.spread(seconds[row["row"]])
    return {
        **results.wall(wall),
        "views_per_second": row["images"] / wall.median,
        "device_speed_ratio": ratio.median,
        "device_speed_ratio_quartiles": [ratio.low, ratio.high],
    }


def figures(
    table: list[dict[str, Any]],
    exact: list[str] | None,
    asked: request.Request,
    cores: int | None,
) -> dict[str, dict[str, Any]]:
    """{ID: figure} of what was measured: speeds on one core of a CPU and at the sizes
    that the limits were set for alone, equality anywhere.

    exact: operations equal to Pillow's, None without it.
    """
    found, rows = {}, {row["row"]: row for row in table}
    on_cpu = asked.preset == "cpu" and asked.device.platform == "cpu"
    if on_cpu and cores == 1 and workload.holds(asked.config, MEASURED_AT):
        for figure, contender in (("C1", PILLOW), ("C2", TF_IMAGES)):
            row = rows.get(f"strong, n = {COMPARED_OPS}: {contender}")
            if row is not None:
                ratio = row["device_speed_ratio"]
                quartiles = row["device_speed_ratio_quartiles"]
                spread = timing.Spread(ratio, *quartiles)
                found[figure] = LIMITS[figure].figure(ratio, spread)
    if exact is not None:
        found["C3"] = LIMITS["C3"].figure(len(exact))
    return found


def exact_operations(size: int, device: jax.Device) -> list[str]:
    """Names of the operations whose every pixel equals Pillow's, on EXACT_IMAGES random
    images with a random level each. Needs Pillow."""
    spec = views.ViewSpec(flip=False, crop_pad=0, randaugment_ops=1, cutout=False)
    rng, count = np.random.default_rng(0), EXACT_IMAGES
    # Every channel of its own range: on full-range noise some operations do nothing.
    low, high = np.sort(rng.integers(0, 256, (2, count, 1, 1, 3)), axis=0)
    images = rng.integers(low, high + 1, (count, size, size, 3)).astype(np.uint8)
    pillow = pillow_views.PillowViews(spec)
    strong = jax.jit(functools.partial(on_device.strong, spec=spec))
    placed = jax.device_put((images, on_device.make_tables(size, spec)), device)
    exact = []
    for i, name in enumerate(views.OP_NAMES):
        levels = rng.integers(0, views.LEVELS, count, dtype=np.int32)
        drawn = on_device.Numbers(
            shift=np.zeros((count, 2), np.int32),
            flip=np.zeros(count, bool),
            ops=np.full((count, 1), i, np.int32),
            levels=levels[:, None],
            cutout=np.zeros((count, 3), np.int32),
        )
        got = np.asarray(strong(placed[0], drawn, placed[1]))
        values = views.value(name, levels)
        want = [
            pillow.apply(name, x, float(v)) for x, v in zip(images, values, strict=True)
        ]
        if np.array_equal(got, want):
            exact.append(name)
    return exact


def _device(images, spec, strong, device) -> timing.Run:
    """The package's own augmentation; step t's numbers come from a key and t."""

    def make(images, tables, step):
        key = jax.random.fold_in(jax.random.key(0), step)
        numbers = on_device.draw(key, images.shape[0], spec, strong)
        if strong:
            return on_device.strong(images, numbers, tables, spec)
        return on_device.weak(images, numbers, spec)

    tables = on_device.make_tables(images.shape[1], spec)
    placed = jax.device_put((images, tables), device)
    compiled, steps_done = jax.jit(make), itertools.count()

    def run(steps):
        for _ in range(steps):
            made = compiled(*placed, np.int32(next(steps_done)))
        made.block_until_ready()

    return run


def _pillow():
    pillow_views.PillowViews(views.ViewSpec(False, 0, 0, False))  # is it there?

    def maker(images, spec, strong) -> timing.Run:
        pillow, rng = pillow_views.PillowViews(spec), random.Random(0)

        def run(steps):
            for _ in range(steps):
                pillow.batch(images, rng, strong=strong)

        return run

    return maker


def _tf_data():
    from rsmatch_jax.data import tf_augment  # lazy: TensorFlow

    tf = tf_augment.tf

    def maker(images, spec, strong) -> timing.Run:
        images = tf.constant(images)
        purpose = "strong" if strong else "weak"
        view = tf_augment.strong if strong else tf_augment.weak

        def make(step):
            numbers = tf_augment.draw(0, step, purpose, images.shape[0], spec)
            return view(images, numbers, spec)

        options = tf.data.Options()
        options.threading.private_threadpool_size = 1
        options.threading.max_intra_op_parallelism = 1
        make = tf.autograph.experimental.do_not_convert(make)
        # Neither prefetch nor parallel calls: it works in its own turn alone.
        stream = iter(tf.data.Dataset.range(2**40).map(make).with_options(options))

        def run(steps):
            for _ in range(steps):
                next(stream)

        return run

    return maker


def _tf_images():
    from rsmatch_jax.data import tf_augment  # lazy: TensorFlow

    tf = tf_augment.tf

    def maker(images, spec, strong) -> timing.Run:
        made = tf_images.dataset(tf, tf.constant(images), spec, strong=strong)
        stream = iter(made)

        def run(steps):
            for _ in range(steps):
                next(stream)

        return run

    return maker


def _can_pin() -> bool:
    return hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > 1


def _again_on_one_core(argv: list[str]):
    """The same command in a process that has one of this one's cores. Raises RunFailed
    where that fails; it has said why."""
    code = child.run("augment", argv[1:], core=max(os.sched_getaffinity(0)))
    child.require_success(code, "the process on one core")


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "view": row["row"],
        "ms/batch": number(row["ms"]),
        "quartiles": interval(row["ms_quartiles"]),
        "views/s": number(row["views_per_second"], 0),
        "device is faster by": number(row["device_speed_ratio"]),
        "its quartiles": interval(row["device_speed_ratio_quartiles"]),
    }
