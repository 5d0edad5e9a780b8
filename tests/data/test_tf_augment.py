"""The TensorFlow views, with Pillow as the oracle."""

import math

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageFilter
from support.pillow_oracle import (
    crop_by_numpy,
    pillow,
    pillow_cutout,
    some_images,
    special_values,
    uniform,
)

from rsmatch_jax.augment import views
from rsmatch_jax.data import tf_augment

SPEC = views.ViewSpec(flip=True, crop_pad=4, randaugment_ops=3, cutout=True)


# In graphs, as the pipeline runs them.
draw, weak, strong, cutout = (
    tf.function(f)
    for f in (tf_augment.draw, tf_augment.weak, tf_augment.strong, tf_augment.cutout)
)
# One trace for all operations.
apply_ops = tf.function(
    tf_augment.apply_ops,
    input_signature=[
        tf.TensorSpec([None, 32, 32, 3], tf.uint8),
        tf.TensorSpec([None], tf.int32),
        tf.TensorSpec([None], tf.float64),
    ],
)


@pytest.mark.parametrize("name", views.OP_NAMES)
def test_every_operation_equals_pillow_at_32_pixels(name):
    index = views.OP_NAMES.index(name)
    _, low, high = views.OPS[index]
    special = special_values(name, 32)
    images = some_images(160 + len(special), 32, seed=index)
    drawn = np.random.default_rng(index).uniform(low, high, 160)
    values = np.concatenate([drawn, special])
    got = apply_ops(images, np.full(len(images), index), values).numpy()
    want = [pillow(name, x, float(v)) for x, v in zip(images, values, strict=True)]
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("size", [8, 9, 17])
def test_every_operation_equals_pillow_at_other_sizes(size):
    each = 16
    ops = np.repeat(np.arange(len(views.OPS)), each).astype(np.int32)
    np.random.default_rng(1).shuffle(ops)
    low, high = np.array([views.OPS[op][1:] for op in ops]).T
    values = np.random.default_rng(2).uniform(low, high)
    images = some_images(len(ops), size, seed=size)
    got = tf_augment.apply_ops(tf.constant(images), ops, tf.constant(values)).numpy()
    for op, v, x, y in zip(ops, values, images, got, strict=True):
        name = views.OP_NAMES[op]
        np.testing.assert_array_equal(y, pillow(name, x, float(v)), f"{name} {v}")


def test_sharpness_smooths_with_the_kernel_pillow_calls_smooth():
    x = some_images(1, 8)
    index = views.OP_NAMES.index("sharpness")
    got = tf_augment.apply_ops(tf.constant(x), [index], tf.zeros([1], tf.float64))
    want = np.asarray(Image.fromarray(x[0]).filter(ImageFilter.SMOOTH))
    np.testing.assert_array_equal(got[0], want)


@pytest.mark.parametrize("size, pad", [(32, 4), (8, 1), (8, 0), (5, 4)])
def test_weak_view_is_reflect_crop_then_flip(size, pad):
    spec = views.ViewSpec(flip=True, crop_pad=pad, randaugment_ops=0, cutout=False)
    every = [
        (dy, dx, flip)
        for dy in range(2 * pad + 1)
        for dx in range(2 * pad + 1)
        for flip in (0, 1)
    ]
    every = np.array(every, np.int32)
    images = some_images(len(every), size)
    numbers = {"shift": tf.constant(every[:, :2]), "flip": tf.constant(every[:, 2] > 0)}
    got = weak(tf.constant(images), numbers, spec).numpy()
    want = [
        crop_by_numpy(x, (dy, dx), flip, pad)
        for x, (dy, dx, flip) in zip(images, every, strict=True)
    ]
    np.testing.assert_array_equal(got, want)


