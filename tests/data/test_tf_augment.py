"""TensorFlow's operations against Pillow; see also augment/test_views.py."""

import numpy as np
import pytest
import tensorflow as tf
from support.pillow_oracle import pillow, some_images, special_values

from rsmatch_jax.augment import views
from rsmatch_jax.data import tf_augment

# One trace for all operations.
SHAPES = (([None, 32, 32, 3], tf.uint8), ([None], tf.int32), ([None], tf.float64))
apply_ops = tf.function(
    tf_augment.apply_ops, input_signature=[tf.TensorSpec(*shape) for shape in SHAPES]
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
