"""Weak and strong views of a batch in TensorFlow, bit-exact with Pillow.

The random numbers are stateless, so a step's views do not depend on how the pipeline
runs. The strong view is USB's (randaugment.py): crop, flip, RandAugment, Cutout.
"""

import math

from rsmatch_jax.augment import views
from rsmatch_jax.data.stores.tf_import import tf

_Numbers = dict[str, tf.Tensor]


def draw(
    seed: int,
    step: tf.Tensor,
    purpose: str,
    rows: int,
    spec: views.ViewSpec,
    tries: int = 0,
) -> _Numbers:
    """Returns the random numbers of one step's views of a purpose (views.PURPOSES).

    shift: int32 [rows, 2], vertical and horizontal crop offset, 0..2 * crop_pad.
    flip: bool [rows]. If tries > 0 also
    crop: float64 [rows, tries, 4], in [0, 1), for `tf_crop.box`. Strong views add
    ops: int32 [rows, randaugment_ops], positions in views.OPS.
    values: float64 [rows, randaugment_ops], in the unit of the drawn operation.
    cutout: float64 [rows, 3], side as a share of the image, then centre y and x as
      uniform numbers in [0, 1) that `cutout` maps to (1, size].
    """
    key = tf.stack([tf.cast(seed, tf.int64), tf.cast(step, tf.int64)])
    key = _fold_in(key, views.PURPOSES.index(purpose))
    shift = _integers(_fold_in(key, 0), [rows, 2], 2 * spec.crop_pad + 1)
    flip = _integers(_fold_in(key, 1), [rows], 2 if spec.flip else 1) == 1
    numbers = {"shift": shift, "flip": flip}
    if tries:
        numbers["crop"] = _uniform(_fold_in(key, 5), [rows, tries, 4])
    if purpose == "strong":
        slots = [spec.randaugment_ops, rows]
        ops = _integers(_fold_in(key, 2), slots, len(views.OPS))
        ranges = tf.constant([op[1:] for op in views.OPS], tf.float64)
        low, high = tf.unstack(tf.gather(ranges, ops), axis=-1)
        values = low + (high - low) * _uniform(_fold_in(key, 3), slots)
        share = tf.constant([views.CUTOUT_MAX, 1.0, 1.0], tf.float64)
        numbers["ops"], numbers["values"] = tf.transpose(ops), tf.transpose(values)
        numbers["cutout"] = share * _uniform(_fold_in(key, 4), [rows, 3])
    return numbers


def weak(images: tf.Tensor, numbers: _Numbers, spec: views.ViewSpec) -> tf.Tensor:
    """Crops uint8 [N, S, S, 3] with reflect padding (edge not repeated), then flips."""
    if not (spec.flip or spec.crop_pad):
        return images
    size = images.shape[1]
    assert size is not None
    last, axis = size - 1, tf.range(size)
    columns = tf.where(numbers["flip"][:, None], last - axis, axis)
    y = _reflect(axis + numbers["shift"][:, :1] - spec.crop_pad, last)
    x = _reflect(columns + numbers["shift"][:, 1:] - spec.crop_pad, last)
    row = tf.range(tf.shape(images)[0])[:, None, None]
    source = (row * size + y[:, :, None]) * size + x[:, None, :]
    return tf.gather(tf.reshape(images, [-1, 3]), source)


def strong(images: tf.Tensor, numbers: _Numbers, spec: views.ViewSpec) -> tf.Tensor:
    """Applies `weak`, then `distort`."""
    return distort(weak(images, numbers, spec), numbers, spec)


def distort(images: tf.Tensor, numbers: _Numbers, spec: views.ViewSpec) -> tf.Tensor:
    """Applies spec.randaugment_ops operations, then Cutout: uint8 [N, S, S, 3]."""
    for slot in range(spec.randaugment_ops):
        ops, values = numbers["ops"][:, slot], numbers["values"][:, slot]
        images = apply_ops(images, ops, values)
    return cutout(images, numbers["cutout"]) if spec.cutout else images


