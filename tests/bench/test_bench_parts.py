"""The benches of single parts: what they compute, compare and leave out."""

import dataclasses
import functools
import json
import os
import random
import subprocess
import sys

import jax
import numpy as np
import pytest
from support import benches, pillow_oracle

from rsmatch_jax import data
from rsmatch_jax.augment import on_device as views_on_device
from rsmatch_jax.augment import ops as operations
from rsmatch_jax.augment import views
from rsmatch_jax.bench import __main__ as bench
from rsmatch_jax.bench import augment, predict, queue_cost
from rsmatch_jax.bench import input as input_
from rsmatch_jax.bench.rivals import pillow_views, tf_images
from rsmatch_jax.data import resident, sampler, tf_augment
from rsmatch_jax.methods import csqueue
from rsmatch_jax.runtime import child as processes
from rsmatch_jax.runtime import parallel

SMALL = benches.small(batch=4, ratio=2, classifier="wrn_28_2")
SPEC = views.ViewSpec(flip=True, crop_pad=2, randaugment_ops=3, cutout=True)


def test_queue_rows(monkeypatch):
    """A larger config is cut to the classes that there are."""
    monkeypatch.setattr(queue_cost, "CLASSES", (10, 20))
    selects, push = [], csqueue.push

    def spy(*args, select, **kw):
        selects.append(select)
        return push(*args, select=select, **kw)

    monkeypatch.setattr(csqueue, "push", spy)
    large = "--config.method.rsmatch.queue_classes=100"
    queues, rows = benches.measured(queue_cost.BENCH, *SMALL, large)
    assert set(selects) == {10, 20}
    assert list(rows) == ["push K=10", "push K=20", "sample K=10", "sample K=20"]
    assert queues["figures"] == {}
    for row in rows.values():
        k = row["classes"]
        # 16 images a class, their positions, head and count of each class.
        assert row["queue_bytes"] == k * 16 * (32 * 32 * 3 + 4) + 8 * k
        # Images, positions, head, count, and the number of the step.
        assert row["state_leaves"] == row["aliased_leaves"] == 5
    assert rows["push K=10"]["ratio"] == rows["sample K=10"]["ratio"] == 1


@pytest.mark.parametrize("pad", [0, 1, 7])
def test_pillow_makes_the_views_that_the_device_makes(pad):
    """The contenders do the same work: equal numbers give equal pixels."""
    count, size, spec = 40, 16, dataclasses.replace(SPEC, crop_pad=pad)
    images = pillow_oracle.some_images(count, size)
    drawn = views_on_device.draw(jax.random.key(1), count, spec, True, None)
    tables = views_on_device.make_tables(size, spec)
    strong = jax.jit(functools.partial(views_on_device.strong, spec=spec))
    n = jax.tree.map(np.asarray, drawn)
    pillow = pillow_views.PillowViews(spec)
    want = strong(images, drawn, tables)
    for i, x in enumerate(images):
        ops = [
            (views.OP_NAMES[op], float(views.value(views.OP_NAMES[op], level)))
            for op, level in zip(n.ops[i], n.levels[i], strict=True)
        ]
        share, y, x0 = n.cutout[i] / views.LEVELS
        cutout = (share / 2, *(size + (1 - size) * np.array([y, x0])))
        numbers = pillow_views.Numbers(tuple(n.shift[i]), bool(n.flip[i]), ops, cutout)
        np.testing.assert_array_equal(pillow.view(x, numbers), want[i], str(numbers))


def test_pillow_draws_by_the_same_law():
    rng, pillow = random.Random(0), pillow_views.PillowViews(SPEC)
    drawn = [pillow.draw(rng, 16, strong=True) for _ in range(2000)]
    shifts = np.array([d.shift for d in drawn])
    assert pillow_oracle.uniform(np.bincount(shifts.ravel(), minlength=5)) > 1e-3
    names = [name for d in drawn for name, _ in d.ops]
    counts = [names.count(name) for name in views.OP_NAMES]
    assert sum(counts) == 3 * 2000 and pillow_oracle.uniform(counts) > 1e-3
    for name, low, high in views.OPS:
        values = [v for d in drawn for op, v in d.ops if op == name]
        assert low <= min(values) and max(values) <= high
        assert np.mean(values) == pytest.approx(
            (low + high) / 2, abs=0.1 * (high - low)
        )
    share, y, x = np.array([d.cutout for d in drawn]).T
    assert 0 <= share.min() and 0.45 < share.max() <= 0.5
    assert 1 <= min(y.min(), x.min()) < 1.5 and 15.5 < max(y.max(), x.max()) <= 16


