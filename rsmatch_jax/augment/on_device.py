"""Weak and strong views of a batch on the device, bit-exact with Pillow.

Random numbers are drawn apart from their use, for the global batch, from one key. The
strong view is USB's (randaugment.py): crop, flip, RandAugment, Cutout on uint8. Values
of operations lie on a grid of views.LEVELS levels, so that all of it is integers and
tables; the law is otherwise that of the TensorFlow path.
"""

import functools
import math

import flax.struct
import jax
import jax.numpy as jnp

from rsmatch_jax.augment import ops as operations
from rsmatch_jax.augment import views
from rsmatch_jax.augment.tables import Tables, make_tables

__all__ = ["Numbers", "Tables", "draw", "make_tables", "strong", "weak", "weak_view"]


@flax.struct.dataclass
class Numbers:
    """Random numbers of N views; the rows lead, so any part of a batch has its part.

    shift: int32 [N, 2], vertical and horizontal crop offset, 0..2 * crop_pad.
    flip: bool [N]. Of strong views also
    ops: int32 [N, randaugment_ops], positions in views.OPS, in the order of use.
    levels: int32 [N, randaugment_ops], 0..views.LEVELS-1; for views.value.
    cutout: int32 [N, 3], levels of the side (of 0 up to views.CUTOUT_MAX times the
      image's) and of the centre's y and x (of the size down to 1).
    """

    shift: jax.Array
    flip: jax.Array
    ops: jax.Array | None = None
    levels: jax.Array | None = None
    cutout: jax.Array | None = None


def draw(key: jax.Array, rows: int, spec: views.ViewSpec, strong: bool) -> Numbers:
    """Numbers of `rows` weak or strong views: those of the whole global batch, of which
    parallel.local_rows takes a device's, so that views do not depend on their number.

    key: typed key. Whole 32-bit words are reduced to a range: no value is more likely
    than another by more than one in 10**7.
    """
    slots = spec.randaugment_ops if strong else 0
    words = jax.random.bits(key, (rows, 3 + 2 * slots + 3 * strong), jnp.uint32)
    shift = _below(words[:, :2], 2 * spec.crop_pad + 1)
    flip = _below(words[:, 2], 2 if spec.flip else 1) == 1
    if not strong:
        return Numbers(shift, flip)
    return Numbers(
        shift,
        flip,
        ops=_below(words[:, 3 : 3 + slots], len(views.OPS)),
        levels=_below(words[:, 3 + slots : 3 + 2 * slots], views.LEVELS),
        cutout=_below(words[:, 3 + 2 * slots :], views.LEVELS),
    )


def weak(images: jax.Array, numbers: Numbers, spec: views.ViewSpec) -> jax.Array:
    """Random crop after reflect padding (edge not repeated), then left-right flip.

    images: uint8 [N, S, S, C], S > spec.crop_pad. Returns the same shape and type.
    Of `weak(dataset[indices], ...)` XLA makes a single lookup.
    """
    if not (spec.flip or spec.crop_pad):
        return images
    axis = jnp.arange(images.shape[1], dtype=jnp.int32)
    y, x = _crop(axis[None, :, None], axis[None, None, :], numbers, spec, axis.size)
    row = jnp.arange(images.shape[0], dtype=jnp.int32)[:, None, None]
    return jnp.asarray(images).at[row, y, x].get(mode="promise_in_bounds")


def strong(
    images: jax.Array, numbers: Numbers, tables: Tables | None, spec: views.ViewSpec
) -> jax.Array:
    """The weak view's crop and flip, then spec.randaugment_ops operations and Cutout.

    images: uint8 [N, S, S, 3], S > spec.crop_pad; tables: make_tables(S, spec). Returns
    the images' shape and type.
    """
    if not spec.randaugment_ops:
        images = weak(images, numbers, spec)
        return _cutout(images, numbers.cutout) if spec.cutout else images

    def augment(capacity):
        return _strong(images, numbers, tables, spec, capacity)

    count = images.shape[0]
    capacity = min(count, _capacity(count))
    if capacity == count:
        return augment(count)
    return jax.lax.cond(
        operations.most_drawn(numbers.ops) <= capacity,
        lambda: augment(capacity),
        lambda: augment(count),
    )


