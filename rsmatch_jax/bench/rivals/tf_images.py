"""Views as TensorFlow code bases make them: tf.data maps one image at a time.

As in FixMatch's code (libml/augment.py) with USB's table of operations, one branch for
each. Compared by speed, so it is not bit-exact with Pillow. The caller passes
TensorFlow, so that this file can be imported without it.
"""

import functools
import math
from typing import Any

from rsmatch_jax.augment import views

_RANGES = {name: (low, high) for name, low, high in views.OPS}


def dataset(tf: Any, images: Any, spec: views.ViewSpec, *, strong: bool) -> Any:
    """An endless tf.data.Dataset of batches, on one core.

    Each batch holds a new view of each image; images and batches: uint8 [N, S, S, 3].
    """
    count, size = images.shape[:2]
    ops = list(operations(tf, size).values())

    def view(image):
        image = weak(image)
        if not strong:
            return image
        for _ in range(spec.randaugment_ops):
            drawn = tf.random.uniform([], 0, len(ops), tf.int32)
            level = tf.random.uniform([])
            branches = [functools.partial(op, image, level) for op in ops]
            image = tf.switch_case(drawn, branches)
        return _cutout(tf, image, size) if spec.cutout else image

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


def operations(tf: Any, size: int) -> dict[str, Any]:
    """{name: function of (uint8 [S, S, 3], level in [0, 1)) -> the same}."""

    def bind(function, *args):
        return functools.partial(function, tf, *args)

    return {
        "autocontrast": bind(_autocontrast),
        "brightness": bind(_blend, "brightness", tf.zeros_like),
        "color": bind(_blend, "color", bind(_grey)),
        "contrast": bind(_blend, "contrast", bind(_mean)),
        "equalize": bind(_equalize),
        "identity": lambda image, level: image,
        "posterize": bind(_posterize),
        "rotate": bind(_warp, size, "rotate", bind(_rotation, size)),
        "sharpness": bind(_blend, "sharpness", bind(_smooth, size)),
        "shear_x": bind(_warp, size, "shear_x", lambda v: [1.0, v, 0, 0, 1.0, 0]),
        "shear_y": bind(_warp, size, "shear_y", lambda v: [1.0, 0, 0, v, 1.0, 0]),
        "solarize": bind(_solarize),
        "translate_x": bind(
            _warp, size, "translate_x", lambda v: [1.0, 0, v * size, 0, 1.0, 0]
        ),
        "translate_y": bind(
            _warp, size, "translate_y", lambda v: [1.0, 0, 0, 0, 1.0, v * size]
        ),
    }


def _value(name, level):
    low, high = _RANGES[name]
    return low + (high - low) * level


def _blend(tf, name, degenerate, image, level):
    base = tf.cast(degenerate(image), tf.float32)
    mixed = base + _value(name, level) * (tf.cast(image, tf.float32) - base)
    return tf.cast(tf.clip_by_value(mixed, 0.0, 255.0), tf.uint8)


def _grey(tf, image):
    return tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(image))


def _mean(tf, image):
    luma = tf.cast(tf.image.rgb_to_grayscale(image), tf.float32)
    return tf.fill(image.shape, tf.floor(tf.reduce_mean(luma) + 0.5))


def _smooth(tf, size, image):
    kernel = tf.constant([[1, 1, 1], [1, 5, 1], [1, 1, 1]], tf.float32) / 13
    kernel = tf.tile(kernel[:, :, None, None], [1, 1, 3, 1])
    rows = tf.cast(image, tf.float32)[None]
    inner = tf.nn.depthwise_conv2d(rows, kernel, [1, 1, 1, 1], "VALID")[0]
    border = [[1, 1], [1, 1], [0, 0]]
    is_inner = tf.pad(tf.ones([size - 2, size - 2, 1], tf.bool), border)
    return tf.where(is_inner, tf.pad(inner, border), rows[0])


def _autocontrast(tf, image, level):
    del level
    x = tf.cast(image, tf.float32)
    low, high = (f(x, axis=[0, 1]) for f in (tf.reduce_min, tf.reduce_max))
    stretched = (x - low) * 255.0 / tf.maximum(high - low, 1.0)
    return tf.cast(tf.where(high > low, stretched, x), tf.uint8)


def _equalize(tf, image, level):
    del level

    def channel(x):
        x = tf.cast(x, tf.int32)
        counts = tf.math.bincount(tf.reshape(x, [-1]), minlength=256)
        step = (tf.reduce_sum(counts) - tf.gather(counts, tf.reduce_max(x))) // 255
        below = tf.cumsum(counts, exclusive=True) + step // 2
        table = tf.clip_by_value(below // tf.maximum(step, 1), 0, 255)
        return tf.cast(tf.where(step > 0, tf.gather(table, x), x), tf.uint8)

    return tf.stack([channel(image[..., c]) for c in range(3)], axis=-1)


def _posterize(tf, image, level):
    bits = 8 - tf.cast(_value("posterize", level), tf.uint8)
    return tf.bitwise.left_shift(tf.bitwise.right_shift(image, bits), bits)


def _solarize(tf, image, level):
    above = tf.cast(image, tf.float32) >= _value("solarize", level)
    return tf.where(above, 255 - image, image)


def _warp(tf, size, name, transform, image, level):
    """transform: value -> six coefficients of an affine map."""
    coefficients = [*transform(_value(name, level)), 0, 0]
    rows = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=tf.stack([tf.cast(c, tf.float32) for c in coefficients])[None],
        output_shape=[size, size],
        fill_value=0.0,
        interpolation="NEAREST",
    )
    return rows[0]


def _rotation(tf, size, degrees):
    angle, middle = degrees * (math.pi / 180), (size - 1) / 2
    cos, sin = tf.cos(angle), tf.sin(angle)
    x = middle - middle * cos + middle * sin
    y = middle - middle * sin - middle * cos
    return [cos, -sin, x, sin, cos, y]


def _cutout(tf: Any, image: Any, size: int) -> Any:
    half = views.CUTOUT_MAX * tf.random.uniform([]) * size / 2
    centre = tf.random.uniform([2]) * size
    at = tf.range(size, dtype=tf.float32)
    inside = [tf.abs(at - centre[i]) <= half for i in range(2)]
    square = (inside[0][:, None] & inside[1][None, :])[..., None]
    return tf.where(square, tf.constant(views.CUTOUT_FILL, tf.uint8), image)
