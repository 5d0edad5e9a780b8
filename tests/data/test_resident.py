"""Input from the device: tf.data's images on any devices, several steps a dispatch."""

import dataclasses

import jax
import numpy as np
import pytest
from support.helpers import TINY, build, config, leaves

from rsmatch_jax.augment import on_device, views
from rsmatch_jax.data import resident, sampler
from rsmatch_jax.engine import experiment, feed
from rsmatch_jax.runs import history
from rsmatch_jax.runtime import parallel

SPEC = views.ViewSpec(flip=True, crop_pad=2, randaugment_ops=2, cutout=True)


def batches(exp, task, steps, devices, candidates=None, **options):
    """Global batches of the steps, as numpy, made under pmap on that many devices."""
    chosen = jax.local_devices()[:devices]
    data = resident.gather(task, SPEC, oracle=True, unlabelled=True)
    data = parallel.replicate(data, chosen)
    made = []

    def program(data, orders, key, step, rank):
        return resident.make_batch(data, orders, SPEC, key, step, **options)

    axes = (None, None, None, None, 0)
    program = jax.pmap(program, axis_name=parallel.AXIS, in_axes=axes, devices=chosen)
    for step in steps:
        epoch = step // sampler.STEPS_PER_EPOCH
        orders = resident.epoch_orders(
            exp.config.seed, epoch, exp.dims, candidates=candidates
        )
        dealt = program(
            data,
            parallel.replicate(orders, chosen),
            parallel.replicate(jax.random.key(exp.config.seed), chosen),
            np.int32(step),
            parallel.ranks(chosen),
        )
        made.append(jax.tree.map(parallel.collect, jax.device_get(dealt)))
    return made


@pytest.mark.parametrize("devices", [1, 4])
def test_a_batch_has_the_samplers_images_and_the_augmentations_views(devices):
    """The oracle calls the augmentation on the host's choice of images; the steps go
    beyond an epoch's end."""
    _, task, exp = build(seed=3)
    d = exp.dims
    steps = [0, 5, 1023, 1024]
    assert batches(exp, task, [0], devices)[0].weak2 is None
    made = batches(exp, task, steps, devices, weak_views=2)
    weak, strong = (
        jax.jit(f, static_argnames="spec") for f in (on_device.weak, on_device.strong)
    )
    for step, batch in zip(steps, made, strict=True):
        at = sampler.step_indices(3, "unlabelled", step, d.num_unlabeled, 8)
        lab_at = sampler.step_indices(3, "labelled", step, d.num_labeled, 4)
        np.testing.assert_array_equal(batch.indices, at)
        np.testing.assert_array_equal(batch.lab_indices, lab_at)
        np.testing.assert_array_equal(batch.labels, task.lab_labels[lab_at])
        np.testing.assert_array_equal(batch.synthetic, task.unl_synthetic[at])
        root = jax.random.fold_in(jax.random.key(3), resident._VIEWS)
        keys = [jax.random.fold_in(jax.random.fold_in(root, i), step) for i in range(4)]
        images, lab_images = task.unl_images[at], task.lab_images[lab_at]
        tables = on_device.make_tables(images.shape[1], SPEC)
        lab_numbers = on_device.draw(keys[0], 4, SPEC, False, None)
        numbers = [on_device.draw(keys[i], 8, SPEC, i == 2, None) for i in (1, 2, 3)]
        want = {
            "lab": weak(lab_images, lab_numbers, spec=SPEC),
            "weak": weak(images, numbers[0], spec=SPEC),
            "strong": strong(images, numbers[1], tables, spec=SPEC),
            "weak2": weak(images, numbers[2], spec=SPEC),
        }
        assert (batch.weak2 != batch.weak).any(axis=(1, 2, 3)).mean() > 0.5
        for name, view in want.items():
            assert getattr(batch, name).dtype == np.uint8
            np.testing.assert_array_equal(getattr(batch, name), view, name)


@pytest.mark.parametrize("real_only", [False, True])
def test_fixed_numbers_of_real_and_synthetic_images(real_only):
    """Both inputs deal the same images, 3 of 8 of them real or, without the synthetic
    ones, these 3 alone."""
    keys = {"train.real_rows": 3, "data.real_only": real_only}
    _, task, exp = build(**keys)
    synthetic = task.unl_synthetic
    assert synthetic.any() != real_only
    on_host, on_chip = feed.TfDataFeed(exp, task), feed.ResidentFeed(exp, task, 1)
    for step in range(3):
        (_, orders), _ = on_chip.inputs(step)
        dealt = parallel.collect(on_host.inputs(step)[0].indices)
        rows = jax.device_get(orders["unlabelled"])[step]
        np.testing.assert_array_equal(dealt, rows)
        assert len(rows) == (3 if real_only else 8)
        assert (~synthetic[rows]).sum() == 3
    if real_only:  # a step of fewer unlabelled images than labelled ones works
        state, dispatched = on_chip.run(exp.init_state(), 0, 1)
        assert np.isfinite(history.per_step([dispatched])[0]["loss"])
        assert int(state.step) == 1