def weak_view(
    key: jax.Array, images: jax.Array, *, flip: bool, crop_pad: int
) -> jax.Array:
    """A weak view of each image, drawn from the key: uint8 [N, S, S, C] -> the same."""
    spec = views.ViewSpec(flip, crop_pad, randaugment_ops=0, cutout=False)
    return weak(images, draw(key, images.shape[0], spec, strong=False), spec)


def _below(words, stop):
    return (words % stop).astype(jnp.int32)


def _crop(y, x, numbers, spec, size):
    """Where pixel (y, x) of the weak view lies in the image that it is made of."""
    last = size - 1
    x = jnp.where(numbers.flip[:, None, None], last - x, x)
    shift = numbers.shift[:, :, None, None] - spec.crop_pad
    return _reflect(y + shift[:, 0], last), _reflect(x + shift[:, 1], last)


def _reflect(t, last):
    return last - jnp.abs(last - jnp.abs(t))


def _capacity(count):
    """Rows of `count` that may draw an operation before it is computed on all of them:
    4 standard deviations above the mean, passed in about one slot of 10**5."""
    share = 1 / len(views.OPS)
    return math.ceil(count * share + 4 * math.sqrt(count * share * (1 - share)) + 4)


def _strong(images, numbers, tables, spec, capacity):
    count, size = images.shape[:2]
    last = size - 1

    def warp(images, ops, levels, crop=lambda y, x: (y, x)):
        y_in, x_in = operations.geometry(ops, levels, tables, size)
        inside = (y_in >= 0) & (y_in < size) & (x_in >= 0) & (x_in < size)
        y_in, x_in = crop(jnp.clip(y_in, 0, last), jnp.clip(x_in, 0, last))
        return jnp.where(inside[..., None], operations.look_up(images, y_in, x_in), 0)

    # A slot is a colour operation, then the next slot's warp: the pixels pass from one
    # to the other as the loop's carry. Otherwise XLA would repeat the lookup in each of
    # the colour operations' several uses of it, 1.5 times slower on a CPU.
    ops, levels = numbers.ops.T, numbers.levels.T
    identity = jnp.full((1, count), views.OP_NAMES.index("identity"), jnp.int32)
    crop = functools.partial(_crop, numbers=numbers, spec=spec, size=size)
    images = warp(images, ops[0], levels[0], crop)

    def slot(x, drawn):
        op, level, next_op, next_level = drawn
        x = operations.colour(x, op, level, tables, capacity)
        return warp(x, next_op, next_level), None

    next_ops = jnp.concatenate([ops[1:], identity])
    next_levels = jnp.concatenate([levels[1:], levels[:1]])
    images, _ = jax.lax.scan(slot, images, (ops, levels, next_ops, next_levels))
    return _cutout(images, numbers.cutout) if spec.cutout else images


def _cutout(images, levels):
    """Paints one square per image; both its edges are inclusive, as Pillow draws.

    A side of s pixels covers floor(s) + 1, fewer at the right and bottom; of 0 none.
    """
    size = images.shape[1]
    # In units of 2**-18 pixels all is whole. The centre is in (1, size]: USB calls
    # uniform(size), whose one argument is the lower bound.
    half = size * levels[:, :1]
    centre = (size << 18) - ((size - 1) << 2) * levels[:, 1:]
    start = jnp.maximum(centre - half, 0) >> 18
    stop = jnp.minimum(start + (half >> 17), size)
    axis = jnp.arange(size, dtype=jnp.int32)[None, None, :]
    inside = (axis >= start[..., None]) & (axis <= stop[..., None])
    inside &= half[..., None] > 0
    fill = jnp.array(views.CUTOUT_FILL, jnp.uint8)[None, None, None, :]
    painted = inside[:, 0, :, None] & inside[:, 1, None, :]
    return jnp.where(painted[..., None], fill, images)
