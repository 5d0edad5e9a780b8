"""Weak and strong views, on the device and in TensorFlow: numbers and pictures."""

import functools
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
from support.pillow_oracle import (
    crop_by_numpy,
    pillow,
    pillow_cutout,
    some_images,
    uniform,
)

from rsmatch_jax.augment import on_device, views
from rsmatch_jax.data import tf_augment

SPEC = views.ViewSpec(flip=True, crop_pad=4, randaugment_ops=3, cutout=True)
PLAIN = views.ViewSpec(flip=False, crop_pad=0, randaugment_ops=0, cutout=False)
RANGES = np.array([views.CUTOUT_MAX, 1, 1])  # of what cutout draws

draw = jax.jit(on_device.draw, static_argnums=(1, 2, 3, 4))
tf_draw, tf_weak, tf_strong = map(
    tf.function, (tf_augment.draw, tf_augment.weak, tf_augment.strong)
)


class Device:
    """The views on the device. Plain numbers are numpy arrays, the rows first; values
    are in the operation's unit, cutout is as in tf_augment.draw."""

    weak = staticmethod(jax.jit(on_device.weak, static_argnames="spec"))

    def draw(self, seed, rows, spec=SPEC):
        return draw(jax.random.key(seed), rows, spec, True, None)

    def strong(self, images, numbers, spec):
        tables = on_device.make_tables(images.shape[1], spec)
        run = jax.jit(on_device.strong, static_argnames="spec")
        return np.asarray(run(images, numbers, tables, spec=spec))

    def plain(self, numbers):
        n = jax.tree.map(np.asarray, numbers)
        values = np.zeros(n.ops.shape)
        for op, name in enumerate(views.OP_NAMES):
            values[n.ops == op] = views.value(name, n.levels[n.ops == op])
        cutout = n.cutout / views.LEVELS * RANGES
        return types.SimpleNamespace(
            shift=n.shift, flip=n.flip, ops=n.ops, values=values, cutout=cutout
        )

    def numbers(self, shift, flip, cutout):
        nothing = np.zeros((len(flip), 0), np.int32)
        levels = np.round(cutout / RANGES * views.LEVELS).astype(np.int32)
        return on_device.Numbers(shift, flip, nothing, nothing, levels)


class TensorFlow:
    """The same in TensorFlow, in graphs as in the pipeline."""

    def draw(self, seed, rows, spec=SPEC):
        return tf_draw(seed, 7, "strong", rows, spec)

    def weak(self, images, numbers, spec):
        return tf_weak(tf.constant(images), numbers, spec).numpy()

    def strong(self, images, numbers, spec):
        return tf_strong(tf.constant(images), numbers, spec).numpy()

    def plain(self, numbers):
        n = {name: value.numpy() for name, value in numbers.items()}
        return types.SimpleNamespace(**n)

    def numbers(self, shift, flip, cutout):
        arrays = {"shift": shift, "flip": flip, "cutout": cutout}
        return {name: tf.constant(x) for name, x in arrays.items()}


@pytest.fixture(params=[Device, TensorFlow])
def made(request):
    return request.param()


def expected_strong(image, n, i, spec):
    """View i of an image, by numpy and Pillow, from plain numbers."""
    size = len(image)
    x = crop_by_numpy(image, n.shift[i], n.flip[i], spec.crop_pad)
    for op, value in zip(n.ops[i], n.values[i], strict=True):
        x = pillow(views.OP_NAMES[op], x, float(value))
    if not spec.cutout:
        return x
    share, cy, cx = n.cutout[i]
    # numpy's uniform(low=size, high=1)
    return pillow_cutout(x, share, *(size + (1 - size) * np.array([cy, cx])))