def apply_ops(images: tf.Tensor, ops: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Applies an operation per image: uint8 [N, S, S, 3] -> the same.

    ops: int32 [N], positions in views.OPS; values: float64 [N], in the operation's
    unit. Each operation is computed only for the rows that drew it.
    """
    warp_group = views.OP_NAMES.index(views.GEOMETRIC[0])
    to_group = [
        warp_group if name in views.GEOMETRIC else index
        for index, name in enumerate(views.OP_NAMES)
    ]
    groups = tf.gather(tf.constant(to_group, tf.int32), ops)
    rows, image_groups, op_groups, value_groups = (
        tf.dynamic_partition(column, groups, len(views.OPS))
        for column in (tf.range(tf.shape(images)[0]), images, ops, values)
    )
    for group, name in enumerate(views.OP_NAMES):
        x, value = image_groups[group], value_groups[group]
        if group == warp_group:
            image_groups[group] = _warp(x, op_groups[group], value)
        elif name in _PIXEL_OPS:
            image_groups[group] = _PIXEL_OPS[name](x, value[:, None, None, None])
    return tf.ensure_shape(tf.dynamic_stitch(rows, image_groups), images.shape)


def cutout(images: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    """Paints one square on each of uint8 [N, S, S, 3]; numbers: `cutout` of `draw`.

    Edges are inclusive, as Pillow's: a side of s pixels covers floor(s) + 1, fewer at
    the right and bottom. A share of 0 covers none.
    """
    size = images.shape[1]
    assert size is not None
    side = size * numbers[:, :1]
    # In (1, size]: USB calls uniform(size), whose one argument is the lower bound.
    centre = size + (1 - size) * numbers[:, 1:]
    start = tf.floor(tf.maximum(centre - side / 2, 0))
    stop = tf.floor(tf.minimum(start + side, size))
    axis = tf.range(size, dtype=tf.float64)
    inside = (axis >= start[..., None]) & (axis <= stop[..., None])
    inside &= side[..., None] > 0
    pixels = tf.where(inside[:, 0, :, None] & inside[:, 1, None, :])
    fill = tf.constant([views.CUTOUT_FILL], tf.uint8)
    fill = tf.repeat(fill, tf.shape(pixels)[0], axis=0)
    return tf.tensor_scatter_nd_update(images, pixels, fill)


def _fold_in(key, data):
    return tf.random.fold_in(key, tf.cast(data, tf.int64), alg="philox")


def _integers(key, shape, stop):
    return tf.random.stateless_uniform(
        shape, key, minval=0, maxval=stop, dtype=tf.int32, alg="philox"
    )


def _uniform(key, shape):
    return tf.random.stateless_uniform(shape, key, dtype=tf.float64, alg="philox")


def _reflect(t, last):
    return last - tf.abs(last - tf.abs(t))


def _warp(x, ops, value):
    """Nearest-neighbour affine maps, fill 0, in Pillow's 16.16 fixed point. Output
    pixel (x, y) reads the pixel at (a x + b y + c, d x + e y + f)."""
    size = x.shape[1]
    a, b, c, d, e, f = _affine(ops, value, size)
    row = tf.range(tf.shape(x)[0])[:, None, None]
    out_x = tf.range(size)
    out_y = out_x[:, None]
    in_x = tf.bitwise.right_shift(c + a * out_x + b * out_y, 16)
    in_y = tf.bitwise.right_shift(f + d * out_x + e * out_y, 16)
    inside = (in_x >= 0) & (in_x < size) & (in_y >= 0) & (in_y < size)
    # Looking up a black pixel in front is cheaper than a broadcast selection.
    source = tf.where(inside, 1 + (row * size + in_y) * size + in_x, 0)
    black = tf.zeros([1, 3], tf.uint8)
    return tf.gather(tf.concat([black, tf.reshape(x, [-1, 3])], axis=0), source)


def _affine(ops, value, size):
    """Returns six fixed-point coefficients, each int32 [M, 1, 1]."""

    def drawn(name):
        return ops == views.OP_NAMES.index(name)

    angle = tf.where(drawn("rotate"), -value * (math.pi / 180), 0.0)
    cos, sin = tf.cos(angle), tf.sin(angle)
    centre = size / 2
    a, b = cos, sin + tf.where(drawn("shear_x"), value, 0.0)
    d, e = -sin + tf.where(drawn("shear_y"), value, 0.0), cos
    # Rotation is about the centre, shear about the top left corner.
    c = centre - centre * cos - centre * sin
    f = centre + centre * sin - centre * cos
    # Offsets of the first pixel's centre. Pillow rounds them to 1/65536, but in a pure
    # translation it rounds the exact number to whole pixels.
    c = _fixed(c + 0.5 * a + 0.5 * b)
    f = _fixed(f + 0.5 * d + 0.5 * e)
    moved = tf.cast(tf.floor(value * size + 0.5), tf.int32) * 65536
    c = tf.where(drawn("translate_x"), moved, c)
    f = tf.where(drawn("translate_y"), moved, f)
    coefficients = (_fixed(a), _fixed(b), c, _fixed(d), _fixed(e), f)
    return [t[:, None, None] for t in coefficients]


def _fixed(v):
    return tf.cast(tf.floor(v * 65536 + 0.5), tf.int32)


def _blend(degenerate, x, value):
    # Pillow's blend: single precision, truncated.
    start = tf.cast(degenerate, tf.float32)
    factor = tf.cast(value, tf.float32)
    return tf.cast(start + factor * (tf.cast(x, tf.float32) - start), tf.uint8)


def _luma(x):
    """Converts to grey as Pillow does: uint8 [M, S, S, 3] -> int32 [M, S, S, 1]."""
    p = tf.cast(x, tf.int32)
    mixed = 19595 * p[..., :1] + 38470 * p[..., 1:2] + 7471 * p[..., 2:] + 32768
    return tf.bitwise.right_shift(mixed, 16)


def _channel_levels(x):
    """Returns pixels as positions in tables of 256, one per image and channel."""
    offsets = tf.reshape(tf.range(tf.shape(x)[0] * 3) * 256, [-1, 1, 1, 3])
    return tf.cast(x, tf.int32) + offsets


def _autocontrast(x):
    low, high = (
        tf.cast(tf.reshape(reduce(x, axis=(1, 2)), [-1, 1]), tf.float64)
        for reduce in (tf.reduce_min, tf.reduce_max)
    )
    # Double precision: single precision is off by one in 0.6 % of the pixels.
    level = tf.range(256, dtype=tf.float64)
    scale = 255 / tf.maximum(high - low, 1)
    stretched = tf.clip_by_value(level * scale - low * scale, 0, 255)
    table = tf.cast(tf.where(high > low, stretched, level), tf.uint8)
    return tf.gather(tf.reshape(table, [-1]), _channel_levels(x))


def _contrast(x, value):
    pixels = x.shape[1] * x.shape[2]
    # 32 bits hold the sum, doubled, of at most 2048 pixels a side.
    total = tf.reduce_sum(tf.cast(_luma(x), tf.int64), (1, 2, 3), keepdims=True)
    return _blend((2 * total + pixels) // (2 * pixels), x, value)


def _sharpness(x, value):
    p = tf.cast(x, tf.int32)
    three_rows = p[:, :-2] + p[:, 1:-1] + p[:, 2:]
    box = three_rows[:, :, :-2] + three_rows[:, :, 1:-1] + three_rows[:, :, 2:]
    inner = p[:, 1:-1, 1:-1]
    smooth = (2 * (box + 4 * inner) + 13) // 26  # rounds (neighbours + 5 centre) / 13
    # Pillow's 3 x 3 filters leave the outermost ring as it is.
    frame = [[0, 0], [1, 1], [1, 1], [0, 0]]
    return _blend(p + tf.pad(smooth - inner, frame), x, value)


def _equalize(x):
    levels = _channel_levels(x)
    counts = tf.math.unsorted_segment_sum(
        tf.ones_like(levels), levels, tf.shape(x)[0] * 3 * 256
    )
    counts = tf.reshape(counts, [-1, 256])
    brightest = tf.cast(tf.reduce_max(x, axis=(1, 2)), tf.int32)
    last = tf.gather(counts, tf.reshape(brightest, [-1]), batch_dims=1)
    # Also zero if the channel has a single level. Both leave the channel as it is.
    step = (tf.reduce_sum(counts, axis=1) - last)[:, None] // 255
    divisor = tf.maximum(step, 1)
    below = tf.cumsum(counts, axis=1, exclusive=True)
    spread = tf.minimum((step // 2 + below) // divisor, 255)
    table = tf.cast(tf.where(step > 0, spread, tf.range(256)), tf.uint8)
    return tf.gather(tf.reshape(table, [-1]), levels)


def _posterize(x, value):
    bits = tf.cast(value, tf.int32)  # 4..7: 8 has probability 0
    mask = tf.bitwise.left_shift(255, 8 - bits) & 255
    return tf.bitwise.bitwise_and(x, tf.cast(mask, tf.uint8))


def _solarize(x, value):
    # For integer p, p >= v means p >= ceil(v); 255 - p is p with all bits inverted.
    threshold = tf.cast(tf.math.ceil(value), tf.int16)
    inverted = tf.cast(tf.cast(x, tf.int16) >= threshold, tf.uint8) * 255
    return tf.bitwise.bitwise_xor(x, inverted)


_PIXEL_OPS = {
    "autocontrast": lambda x, value: _autocontrast(x),
    "brightness": lambda x, value: _blend(tf.zeros([], tf.uint8), x, value),
    "color": lambda x, value: _blend(_luma(x), x, value),
    "contrast": _contrast,
    "equalize": lambda x, value: _equalize(x),
    "posterize": _posterize,
    "sharpness": _sharpness,
    "solarize": _solarize,
}
