"""Views as TensorFlow code bases make them: tf.data maps one image at a time.

As in FixMatch's code (libml/augment.py) with USB's table of operations, one branch for
each. Compared by speed, so it is not bit-exact with Pillow. Imports TensorFlow.
"""

import functools
import math
from typing import Any

import numpy as np

from rsmatch_jax.augment import views
from rsmatch_jax.data.stores.tf_import import tf


def dataset(images: np.ndarray, spec: views.ViewSpec, *, strong: bool) -> Any:
    """An endless tf.data.Dataset of batches, on one core; each holds a new view of each
    image, all uint8 [N, S, S, 3]."""
    count, size = images.shape[:2]
    ops = list(operations(size).values())

    def view(image):
        image = weak(image)
        if not strong:
            return image
        for _ in range(spec.randaugment_ops):
            drawn = tf.random.uniform([], 0, len(ops), tf.int32)
            level = tf.random.uniform([])
            branches = [functools.partial(op, image, level) for op in ops]
            image = tf.switch_case(drawn, branches)
        return _cutout(image, size) if spec.cutout else image

    def weak(image):
        if spec.flip:
            image = tf.image.random_flip_left_right(image)
        pad = spec.crop_pad
        if pad:
            wide = tf.pad(image, [[pad, pad], [pad, pad], [0, 0]], "REFLECT")
            image = tf.image.random_crop(wide, [size, size, 3])
        return image

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    undecorated = tf.autograph.experimental.do_not_convert
    return (
        tf.data.Dataset.from_tensor_slices(images)
        .repeat()
        .map(undecorated(view))
        .batch(count, drop_remainder=True)
        .with_options(options)
    )


def operations(size: int) -> dict[str, Any]:
    """{name: function of (uint8 [S, S, 3], level in [0, 1)) -> the same}."""
    by_value = {  # functions of (image, the level within the operation's range)
        "autocontrast": lambda image, v: _autocontrast(image),
        "brightness": lambda image, v: _blend(image, tf.zeros_like(image), v),
        "color": lambda image, v: _blend(image, _grey(image), v),
        "contrast": lambda image, v: _blend(image, _mean(image), v),
        "equalize": lambda image, v: _equalize(image),
        "identity": lambda image, v: image,
        "posterize": _posterize,
        "rotate": lambda image, v: _warp(image, *_rotation(size, v)),
        "sharpness": lambda image, v: _blend(image, _smooth(image), v),
        "shear_x": lambda image, v: _warp(image, 1.0, v, 0, 0, 1.0, 0),
        "shear_y": lambda image, v: _warp(image, 1.0, 0, 0, v, 1.0, 0),
        "solarize": lambda image, v: tf.where(
            tf.cast(image, tf.float32) >= v, 255 - image, image
        ),
        "translate_x": lambda image, v: _warp(image, 1.0, 0, v * size, 0, 1.0, 0),
        "translate_y": lambda image, v: _warp(image, 1.0, 0, 0, 0, 1.0, v * size),
    }

    def by_level(name, low, high):
        return lambda image, level: by_value[name](image, low + (high - low) * level)

    return {name: by_level(name, low, high) for name, low, high in views.OPS}


def _blend(image, degenerate, v):
    base = tf.cast(degenerate, tf.float32)
    mixed = base + v * (tf.cast(image, tf.float32) - base)
    return tf.cast(tf.clip_by_value(mixed, 0.0, 255.0), tf.uint8)


def _grey(image):
    return tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(image))


def _mean(image):
    luma = tf.cast(tf.image.rgb_to_grayscale(image), tf.float32)
    return tf.fill(image.shape, tf.floor(tf.reduce_mean(luma) + 0.5))


def _smooth(image):
    kernel = tf.constant([[1, 1, 1], [1, 5, 1], [1, 1, 1]], tf.float32) / 13
    kernel = tf.tile(kernel[:, :, None, None], [1, 1, 3, 1])
    rows = tf.cast(image, tf.float32)[None]
    inner = tf.nn.depthwise_conv2d(rows, kernel, [1, 1, 1, 1], "VALID")[0]
    border = [[1, 1], [1, 1], [0, 0]]
    is_inner = tf.pad(tf.ones([*inner.shape[:2], 1], tf.bool), border)
    return tf.where(is_inner, tf.pad(inner, border), rows[0])


def _autocontrast(image):
    x = tf.cast(image, tf.float32)
    low, high = (f(x, axis=[0, 1]) for f in (tf.reduce_min, tf.reduce_max))
    stretched = (x - low) * 255.0 / tf.maximum(high - low, 1.0)
    return tf.cast(tf.where(high > low, stretched, x), tf.uint8)


def _equalize(image):
    def channel(x):
        x = tf.cast(x, tf.int32)
        counts = tf.math.bincount(tf.reshape(x, [-1]), minlength=256)
        step = (tf.reduce_sum(counts) - tf.gather(counts, tf.reduce_max(x))) // 255
        below = tf.cumsum(counts, exclusive=True) + step // 2
        table = tf.clip_by_value(below // tf.maximum(step, 1), 0, 255)
        return tf.cast(tf.where(step > 0, tf.gather(table, x), x), tf.uint8)

    return tf.stack([channel(image[..., c]) for c in range(3)], axis=-1)


def _posterize(image, v):
    bits = 8 - tf.cast(v, tf.uint8)
    return tf.bitwise.left_shift(tf.bitwise.right_shift(image, bits), bits)


def _warp(image, *coefficients):
    """coefficients: of an affine map, six."""
    transform = [tf.cast(c, tf.float32) for c in (*coefficients, 0, 0)]
    rows = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=tf.stack(transform)[None],
        output_shape=image.shape[:2],
        fill_value=0.0,
        interpolation="NEAREST",
    )
    return rows[0]


def _rotation(size, degrees):
    angle, middle = degrees * (math.pi / 180), (size - 1) / 2
    cos, sin = tf.cos(angle), tf.sin(angle)
    x = middle - middle * cos + middle * sin
    y = middle - middle * sin - middle * cos
    return cos, -sin, x, sin, cos, y


def _cutout(image: Any, size: int) -> Any:
    half = views.CUTOUT_MAX * tf.random.uniform([]) * size / 2
    centre = tf.random.uniform([2]) * size
    at = tf.range(size, dtype=tf.float32)
    inside = [tf.abs(at - centre[i]) <= half for i in range(2)]
    square = (inside[0][:, None] & inside[1][None, :])[..., None]
    return tf.where(square, tf.constant(views.CUTOUT_FILL, tf.uint8), image)
