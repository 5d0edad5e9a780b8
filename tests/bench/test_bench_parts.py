"""The benches of single parts: what they compute, compare and leave out."""

import functools
import json
import os
import random
import subprocess
import sys

import jax
import numpy as np
import pytest
from support import fresh_process, pillow_oracle

from rsmatch_jax import data
from rsmatch_jax.augment import on_device as views_on_device
from rsmatch_jax.augment import ops as operations
from rsmatch_jax.augment import views
from rsmatch_jax.bench import __main__ as bench
from rsmatch_jax.bench import augment, queue_cost
from rsmatch_jax.bench import input as input_
from rsmatch_jax.bench.harness import request, results
from rsmatch_jax.bench.rivals import pillow_views, tf_images
from rsmatch_jax.data import resident, sampler, tf_augment
from rsmatch_jax.methods import csqueue
from rsmatch_jax.runtime import child as processes
from rsmatch_jax.runtime import parallel

SMALL = (
    "--preset=cpu",
    "--config.train.batch_size=4",
    "--config.train.unlabeled_ratio=2",
)
SPEC = views.ViewSpec(flip=True, crop_pad=2, randaugment_ops=3, cutout=True)
TOP = {"bench", "command", "device", "versions", "preset", "precision", "config"}
TOP |= {"figures", "rows"}
FIGURE = {"value", "unit", "must", "goal", "holds", "spread"}


def asked(*flags):
    return request.parse(["bench", *flags], request.AS_CONFIGURED)


def rows_of(content):
    assert set(content) == TOP
    json.dumps(content)
    for row in content["rows"]:
        low, high = row["ms_quartiles"]
        assert 0 < low <= row["ms"] <= high
    return {row["row"]: row for row in content["rows"]}


# The queue.


@pytest.fixture(scope="module")
def queues():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queue_cost, "CLASSES", (10, 20))
        patch.setattr(queue_cost, "COPIED", (20,))
        flags = (*SMALL, "--config.method.rsmatch.queue_classes=5")
        return queue_cost.measure(asked(*flags), least_seconds=0.0, rounds=2)


def test_queue_rows(queues):
    rows = rows_of(queues)
    pushes = ["push K=10", "push K=20", "push K=20, not donated"]
    assert list(rows) == [*pushes, "sample K=10", "sample K=20"]
    assert queues["figures"] == {}
    for label, row in rows.items():
        k = row["classes"]
        # 16 images a class, their positions, head and count of each class.
        assert row["queue_bytes"] == k * 16 * (32 * 32 * 3 + 4) + 8 * k
        # Images, positions, head, count, and the number of the step.
        assert row["state_leaves"] == 5
        assert row["aliased_leaves"] == (0 if "not donated" in label else 5)
    assert rows["push K=10"]["ratio"] == rows["sample K=10"]["ratio"] == 1


def test_a_larger_config_is_cut_to_the_classes_there_are(monkeypatch):
    monkeypatch.setattr(queue_cost, "CLASSES", (10, 20))
    monkeypatch.setattr(queue_cost, "COPIED", ())
    selects, push = [], csqueue.push

    def spy(*args, select, **kw):
        selects.append(select)
        return push(*args, select=select, **kw)

    monkeypatch.setattr(csqueue, "push", spy)
    flags = (*SMALL, "--config.method.rsmatch.queue_classes=100")
    queue_cost.measure(asked(*flags), least_seconds=0.0, rounds=1)
    assert set(selects) == {10, 20}


def test_queue_ratios_of_known_times():
    seconds = {
        "push K=10": np.array([0.1, 1.0, 0.2]),
        "push K=1000": np.array([0.3, 5.0, 0.4]),
        "sample K=10": np.array([9.0, 9.0, 9.0]),
    }
    got = queue_cost.timed_columns(seconds, "push K=1000")
    assert got["ratio"] == pytest.approx(3)
    assert got["ratio_quartiles"] == pytest.approx([2.5, 4])
    assert got["ms"] == pytest.approx(400)

    table = [{"row": "push K=1000", **got}]
    figures = queue_cost.figures(table, asked("--preset=cpu").config, "cpu", "cpu")
    assert set(figures) == {"C5"} and set(figures["C5"]) == FIGURE
    assert figures["C5"]["value"] == pytest.approx(3) and figures["C5"]["holds"]
    assert (figures["C5"]["must"], figures["C5"]["goal"]) == (4, 2)
    assert figures["C5"]["spread"] == pytest.approx([2.5, 4])

    config = asked("--preset=cpu").config
    assert queue_cost.figures(table, config, "cpu", "gpu") == {}
    assert queue_cost.figures(table, config, "gpu", "cpu") == {}
    other = asked("--preset=cpu", "--config.method.rsmatch.queue_push=2").config
    assert queue_cost.figures(table, other, "cpu", "cpu") == {}


