"""Random-resized crops of one image by torchvision's law (RandomResizedCrop)."""

import math

from rsmatch_jax.data.stores.tf_import import tf

TRIES = 10
RATIOS = (3 / 4, 4 / 3)  # width to height


def decode(data: tf.Tensor) -> tf.Tensor:
    """Returns the pixels of a JPEG, PNG or GIF file as Pillow does, uint8 [H, W, 3]."""
    # TensorFlow's default arithmetic for JPEGs differs from Pillow's.
    image = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
    return tf.ensure_shape(image, [None, None, 3])


def box(
    numbers: tf.Tensor, height: tf.Tensor, width: tf.Tensor, least_area: float
) -> tf.Tensor:
    """Returns a random rectangle, int32 [4]: top, left, height, width.

    numbers: float64 [TRIES, 4], in [0, 1); per try the area, the aspect ratio, and the
    vertical and horizontal place. The first try that fits the image counts. If none
    fits, the result is the largest central rectangle of an allowed aspect ratio.
    """
    area = least_area + (1 - least_area) * numbers[:, 0]
    area *= tf.cast(height * width, tf.float64)
    low, high = map(math.log, RATIOS)
    aspect = tf.exp(low + (high - low) * numbers[:, 1])
    w, h = _rounded(tf.sqrt(area * aspect)), _rounded(tf.sqrt(area / aspect))
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = tf.argmax(tf.cast(fits, tf.int32))
    w, h = w[first], h[first]
    top = _place(numbers[first, 2], height - h)
    left = _place(numbers[first, 3], width - w)
    drawn = tf.stack([top, left, h, w])
    return tf.where(tf.reduce_any(fits), drawn, _central(height, width))


def resized(image: tf.Tensor, box: tf.Tensor, size: int) -> tf.Tensor:
    """Returns a rectangle of uint8 [H, W, 3], resized to uint8 [size, size, 3]."""
    top, left, height, width = tf.unstack(box)
    crop = image[top : top + height, left : left + width]
    crop = tf.image.resize(crop, (size, size), method="bilinear", antialias=True)
    # The kernel's weights are not negative, so only rounding can leave 0..255.
    crop = tf.cast(tf.clip_by_value(tf.round(crop), 0, 255), tf.uint8)
    return tf.ensure_shape(crop, [size, size, 3])


def _central(height, width):
    ratio = tf.cast(width, tf.float64) / tf.cast(height, tf.float64)
    w = tf.minimum(width, _rounded(tf.cast(height, tf.float64) * RATIOS[1]))
    h = tf.minimum(height, _rounded(tf.cast(width, tf.float64) / RATIOS[0]))
    w = tf.where(ratio > RATIOS[1], w, width)
    h = tf.where(ratio < RATIOS[0], h, height)
    return tf.stack([(height - h) // 2, (width - w) // 2, h, w])


def _place(number, room):
    """Maps a number in [0, 1) to one of room + 1 positions."""
    return tf.cast(tf.floor(number * tf.cast(room + 1, tf.float64)), tf.int32)


def _rounded(value):
    return tf.cast(tf.round(value), tf.int32)  # half to even, as Python