@pytest.mark.parametrize("size, pad", [(32, 4), (8, 1), (8, 0), (5, 4)])
def test_weak_view_is_reflect_crop_then_flip(made, size, pad):
    spec = views.ViewSpec(flip=True, crop_pad=pad, randaugment_ops=0, cutout=False)
    side = np.arange(2 * pad + 1)
    every = np.stack(np.meshgrid(side, side, [0, 1]), axis=-1).reshape(-1, 3)
    shift, flip = every[:, :2].astype(np.int32), every[:, 2] > 0
    images = some_images(len(every), size)
    got = made.weak(images, made.numbers(shift, flip, np.zeros((len(every), 3))), spec)
    want = [crop_by_numpy(*row, pad) for row in zip(images, shift, flip, strict=True)]
    np.testing.assert_array_equal(got, want)
    assert got.dtype == np.uint8


@pytest.mark.parametrize(
    "size, spec, rows",
    [
        (32, SPEC, 100),
        (8, views.ViewSpec(False, 1, 2, True), 3),
        (8, views.ViewSpec(False, 1, 2, True), 100),
        (9, views.ViewSpec(True, 0, 1, False), 100),
        (9, views.ViewSpec(True, 2, 0, True), 40),
    ],
)
def test_strong_view_is_crop_flip_operations_cutout(made, size, spec, rows):
    images = some_images(rows, size)
    numbers = made.draw(3, rows, spec)
    got = made.strong(images, numbers, spec)
    assert got.dtype == np.uint8 and got.shape == images.shape
    n = made.plain(numbers)
    for i, x in enumerate(images):
        np.testing.assert_array_equal(got[i], expected_strong(x, n, i, spec), f"{i}")


@pytest.mark.parametrize("size", [32, 8, 224])
def test_cutout_paints_the_inclusive_rectangle(made, size):
    spec = views.ViewSpec(flip=False, crop_pad=0, randaugment_ops=0, cutout=True)
    rows = 40 if size > 32 else 300
    levels = np.random.default_rng(0).integers(0, views.LEVELS, (rows, 3))
    last, half = views.LEVELS - 1, views.LEVELS // 2
    levels[:5] = [[0, half, half], [last, 0, 0], [last, last, 0], [half] * 3, [1, 0, 9]]
    levels[5:30, 0] = np.arange(25) * views.LEVELS // 32  # whole pixels at 32
    numbers = levels / views.LEVELS * RANGES
    if isinstance(made, TensorFlow):  # values between the levels
        numbers[30:33] = [[0.5, 0, 0], [0.499, 0.999999, 0], [0.125, 0.5, 0.5]]
    images = some_images(rows, size)
    shift, flip = np.zeros((rows, 2), np.int32), np.zeros(rows, bool)
    if isinstance(made, TensorFlow):
        got = tf_augment.cutout(tf.constant(images), tf.constant(numbers)).numpy()
    else:
        got = made.strong(images, made.numbers(shift, flip, numbers), spec)
    n = types.SimpleNamespace(
        shift=shift, flip=flip, cutout=numbers, ops=shift[:, :0], values=shift[:, :0]
    )
    for i, x in enumerate(images):
        np.testing.assert_array_equal(got[i], expected_strong(x, n, i, spec))
    np.testing.assert_array_equal(got[0], images[0])  # a side of 0 changes nothing


def test_everything_can_be_switched_off(made):
    images = some_images(64, 8)
    numbers = made.draw(0, 64, PLAIN)
    n = made.plain(numbers)
    assert not n.flip.any() and not n.shift.any()
    assert n.ops.shape == n.values.shape == (64, 0)
    np.testing.assert_array_equal(made.strong(images, numbers, PLAIN), images)
    np.testing.assert_array_equal(made.weak(images, numbers, PLAIN), images)
    padded = views.ViewSpec(flip=False, crop_pad=2, randaugment_ops=0, cutout=False)
    n = made.plain(made.draw(0, 512, padded))
    assert n.shift.any() and not n.flip.any()
    if isinstance(made, Device):  # weak views draw nothing more
        numbers = draw(jax.random.key(0), 6, SPEC, False, None)
        assert numbers.ops is numbers.levels is numbers.cutout is None


ROWS = 470_000  # of 3 operations each: 100,000 draws of every one