def test_pillow_draws_both_edges_of_a_rectangle():
    painted = pillow_cutout(np.zeros((8, 8, 3), np.uint8), 0.26, 4.5, 8.0)
    rows, columns = np.nonzero(painted[..., 0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (3, 5, 6, 7)


@pytest.mark.parametrize("size", [32, 8])
def test_cutout_paints_the_inclusive_rectangle(size):
    numbers = np.random.default_rng(0).uniform(0, [0.5, 1, 1], (200, 3))
    numbers[:4] = [[0, 0.3, 0.3], [0.5, 0, 0], [0.499, 0.999999, 0], [0.125, 0.5, 0.5]]
    images = some_images(len(numbers), size)
    got = cutout(tf.constant(images), tf.constant(numbers)).numpy()
    centre = size + (1 - size) * numbers[:, 1:]  # numpy's uniform(low=size, high=1)
    for x, y, (share, _, _), (cy, cx) in zip(images, got, numbers, centre, strict=True):
        np.testing.assert_array_equal(y, pillow_cutout(x, share, cy, cx))
    np.testing.assert_array_equal(got[0], images[0])  # a share of 0 leaves it alone


def test_strong_view_is_crop_flip_operations_cutout_in_this_order():
    images = some_images(96, 32)
    numbers = draw(3, 7, "strong", 96, SPEC)
    got = strong(tf.constant(images), numbers, SPEC).numpy()
    n = {name: value.numpy() for name, value in numbers.items()}
    for i, x in enumerate(images):
        want = crop_by_numpy(x, n["shift"][i], n["flip"][i], 4)
        for op, value in zip(n["ops"][:, i], n["values"][:, i], strict=True):
            want = pillow(views.OP_NAMES[op], want, float(value))
        share, cy, cx = n["cutout"][i] * [1, -31, -31] + [0, 32, 32]
        np.testing.assert_array_equal(got[i], pillow_cutout(want, share, cy, cx))


def test_grey_images_stay_grey_until_cutout():
    spec = views.ViewSpec(flip=False, crop_pad=1, randaugment_ops=3, cutout=False)
    images = np.repeat(some_images(64, 8)[..., :1], 3, axis=3)
    numbers = draw(0, 0, "strong", 64, spec)
    got = strong(tf.constant(images), numbers, spec).numpy()
    np.testing.assert_array_equal(got, np.repeat(got[..., :1], 3, axis=3))


def test_drawn_numbers_follow_the_law():
    rows = 6000
    n = {
        name: value.numpy() for name, value in draw(0, 0, "strong", rows, SPEC).items()
    }
    assert n["ops"].shape == n["values"].shape == (3, rows)
    for slot in n["ops"]:
        assert uniform(np.bincount(slot, minlength=14)) > 1e-3
    pairs = n["ops"][0] * 14 + n["ops"][1]  # slots are independent
    assert uniform(np.bincount(pairs, minlength=196)) > 1e-3
    for index, (name, low, high) in enumerate(views.OPS):
        share = (n["values"][n["ops"] == index] - low) / (high - low)
        assert 0 <= share.min() < 0.01 and 0.99 < share.max() <= 1, name
        assert uniform(np.histogram(share, 20, (0, 1))[0]) > 1e-3, name
    for axis in (0, 1):
        assert uniform(np.bincount(n["shift"][:, axis], minlength=9)) > 1e-3
    assert n["shift"].min() == 0 and n["shift"].max() == 8
    assert abs(n["flip"].mean() - 0.5) < 4 * 0.5 / math.sqrt(rows)
    for column, high in zip(n["cutout"].T, (0.5, 1, 1), strict=True):
        assert uniform(np.histogram(column, 20, (0, high))[0]) > 1e-3
    together = np.corrcoef([*n["shift"].T, n["flip"], *n["values"], *n["cutout"].T])
    assert np.abs(together - np.eye(len(together))).max() < 5 / math.sqrt(rows)


def test_views_draw_apart_by_purpose_step_and_seed_and_repeat():
    def shifts(seed, step, purpose):
        return draw(seed, step, purpose, 512, SPEC)["shift"].numpy()

    base = shifts(0, 5, "weak")
    np.testing.assert_array_equal(base, shifts(0, 5, "weak"))
    others = [(0, 5, "strong"), (0, 5, "labelled"), (0, 6, "weak"), (1, 5, "weak")]
    for other in others:
        agree = (base == shifts(*other)).all(axis=1).mean()
        assert agree < 0.05, other  # 1/81 by chance


def test_flips_and_crops_can_be_switched_off():
    spec = views.ViewSpec(flip=False, crop_pad=0, randaugment_ops=0, cutout=False)
    images = some_images(64, 8)
    numbers = draw(0, 0, "strong", 64, spec)
    assert not numbers["flip"].numpy().any()
    np.testing.assert_array_equal(strong(images, numbers, spec), images)
    padded = views.ViewSpec(flip=False, crop_pad=2, randaugment_ops=0, cutout=False)
    assert not draw(0, 0, "weak", 512, padded)["flip"].numpy().any()
