"""RandAugment's operations, on the device and in TensorFlow, equal Pillow's bits."""

import functools

import jax
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from support.pillow_oracle import pillow, some_images, special_values

from rsmatch_jax.augment import on_device, views
from rsmatch_jax.data import tf_augment
from rsmatch_jax.errors import RequestError

ONE = views.ViewSpec(flip=False, crop_pad=0, randaugment_ops=1, cutout=False)
LAST = views.LEVELS - 1


def numbers(ops, levels):
    """One operation per image, no crop, no flip."""
    rows = len(ops)
    return on_device.Numbers(
        shift=np.zeros((rows, 2), np.int32),
        flip=np.zeros(rows, bool),
        ops=np.asarray(ops, np.int32)[:, None],
        levels=np.asarray(levels, np.int32)[:, None],
        cutout=np.zeros((rows, 3), np.int32),
    )


strong = jax.jit(functools.partial(on_device.strong, spec=ONE))


@jax.jit
def all_rows(images, numbers, tables):
    """What a GPU computes."""
    return on_device._augment(images, numbers, tables, ONE, len(images), unroll=True)


def apply(images, ops, levels):
    tables = on_device.make_tables(images.shape[1], ONE)
    return np.asarray(strong(images, numbers(ops, levels), tables))


# One trace for all operations.
SHAPES = (([None, 32, 32, 3], tf.uint8), ([None], tf.int32), ([None], tf.float64))
tf_apply = tf.function(
    tf_augment.apply_ops, input_signature=[tf.TensorSpec(*shape) for shape in SHAPES]
)


def by_pillow(images, ops, values):
    rows = zip(ops, images, values, strict=True)
    return [pillow(views.OP_NAMES[op], x, float(v)) for op, x, v in rows]


def values_of(ops, levels):
    rows = zip(ops, levels, strict=True)
    return np.array([views.value(views.OP_NAMES[op], k) for op, k in rows])