# The augmentation.


def test_pillow_makes_the_views_that_the_device_makes():
    """The contenders do the same work: equal numbers give equal pixels."""
    count, size = 40, 16
    images = pillow_oracle.some_images(count, size)
    drawn = views_on_device.draw(jax.random.key(1), count, SPEC, True)
    tables = views_on_device.make_tables(size, SPEC)
    strong = jax.jit(functools.partial(views_on_device.strong, spec=SPEC))
    n = jax.tree.map(np.asarray, drawn)
    pillow = pillow_views.PillowViews(SPEC)
    want = strong(images, drawn, tables)
    for i, x in enumerate(images):
        ops = [
            (views.OP_NAMES[op], float(views.value(views.OP_NAMES[op], level)))
            for op, level in zip(n.ops[i], n.levels[i], strict=True)
        ]
        share, y, x0 = n.cutout[i] / views.LEVELS
        centre = size + (1 - size) * np.array([y, x0])
        numbers = pillow_views.Numbers(
            tuple(n.shift[i]), bool(n.flip[i]), ops, (share / 2, *centre)
        )
        np.testing.assert_array_equal(pillow.view(x, numbers), want[i], str(numbers))


@pytest.mark.parametrize("pad", [0, 1, 7])
def test_pillow_crops_after_reflection(pad):
    images = pillow_oracle.some_images(6, 8)
    spec = views.ViewSpec(True, pad, 0, False)
    rng, pillow = random.Random(0), pillow_views.PillowViews(spec)
    seen = set()
    for image in np.repeat(images, 24, axis=0):
        numbers = pillow.draw(rng, 8, strong=False)
        want = pillow_oracle.crop_by_numpy(image, numbers.shift, numbers.flip, pad)
        np.testing.assert_array_equal(pillow.view(image, numbers), want)
        seen.add((numbers.flip, *numbers.shift))
    assert len(seen) >= min(2 * (2 * pad + 1) ** 2, 20)


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


