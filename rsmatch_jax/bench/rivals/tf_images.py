"""Views as TensorFlow code bases make them: tf.data maps one image at a time, with a
branch for the operation drawn.

As in FixMatch's code (libml/augment.py) and its descendants, with USB's table of
operations; a rival for speed, so that equality with Pillow to the bit is not sought.
TensorFlow comes from the caller: this file must be readable where there is none.
"""

import math
from typing import Any

from rsmatch_jax.augment import views


def dataset(tf: Any, images: Any, spec: views.ViewSpec, *, strong: bool) -> Any:
    """An endless tf.data.Dataset of batches, uint8 [N, S, S, 3]: a new view of each of
    the images (the same shape) every time, on one core."""
    count, size = images.shape[:2]
    ops = operations(tf, size)

    def view(image):
        image = weak(image)
        if not strong:
            return image
        for _ in range(spec.randaugment_ops):
            drawn = tf.random.uniform([], 0, len(ops), tf.int32)
            level = tf.random.uniform([])
            image = tf.switch_case(
                drawn, [_bound(op, image, level) for op in ops.values()]
            )
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


def _bound(op, image, level):
    return lambda: op(image, level)


def operations(tf: Any, size: int) -> dict[str, Any]:
    """{name: function of (uint8 [S, S, 3], level in [0, 1)) -> the same}."""
    limits = {name: (low, high) for name, low, high in views.OPS}

    def value(name, level):
        low, high = limits[name]
        return low + (high - low) * level

    def blend(name, degenerate):
        def op(image, level):
            base = tf.cast(degenerate(image), tf.float32)
            mixed = base + value(name, level) * (tf.cast(image, tf.float32) - base)
            return tf.cast(tf.clip_by_value(mixed, 0.0, 255.0), tf.uint8)

        return op

    def grey(image):
        return tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(image))

    def mean(image):
        luma = tf.cast(tf.image.rgb_to_grayscale(image), tf.float32)
        return tf.fill(image.shape, tf.floor(tf.reduce_mean(luma) + 0.5))

    def smooth(image):
        kernel = tf.constant([[1, 1, 1], [1, 5, 1], [1, 1, 1]], tf.float32) / 13
        kernel = tf.tile(kernel[:, :, None, None], [1, 1, 3, 1])
        rows = tf.cast(image, tf.float32)[None]
        inner = tf.nn.depthwise_conv2d(rows, kernel, [1, 1, 1, 1], "VALID")[0]
        inner = tf.pad(inner, [[1, 1], [1, 1], [0, 0]])
        edge = tf.pad(
            tf.ones([size - 2, size - 2, 1], tf.bool), [[1, 1], [1, 1], [0, 0]]
        )
        return tf.where(edge, inner, rows[0])

    def autocontrast(image, level):
        del level
        x = tf.cast(image, tf.float32)
        low, high = (f(x, axis=[0, 1]) for f in (tf.reduce_min, tf.reduce_max))
        stretched = (x - low) * 255.0 / tf.maximum(high - low, 1.0)
        return tf.cast(tf.where(high > low, stretched, x), tf.uint8)

    def equalize(image, level):
        del level

        def channel(x):
            x = tf.cast(x, tf.int32)
            counts = tf.math.bincount(tf.reshape(x, [-1]), minlength=256)
            last = tf.gather(counts, tf.reduce_max(x))
            step = (tf.reduce_sum(counts) - last) // 255
            table = (tf.cumsum(counts, exclusive=True) + step // 2) // tf.maximum(
                step, 1
            )
            made = tf.gather(tf.clip_by_value(table, 0, 255), x)
            return tf.cast(tf.where(step > 0, made, x), tf.uint8)

        return tf.stack([channel(image[..., c]) for c in range(3)], axis=-1)

    def posterize(image, level):
        bits = tf.cast(value("posterize", level), tf.uint8)
        return tf.bitwise.left_shift(tf.bitwise.right_shift(image, 8 - bits), 8 - bits)

    def solarize(image, level):
        above = tf.cast(image, tf.float32) >= value("solarize", level)
        return tf.where(above, 255 - image, image)

    def warp(name, transform):
        def op(image, level):
            rows = tf.raw_ops.ImageProjectiveTransformV3(
                images=image[None],
                transforms=tf.stack(transform(value(name, level)))[None],
                output_shape=[size, size],
                fill_value=0.0,
                interpolation="NEAREST",
            )
            return rows[0]

        return op

    def rotation(degrees):
        angle, middle = degrees * (math.pi / 180), (size - 1) / 2
        cos, sin = tf.cos(angle), tf.sin(angle)
        x = middle - middle * cos + middle * sin
        y = middle - middle * sin - middle * cos
        return [cos, -sin, x, sin, cos, y, 0.0, 0.0]

    return {
        "autocontrast": autocontrast,
        "brightness": blend("brightness", tf.zeros_like),
        "color": blend("color", grey),
        "contrast": blend("contrast", mean),
        "equalize": equalize,
        "identity": lambda image, level: image,
        "posterize": posterize,
        "rotate": warp("rotate", rotation),
        "sharpness": blend("sharpness", smooth),
        "shear_x": warp("shear_x", lambda v: [1.0, v, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]),
        "shear_y": warp("shear_y", lambda v: [1.0, 0.0, 0.0, v, 1.0, 0.0, 0.0, 0.0]),
        "solarize": solarize,
        "translate_x": warp(
            "translate_x", lambda v: [1.0, 0.0, v * size, 0.0, 1.0, 0.0, 0.0, 0.0]
        ),
        "translate_y": warp(
            "translate_y", lambda v: [1.0, 0.0, 0.0, 0.0, 1.0, v * size, 0.0, 0.0]
        ),
    }


def _cutout(tf: Any, image: Any, size: int) -> Any:
    half = views.CUTOUT_MAX * tf.random.uniform([]) * size / 2
    centre = tf.random.uniform([2]) * size
    at = tf.range(size, dtype=tf.float32)
    inside = [tf.abs(at - centre[i]) <= half for i in range(2)]
    square = (inside[0][:, None] & inside[1][None, :])[..., None]
    return tf.where(square, tf.constant(views.CUTOUT_FILL, tf.uint8), image)