def test_tensorflows_operations_are_those_of_pillow():
    """On a smooth image, so that rounding to a pixel changes little."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:32, :32][..., None]
    image = (20 + 6 * y + 2 * x * np.array([1, 0.5, 0.2])).astype(np.uint8)
    for name, op in tf_images.operations(32).items():
        low, high = next((a, b) for n, a, b in views.OPS if n == name)
        for level in rng.random(5, dtype=np.float32):
            view = op(tf_augment.tf.constant(image), level).numpy().astype(int)
            value = float(low + (high - low) * level)
            error = np.abs(view - pillow_views.apply(name, image, value))
            assert error.mean() < 2 and (error > 8).mean() < 0.1, (name, level)


def test_augment_rows(monkeypatch):
    few = "--config.input.randaugment_ops=2"
    content, rows = benches.measured(augment.BENCH, *SMALL, few)
    kinds = ("weak", "strong, n = 2")
    names = (augment.DEVICE, augment.PILLOW, augment.TF_IMAGES)
    assert set(rows) == {f"{kind}: {name}" for kind in kinds for name in names}
    for row in rows.values():
        assert row["images"] == 8
        assert row["views_per_second"] == pytest.approx(8e3 / row["ms"])
        assert row["contender"] != augment.DEVICE or row["device_speed_ratio"] == 1
    assert set(content["figures"]) == {"C3"} and content["figures"]["C3"]["holds"]
    assert {"pillow", "tensorflow"} <= set(content["versions"])
    monkeypatch.setitem(operations.EXPENSIVE, "equalize", lambda x, *unused: x)
    assert augment.inexact_operations(32) == {"equalize"}


def test_input_rows(monkeypatch):
    """Each step makes another batch of the right size."""
    made, steps = [], []
    shard_rows, make_batch = parallel.shard_rows, resident.make_batch

    def spy_on_step(data, orders, spec, key, step):
        jax.debug.callback(lambda s: steps.append(int(s)), step)
        return make_batch(data, orders, spec, key, step)

    def spy(tree, devices):
        made.append(jax.tree.map(np.shape, tree))
        return shard_rows(tree, devices)

    monkeypatch.setattr(parallel, "shard_rows", spy)
    monkeypatch.setattr(resident, "make_batch", spy_on_step)
    monkeypatch.setattr(input_, "FIRST_STEPS", 2)
    content, rows = benches.measured(input_.BENCH, *SMALL)
    assert list(rows) == [input_.RESIDENT, input_.ORDERS, input_.TFDATA]
    assert content["figures"] == {}
    for row in rows.values():
        assert row["steps_per_second"] == pytest.approx(1e3 / row["ms"])
        assert row["pairs_per_second"] == pytest.approx(8 * row["steps_per_second"])
    assert made[-1].weak == made[-1].strong == (8, 32, 32, 3)
    assert made[-1].lab == (4, 32, 32, 3)
    jax.effects_barrier()
    assert len(steps) >= 4 and sorted(steps) == list(range(len(steps)))


def test_an_epochs_cost_is_spread_over_its_steps(monkeypatch):
    def epochs_take_two_seconds(runs, least_seconds, rounds):
        return {name: np.full(rounds, 2.0) for name in runs}

    monkeypatch.setattr(input_.timing, "in_turns", epochs_take_two_seconds)
    monkeypatch.delattr(data, "tf_pipeline", raising=False)
    monkeypatch.setitem(sys.modules, "rsmatch_jax.data.tf_pipeline", None)
    _, rows = benches.measured(input_.BENCH)
    assert list(rows) == [input_.RESIDENT, input_.ORDERS], "there is no tf.data"
    assert rows[input_.RESIDENT]["ms"] == 2000
    assert rows[input_.ORDERS]["ms"] == 2000 / sampler.STEPS_PER_EPOCH


def test_predict_rows(monkeypatch):
    """The figure is of speeds within a round: 1/2, 3/4 and 1/1; the median counts."""
    interleave = predict.timing.interleave

    def of_known_times(runs, steps, rounds):
        assert list(interleave(runs, steps, 1)) == list(runs)
        times = {predict.COMMAND: [2.0, 4.0, 7.0], predict.READING: [0.1, 0.1, 0.1]}
        times[predict.FORWARD] = [1.0, 3.0, 7.0]
        return {name: np.array(times[name]) for name in runs}

    monkeypatch.setattr(predict.timing, "interleave", of_known_times)
    monkeypatch.setattr(predict, "IMAGES", 5)
    content, rows = benches.measured(predict.BENCH)
    assert set(rows) == {predict.COMMAND, predict.FORWARD, predict.READING}
    assert rows[predict.FORWARD]["ratio"] == 1
    for row in rows.values():
        assert row["images_per_second"] == pytest.approx(5e3 / row["ms"])
    assert set(content["figures"]) == {"predict"}
    assert content["figures"]["predict"]["value"] == 0.75
    assert content["config"]["model"]["classifier"] == "wrn_10_1"


def test_the_networks_alone_return_what_the_command_writes(tmp_path):
    model = predict._model(predict.BENCH.parse(benches.small()))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    paths = predict._write_files(str(tmp_path), images)
    predict._predict(model, paths, str(tmp_path / "out"))
    with open(tmp_path / "out") as f:
        lines = [json.loads(line) for line in f]
    (batch,) = predict._networks(model, images)()
    p = np.asarray(batch["classifier"][1])[:5]
    assert [line["label"] for line in lines] == p.argmax(axis=1).tolist()
    for name, values in (
        ("probability", p.max(axis=1)),
        ("synthetic_score", np.asarray(batch["detector"][1])[:5, 1]),
    ):
        np.testing.assert_allclose([x[name] for x in lines], values, atol=1e-6)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot pin")
def test_the_augmentation_is_measured_on_one_core(monkeypatch, capfd):
    """The child process has one core; this one keeps its cores."""
    before = os.sched_getaffinity(0)
    monkeypatch.setattr(augment.cores, "count", lambda: 2)
    start, seen = subprocess.Popen, []

    def instead(command, **kw):
        seen.append(command)
        return start([sys.executable, "-c", program], **kw)

    monkeypatch.setattr(processes.subprocess, "Popen", instead)
    program = "import os; print('cores', len(os.sched_getaffinity(0)))"
    assert bench.main(["augment", *SMALL]) == 0
    assert "cores 1\n" in capfd.readouterr().out
    assert os.sched_getaffinity(0) == before
    assert seen[0][0] == sys.executable
    assert seen[0][1:] == ["-m", "rsmatch_jax.bench", "augment", *SMALL]