def test_operations_equal_to_pillow_are_counted(monkeypatch):
    exact = functools.partial(
        augment.exact_operations, size=32, device=jax.local_devices()[0]
    )
    assert exact() == list(views.OP_NAMES)
    for broken, name in (
        ("_autocontrast", "autocontrast"),
        ("_equalize", "equalize"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(operations, broken, lambda x, *unused: x)
            assert exact() == [other for other in views.OP_NAMES if other != name]


def test_tensorflows_operations_are_those_of_pillow():
    """But for rounding: a smooth image, so that half a pixel is little. They are the
    rival's, so that speed is compared with work of the same kind."""
    rng, pillow = np.random.default_rng(1), pillow_views.PillowViews(SPEC)
    y, x = np.mgrid[:32, :32][..., None]
    image = (20 + 6 * y + 2 * x * np.array([1, 0.5, 0.2])).astype(np.uint8)
    for name, op in tf_images.operations(tf_augment.tf, 32).items():
        low, high = next((a, b) for n, a, b in views.OPS if n == name)
        for level in rng.random(5, dtype=np.float32):
            got = op(tf_augment.tf.constant(image), level).numpy().astype(int)
            want = pillow.apply(name, image, float(low + (high - low) * level))
            error = np.abs(got - want)
            assert error.mean() < 2 and (error > 8).mean() < 0.1, (name, level)


def test_figures_of_the_augmentation():
    seconds = {
        "strong, n = 2: device": np.array([0.1, 1.0, 0.2]),
        "strong, n = 2: Pillow": np.array([0.4, 6.0, 0.4]),
    }
    table = []
    for contender in (augment.DEVICE, augment.PILLOW):
        row = {"row": f"strong, n = 2: {contender}", "view": "strong, n = 2"}
        row |= {"contender": contender, "images": 448}
        table.append({**row, **augment.timed_columns(seconds, row)})
    assert table[1]["device_speed_ratio"] == pytest.approx(4)
    assert table[1]["device_speed_ratio_quartiles"] == pytest.approx([3, 5])
    assert table[1]["views_per_second"] == pytest.approx(448 / 0.4)
    assert table[0]["device_speed_ratio"] == 1

    paper = asked("--preset=cpu")
    got = augment.figures(table, ["identity"] * 13, paper, cores=1)
    assert set(got) == {"C1", "C3"}, "tf.data was not measured"
    assert set(got["C1"]) == FIGURE and got["C1"]["holds"]
    assert got["C1"]["value"] == pytest.approx(4)
    assert got["C1"]["spread"] == pytest.approx([3, 5])
    assert got["C3"]["value"] == 13 and not got["C3"]["holds"]

    assert set(augment.figures(table, None, paper, cores=1)) == {"C1"}
    assert augment.figures(table, None, paper, cores=2) == {}
    small = asked(*SMALL)
    assert augment.figures(table, None, small, cores=1) == {}
    assert augment.figures(table, None, asked("--preset=gpu"), cores=1) == {}


def test_augment_rows():
    flags = (*SMALL, "--config.input.randaugment_ops=2")
    content = augment.measure(asked(*flags), least_seconds=0.0, rounds=2)
    rows = rows_of(content)
    kinds = ("weak", "strong, n = 2")
    names = (augment.DEVICE, augment.PILLOW, augment.TFDATA, augment.TF_IMAGES)
    assert set(rows) == {f"{kind}: {name}" for kind in kinds for name in names}
    assert all(row["images"] == 8 for row in rows.values())
    assert set(content["figures"]) == {"C3"} and content["figures"]["C3"]["holds"]
    assert {"pillow", "tensorflow"} <= set(content["versions"])


# The input.


def test_input_rows(monkeypatch):
    """And what is timed are batches of the sizes asked for, another one each step."""
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
    content = input_.measure(asked(*SMALL), 64, least_seconds=0.0, rounds=2)
    rows = rows_of(content)
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

    monkeypatch.setattr(input_.workload, "in_turns", epochs_take_two_seconds)
    monkeypatch.delattr(data, "tf_pipeline", raising=False)
    monkeypatch.setitem(sys.modules, "rsmatch_jax.data.tf_pipeline", None)
    rows = rows_of(input_.measure(asked(*SMALL), 64))
    assert list(rows) == [input_.RESIDENT, input_.ORDERS], "there is no tf.data"
    assert rows[input_.RESIDENT]["ms"] == 2000
    assert rows[input_.ORDERS]["ms"] == 2000 / sampler.STEPS_PER_EPOCH


# The commands.


@pytest.mark.parametrize("name", ["augment", "input", "queue"])
@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config.train.batch_size=0", ["train.batch_size=0", "1 or more"]),
        ("--config.input.crop_pad=32", ["input.crop_pad=32", "at most 31"]),
        ("--out=nowhere/figures.json", ["nowhere", "no folder"]),
    ],
)
def test_wrong_requests_end_before_anything_is_measured(name, flag, words, capsys):
    assert bench.main(["bench", name, "--preset=cpu", flag]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and all(word in error for word in words)


def test_without_tensorflow_and_pillow(tmp_path):
    """In a process that cannot import them, on one core, with a single round."""
    program = f"""
    import os
    import sys

    NAMES = ("tensorflow", "tensorflow_datasets", "clu", "orbax", "PIL", "matplotlib")
    sys.modules.update(dict.fromkeys(NAMES))
    sys.path[:0] = [".", "tests"]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {{max(os.sched_getaffinity(0))}})
    import conftest
    from rsmatch_jax.bench import __main__ as bench, augment
    from rsmatch_jax.bench.harness import timing

    timing.warm_up = lambda run, least: (run(1), (1, 0.0))[1]
    augment.measure.__defaults__ = (0.0, 1)
    out = "--out={tmp_path}/figures.json"
    sys.exit(bench.main(["bench", "augment", *{SMALL!r}, out]))
    """
    said = fresh_process.run(program)
    assert "tf.data in batches: not measured" in said
    assert "Pillow: not measured" in said
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written["figures"] == {}
    kinds = ("weak", "strong, n = 2", "strong, n = 3")
    assert [row["row"] for row in written["rows"]] == [f"{k}: device" for k in kinds]
    assert all(row["device_speed_ratio"] == 1 for row in written["rows"])


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot pin")
def test_the_augmentation_is_measured_on_one_core(monkeypatch, capfd):
    """In a process of its own, that has one core from its start on; this one keeps its
    cores, and hears of the other's end."""
    before = os.sched_getaffinity(0)
    monkeypatch.setattr(augment, "_can_pin", lambda: True)
    start, seen = subprocess.Popen, []

    def instead(command, **kw):
        seen.append(command)
        return start([sys.executable, "-c", program], **kw)

    monkeypatch.setattr(processes.subprocess, "Popen", instead)
    ask = "import os; print('cores', len(os.sched_getaffinity(0))); raise SystemExit"
    for end in (0, 3):
        program = f"{ask}({end})"
        assert bench.main(["bench", "augment", *SMALL]) == (1 if end else 0)
        out, err = capfd.readouterr()
        assert "cores 1\n" in out and ("ended with 3" in err) == bool(end)
    assert os.sched_getaffinity(0) == before
    assert seen[0][0] == sys.executable
    assert seen[0][1:] == ["-m", "rsmatch_jax.bench", "augment", *SMALL]


def test_tables_are_shown(capsys, queues):
    """Each bench's row turns into a line with its name."""
    results.show([queue_cost._shown(row) for row in queues["rows"]])
    text = capsys.readouterr().out
    assert all(f"| {row['row']} " in text for row in queues["rows"])
    assert "0/5" in text and "5/5" in text