@functools.cache
def drawn(backend):
    """(backend's numbers, plain numbers) of many rows."""
    numbers = backend().draw(1, ROWS)
    return numbers, backend().plain(numbers)


def test_drawn_numbers_follow_the_law(made):
    _, n = drawn(type(made))
    for slot in n.ops.T:
        assert uniform(np.bincount(slot, minlength=14)) > 1e-3
    pairs = n.ops[:, 0] * 14 + n.ops[:, 1]  # slots are independent
    assert uniform(np.bincount(pairs, minlength=196)) > 1e-3
    for op, (name, low, high) in enumerate(views.OPS):
        share = (n.values[n.ops == op] - low) / (high - low)
        assert 0 <= share.min() < 1e-3 and 1 - 1e-3 < share.max() <= 1, name
        assert uniform(np.histogram(share, 32, (0, 1))[0]) > 1e-3, name
    for axis in n.shift.T:
        assert uniform(np.bincount(axis, minlength=9)) > 1e-3
    assert uniform(np.bincount(n.flip, minlength=2)) > 1e-3
    for column, high in zip(n.cutout.T, RANGES, strict=True):
        assert 0 <= column.min() and column.max() < high
        assert uniform(np.histogram(column, 32, (0, high))[0]) > 1e-3
    together = np.corrcoef([*n.shift.T, n.flip, *n.ops.T, *n.values.T, *n.cutout.T])
    independent = np.abs(together - np.eye(len(together))) < 5 / np.sqrt(ROWS)
    slots = np.arange(3, 6)  # an operation decides the range of its value
    independent[slots, slots + 3] = independent[slots + 3, slots] = True
    assert independent.all()


def test_levels_are_uniform_to_their_last_bits():
    n = jax.tree.map(np.asarray, drawn(Device)[0])
    columns = (*n.levels.T, *n.cutout.T)
    for column in columns:
        assert 0 <= column.min() < 32 and 65500 < column.max() < views.LEVELS
        assert uniform(np.bincount(column >> 11, minlength=32)) > 1e-3
    assert uniform(np.bincount(np.concatenate(columns) & 31, minlength=32)) > 1e-3
    together = np.corrcoef([*n.ops.T, *columns])
    assert np.abs(together - np.eye(len(together))).max() < 5 / np.sqrt(ROWS)


def test_a_seed_fixes_the_numbers_and_other_seeds_give_others(made):
    base, again, other = (made.plain(made.draw(seed, 512)) for seed in (5, 5, 6))
    for name, value in vars(base).items():
        np.testing.assert_array_equal(value, vars(again)[name])
    assert (base.shift == other.shift).all(axis=1).mean() < 0.05  # 1/81 by chance
    assert (base.values == other.values).mean() < 0.01


def test_tensorflows_views_draw_apart_by_purpose_and_step():
    def shifts(step, purpose):
        return tf_augment.draw(0, step, purpose, 512, SPEC)["shift"].numpy()

    base = shifts(5, "weak")
    others = [(5, p) for p in views.PURPOSES if p != "weak"]
    for other in [*others, (6, "weak")]:
        agree = (base == shifts(*other)).all(axis=1).mean()
        assert agree < 0.05, other  # 1/81 by chance


@pytest.mark.parametrize(("pad", "flip"), [(1, True), (2, False), (0, True)])
def test_a_weak_view_by_key_is_one_of_the_crops_uniformly_drawn(pad, flip):
    image = np.random.default_rng(0).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    images = jnp.broadcast_to(image, (3000, 6, 6, 3))
    key = jax.random.key(1)
    made = on_device.weak_view(key, images, flip=flip, crop_pad=pad, axis=None)
    side = range(2 * pad + 1)
    crops = [
        crop_by_numpy(image, (dy, dx), mirrored, pad).tobytes()
        for dy, dx, mirrored in itertools.product(side, side, range(1 + flip))
    ]
    positions = [crops.index(view.tobytes()) for view in np.asarray(made)]
    assert made.dtype == np.uint8
    assert uniform(np.bincount(positions, minlength=len(crops))) > 1e-3