def special_levels(name, size):
    """The range's ends, its middle, and levels at rounding boundaries."""
    _, low, high = views.OPS[views.OP_NAMES.index(name)]
    exact = (special_values(name, size) - low) / (high - low) * views.LEVELS
    around = np.floor(exact)[:, None] + [[-1, 0, 1, 2]]
    if name == "rotate":  # few of its values are exact
        around = around[::3, 1]
    ends = [0, 1, LAST // 2, LAST // 2 + 1, LAST - 1, LAST]
    levels = np.concatenate([np.ravel(around), ends])
    return np.unique(np.clip(levels, 0, LAST)).astype(np.int64)


@pytest.mark.parametrize("name", views.OP_NAMES)
def test_every_operation_equals_pillow_at_32_pixels(name):
    index = views.OP_NAMES.index(name)
    special = special_levels(name, 32)
    drawn = np.random.default_rng(index).integers(0, views.LEVELS, 512)
    levels = np.concatenate([special, drawn])[:512]  # one shape, one compilation
    assert len(special) <= 512 - 160
    images = some_images(512, 32, seed=index)
    if name in views.BLENDS:  # there, all differences count
        noise = np.random.default_rng(50 + index).integers(0, 256, images.shape)
        images[: len(special)] = noise[: len(special)]
    ops = np.full(512, index)
    want = by_pillow(images, ops, values_of(ops, levels))
    np.testing.assert_array_equal(apply(images, ops, levels), want)


@pytest.mark.parametrize("name", views.OP_NAMES)
def test_every_operation_of_tensorflow_equals_pillow_at_32_pixels(name):
    """Any value, not only those of the levels."""
    index = views.OP_NAMES.index(name)
    drawn = np.random.default_rng(index).uniform(*views.OPS[index][1:], 160)
    values = np.concatenate([drawn, special_values(name, 32)])
    images, ops = some_images(len(values), 32, seed=index), np.full(len(values), index)
    got = tf_apply(images, ops, values).numpy()
    np.testing.assert_array_equal(got, by_pillow(images, ops, values))


def fusing_matters():
    """(level, start, difference) of blends that need a rounding before the sum.

    One for each level and difference, about 110.
    """
    factor = views.value("contrast", np.arange(views.LEVELS)).astype(np.float32)
    for difference in range(-255, 256):
        product = factor * np.float32(difference)
        exact = factor.astype(np.float64) * difference
        start = np.arange(max(0, -difference), min(255, 255 - difference) + 1)
        near = np.flatnonzero(np.abs(exact - np.round(exact)) < 2e-5)[:, None]
        twice = start[None].astype(np.float32) + product[near]
        once = (start[None] + exact[near]).astype(np.float32)
        differ = np.trunc(twice) != np.trunc(once)
        for row in np.flatnonzero(differ.any(axis=1)):
            yield near[row, 0], start[differ[row].argmax()], difference


def test_blending_rounds_twice_as_pillow_does():
    """In grey images of one value, one pixel apart: the mean is that value."""
    levels, start, difference = np.array(list(fusing_matters()))[:512].T
    assert len(levels) > 100
    images = np.zeros((512, 32, 32, 3), np.uint8)
    images[: len(levels)] = start[:, None, None, None]
    images[: len(levels), 3, 5] = (start + difference)[:, None]
    levels = np.resize(levels, 512)
    ops = np.full(512, views.OP_NAMES.index("contrast"))
    want = by_pillow(images, ops, values_of(ops, levels))
    np.testing.assert_array_equal(apply(images, ops, levels), want)


@pytest.mark.parametrize("size", [8, 9, 32])
def test_every_operation_equals_pillow_when_mixed(size):
    """Few rows draw each, so the expensive ones run on those rows only."""
    ops = np.repeat(np.arange(len(views.OPS)), 16)
    np.random.default_rng(1).shuffle(ops)
    levels = np.random.default_rng(2).integers(0, views.LEVELS, len(ops))
    levels[::8], levels[1::8] = 0, LAST
    images = some_images(len(ops), size, seed=size)
    values = values_of(ops, levels)
    want = by_pillow(images, ops, values)
    in_tf = tf_augment.apply_ops(images, ops.astype(np.int32), values)
    tables = on_device.make_tables(size, ONE)
    on_gpu = all_rows(images, numbers(ops, levels), tables)
    for got in (apply(images, ops, levels), np.asarray(on_gpu), in_tf.numpy()):
        for op, v, x, y in zip(ops, values, got, want, strict=True):
            np.testing.assert_array_equal(x, y, f"{views.OP_NAMES[op]} {v}")


def test_contrast_of_a_large_picture():
    """Whose sum takes more than 32 bits: an even one has the mean that it had."""
    image = np.full((1, 2900, 2900, 3), 250, np.uint8)
    value = tf.constant([[[[0.3]]]], tf.float64)
    got = tf_augment._contrast(tf.constant(image), value).numpy()
    np.testing.assert_array_equal(got, image)


@pytest.mark.parametrize("name", ["autocontrast", "equalize", "sharpness"])
def test_any_number_of_rows_may_draw_an_operation(name):
    """112 rows: up to 23 draw one before the program takes its other branch."""
    index, identity = (views.OP_NAMES.index(n) for n in (name, "identity"))
    images = some_images(112, 32, seed=3)
    levels = np.random.default_rng(3).integers(0, views.LEVELS, 112)
    ops = np.full(112, index)
    want = np.array(by_pillow(images, ops, values_of(ops, levels)))
    assert (want != images).any(axis=(1, 2, 3)).mean() > 0.5
    for count in (0, 1, 22, 23, 24, 40, 112):
        drew = np.zeros(112, bool)
        drew[np.random.default_rng(count).permutation(112)[:count]] = True
        got = apply(images, np.where(drew, index, identity), levels)
        np.testing.assert_array_equal(got[drew], want[drew], f"{count}")
        np.testing.assert_array_equal(got[~drew], images[~drew], f"{count}")


@pytest.mark.parametrize("size", [9, 32, 224])
def test_rotation_has_pillows_coefficients_at_every_level(size, monkeypatch):
    seen = []

    def record(self, size, method, data, *args, **kwargs):
        seen.append(data)
        return self

    monkeypatch.setattr(Image.Image, "transform", record)
    im = Image.new("L", (size, size))
    for v in views.value("rotate", np.arange(views.LEVELS)).tolist():
        im.rotate(v)
    a, b, c, d, e, f = np.array(seen).T
    want = np.stack([a, b, c + a * 0.5 + b * 0.5, d, e, f + d * 0.5 + e * 0.5], axis=1)
    want = np.floor(want * 65536 + 0.5)
    table = on_device.make_tables(size, ONE).affine[views.GEOMETRIC.index("rotate")]
    np.testing.assert_array_equal(table, want)


def test_levels_span_the_range_evenly():
    for name, low, high in views.OPS:
        k = np.arange(views.LEVELS)
        value = views.value(name, k)
        step = (high - low) / 65536
        assert value.dtype == np.float64
        np.testing.assert_allclose(np.diff(value), step, rtol=1e-6)
        np.testing.assert_allclose(value[0] - low, step / 2, rtol=1e-6)
        np.testing.assert_allclose(high - value[-1], step / 2, rtol=1e-6)
        assert float(views.value(name, 5)) == value[5]


def test_tables_are_made_only_if_needed():
    tables = on_device.make_tables(8, ONE)
    none = views.ViewSpec(flip=True, crop_pad=1, randaugment_ops=0, cutout=True)
    assert on_device.make_tables(8, none) is None
    with pytest.raises(RequestError, match="input.mode=tfdata"):
        on_device.make_tables(2049, ONE)
    assert (tables.affine.dtype, tables.affine.shape) == (np.int32, (5, 65536, 6))
    assert (tables.factor.dtype, tables.factor.shape) == (np.float32, (65536,))
    assert tables.autocontrast.shape == (256, 256, 256)


def test_tables_are_no_part_of_the_program():
    """As constants they would add 25 MB to every compiled program."""
    images = some_images(8, 8)
    n = numbers(np.zeros(8), np.zeros(8))
    lowered = strong.lower(images, n, on_device.make_tables(8, ONE))
    assert len(lowered.as_text()) < 300_000
    assert "convolution" not in lowered.as_text()