def test_a_method_of_labels_alone_gets_no_unlabelled_images():
    _, task, exp = build(**{"method.name": "supervised"})
    data = resident.gather(task, SPEC, oracle=False, unlabelled=False)
    assert data.unl_images.shape[0] == 0
    assert data.tables is None
    source = feed.ResidentFeed(exp, task, 1)
    state, dispatched = source.run(exp.init_state(), 0, 5)
    assert int(state.step) == 1
    assert np.isfinite(history.per_step([dispatched])[0]["loss"])


def run(exp, task, most, rooms):
    """(state, metrics of every step) after dispatches of at most `rooms` steps."""
    source = feed.ResidentFeed(exp, task, most)
    state, pending, done = exp.pack(exp.init_state()), [], 0
    for room in rooms:
        state, dispatched = source.run(state, done, room)
        done += dispatched.count
        pending.append(dispatched)
    assert int(state.step) == done
    return exp.unpack(state), history.per_step(pending)


def test_how_steps_are_dealt_out_changes_no_number():
    """3 steps in one dispatch and 3 of one equal one at a time, in state and metrics,
    but for how a CPU rounds in a loop."""
    keys = {**TINY, "train.batch_size": 2, "method.threshold": 0.2}
    _, task, exp = build(**{"method.name": "fixmatch", **keys})
    three, metrics_three = run(exp, task, 3, [5, 2, 1, 1])
    single, metrics_single = run(exp, task, 1, [9] * 6)
    three, single = leaves(three), leaves(single)
    for path, value in single.items():
        np.testing.assert_allclose(three[path], value, 1e-5, 1e-5, err_msg=path)
    for a, b in zip(metrics_three, metrics_single, strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    assert len(metrics_three) == 6
    assert len({m["loss"] for m in metrics_three}) == 6


def test_a_dispatch_ends_with_the_epoch():
    _, task, exp = build(**{"method.name": "supervised"})
    source = feed.ResidentFeed(exp, task, 3)
    counts, done, state = [], 1020, exp.init_state()
    while done < 1028:
        state, dispatched = source.run(state, done, 1028 - done)
        counts.append(dispatched.count)
        done += dispatched.count
    assert counts == [3, 1, 3, 1]


def test_mode_follows_the_budget():
    for mode, budget, kind, words in [
        ("auto", 4.0, feed.ResidentFeed, "resident"),
        ("auto", 1e-6, feed.TfDataFeed, "more than input.resident_budget_gb"),
        ("tfdata", 4.0, feed.TfDataFeed, "tf.data"),
        ("resident", 4.0, feed.ResidentFeed, "one step a dispatch"),
    ]:
        keys = {"input.mode": mode, "input.resident_budget_gb": budget}
        _, task, exp = build(**keys)
        source, line = feed.make(exp, task)
        assert isinstance(source, kind) and source.most == 1
        assert words in line


def test_a_cifar_sized_set_takes_at_most_200_mb():
    """Of which the images take 153.6."""
    images, truth = np.zeros((50_000, 32, 32, 3), np.uint8), np.zeros(50_000, np.int32)
    task = dataclasses.replace(
        experiment.load_task(config()),
        lab_images=images[:40],
        unl_images=images,
        unl_labels=truth,
        unl_origins=truth,
    )
    spec = views.ViewSpec(True, 4, 3, True)
    data = resident.gather(task, spec, oracle=True, unlabelled=True)
    held = sum(getattr(x, "nbytes", 0) for x in jax.tree.leaves(data))
    assert images.nbytes < held <= 200e6


@pytest.mark.parametrize(
    ("method", "chosen"), [("supervised", "resident"), ("fixmatch", "tf.data")]
)
def test_images_that_no_step_uses_do_not_count(method, chosen):
    budget = 1e-4  # 107 kB; the labelled images are 19 kB, the unlabelled ones 250 kB
    c = config("digits", **{"method.name": method, "input.resident_budget_gb": budget})
    task = experiment.load_task(c)
    dims = experiment.task_dims(c, task)
    exp = experiment.build(c, dims, task.name, jax.devices()[:1])
    assert chosen in feed.make(exp, task)[1]


def test_a_cpu_holds_the_images_once():
    """JAX uses aligned arrays as they are, without a second copy of the dataset. Images
    are rows: a TPU would copy an array [N, S, S, 3] at every dispatch."""
    task = experiment.load_task(config("digits"))
    data = resident.gather(task, SPEC, oracle=False, unlabelled=True)
    placed = parallel.replicate(data.unl_images, jax.local_devices()[:1])
    assert placed.shape == (len(task.unl_images), data.size**2 * 3)
    address = placed.addressable_shards[0].data.unsafe_buffer_pointer()
    assert address == task.unl_images.ctypes.data
