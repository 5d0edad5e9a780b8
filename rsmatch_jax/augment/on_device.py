"""Weak and strong views of a batch on the device, bit-exact with Pillow.

`draw` makes the random numbers; `weak` and `strong` apply them. The strong view is
USB's (randaugment.py): crop, flip, RandAugment, Cutout, on uint8. An operation's value
is one of views.LEVELS levels, so integers and tables are enough.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32, Key, UInt8

from rsmatch_jax.augment import ops as operations
from rsmatch_jax.augment import views
from rsmatch_jax.augment.tables import Numbers, Tables, make_tables
from rsmatch_jax.runtime import parallel

__all__ = [
    "Numbers",
    "Tables",
    "draw",
    "make_tables",
    "strong",
    "turned",
    "weak",
    "weak_view",
]


def draw(
    key: Key[Array, ""], rows: int, spec: views.ViewSpec, strong: bool, axis: str | None
) -> Numbers:
    """Returns the random numbers of this device's rows of weak or strong views.

    They are drawn for the global batch, from a key that is the same on all devices, so
    they do not depend on the number of devices. 32-bit words are reduced to a range: no
    value is more likely than another by more than one in 10**7. rows: on each device.
    axis: the mapped axis, None = one device.
    """
    return draw_together(key[None], [rows], spec, [strong], axis)[0]


def draw_together(
    keys: Key[Array, " k"],
    rows: Sequence[int],
    spec: views.ViewSpec,
    strong: Sequence[bool],
    axis: str | None,
) -> list[Numbers]:
    """Returns what `draw` returns for each key. A GPU draws all words in one kernel."""
    devices = parallel.num_devices(axis)
    widths = [_width(spec, s) for s in strong]
    sizes = [n * devices * width for n, width in zip(rows, widths, strict=True)]
    # A key's words are the same in any shape, read row by row.
    words = jax.vmap(lambda key: jax.random.bits(key, (max(sizes),), jnp.uint32))(keys)
    return [
        _numbers(drawn[:size].reshape(-1, width), spec, s, axis)
        for drawn, size, width, s in zip(words, sizes, widths, strong, strict=True)
    ]


def _width(spec, strong):
    """Words of a row: crop 2, flip 1, operations, their levels, Cutout 3."""
    return 3 + (2 * spec.randaugment_ops + 3 if strong else 0)


def _numbers(words, spec, strong, axis):
    def below(stop, first, last):
        return (words[:, first:last] % stop).astype(jnp.int32)

    numbers = Numbers(
        shift=below(2 * spec.crop_pad + 1, 0, 2),
        flip=below(2 if spec.flip else 1, 2, 3)[:, 0] == 1,
    )
    if strong:
        slots = spec.randaugment_ops
        numbers = dataclasses.replace(
            numbers,
            ops=below(len(views.OPS), 3, 3 + slots),
            levels=below(views.LEVELS, 3 + slots, 3 + 2 * slots),
            cutout=below(views.LEVELS, 3 + 2 * slots, None),
        )
    return jax.tree.map(lambda x: parallel.local_rows(x, axis), numbers)


def weak(
    images: UInt8[Array, "n s s c"], numbers: Numbers, spec: views.ViewSpec
) -> UInt8[Array, "n s s c"]:
    """Returns the random crop after reflect padding (edge not repeated), then flip.
    XLA turns `weak(dataset[indices], ...)` into a single lookup."""
    if not (spec.flip or spec.crop_pad):
        return images
    axis = jnp.arange(images.shape[1], dtype=jnp.int32)
    y, x = _crop(axis[None, :, None], axis[None, None, :], numbers, spec, axis.size)
    row = jnp.arange(images.shape[0], dtype=jnp.int32)[:, None, None]
    return images.at[row, y, x].get(mode="promise_in_bounds")


def strong(
    images: UInt8[Array, "n s s 3"],
    numbers: Numbers,
    tables: Tables | None,
    spec: views.ViewSpec,
) -> UInt8[Array, "n s s 3"]:
    """Returns crop and flip, then spec.randaugment_ops operations, then Cutout.
    tables: make_tables(S, spec)."""
    assert numbers.ops is not None and numbers.cutout is not None
    count = images.shape[0]
    if not spec.randaugment_ops:
        images = weak(images, numbers, spec)
    else:
        augment = functools.partial(_augment, images, numbers, tables, spec)
        # A CPU saves time on few rows. A GPU does not, and its host would have to wait
        # at every step for the answer which branch to start.
        images = jax.lax.platform_dependent(
            cpu=functools.partial(_on_few_rows, augment, numbers.ops),
            default=functools.partial(augment, count, unroll=True),
        )
    return _cutout(images, numbers.cutout) if spec.cutout else images


def weak_view(
    key: Key[Array, ""],
    images: UInt8[Array, "n s s c"],
    *,
    flip: bool,
    crop_pad: int,
    axis: str | None,
) -> UInt8[Array, "n s s c"]:
    """Returns a weak view of each image, drawn from the key; key and axis as `draw`."""
    spec = views.ViewSpec(flip, crop_pad, randaugment_ops=0, cutout=False)
    return weak(images, draw(key, images.shape[0], spec, False, axis), spec)


def turned(
    key: Key[Array, ""], images: UInt8[Array, "n s s c"], axis: str | None
) -> UInt8[Array, "n s s c"]:
    """Returns each image in one of the eight positions of a square, all equally likely.
    Pixels keep their neighbours and values. Key and axis as in `draw`."""
    rows = images.shape[0] * parallel.num_devices(axis)
    choice = parallel.local_rows(jax.random.randint(key, (rows,), 0, 8), axis)
    for bit in range(3):  # transpose, turn upside down, mirror
        other = jnp.swapaxes(images, 1, 2) if bit == 0 else jnp.flip(images, bit)
        chosen = (choice >> bit & 1 == 1)[:, None, None, None]
        images = jnp.where(chosen, other, images)
    return images


def _crop(y, x, numbers, spec, size):
    """Position in the image from which pixel (y, x) of the weak view is read."""

    def reflect(t):
        return last - jnp.abs(last - jnp.abs(t))

    last = size - 1
    x = jnp.where(numbers.flip[:, None, None], last - x, x)
    shift = numbers.shift[:, :, None, None] - spec.crop_pad
    return reflect(y + shift[:, 0]), reflect(x + shift[:, 1])


def _capacity(count: int) -> int:
    """Rows that may draw an operation before it is computed on all `count` rows: 4
    standard deviations above the mean; about one slot in 10**5 exceeds it."""
    share = 1 / len(views.OPS)
    return math.ceil(count * share + 4 * math.sqrt(count * share * (1 - share)) + 4)


def _on_few_rows(augment, ops):
    """Calls augment with a capacity below the number of rows, if that suffices."""
    count, capacity = len(ops), _capacity(len(ops))
    if capacity >= count:
        return augment(count)
    fits = operations.most_drawn(ops) <= capacity
    return jax.lax.cond(fits, lambda: augment(capacity), lambda: augment(count))


def _augment(images, numbers, tables, spec, capacity, unroll=False):
    """Applies crop, flip and the operations; capacity as in `ops.colour`. unroll: for a
    GPU, which would copy the carry at each turn of the loop."""
    count, size = images.shape[:2]
    last = size - 1
    tables = jax.tree.map(jnp.asarray, tables)  # numpy cannot be indexed by tracers

    def warp(images, maps, crop=lambda y, x: (y, x)):
        y_in, x_in = operations.geometry(maps, size)
        inside = (y_in >= 0) & (y_in < size) & (x_in >= 0) & (x_in < size)
        y_in, x_in = crop(jnp.clip(y_in, 0, last), jnp.clip(x_in, 0, last))
        return jnp.where(inside[..., None], operations.look_up(images, y_in, x_in), 0)

    # A turn of the loop is a slot's colour operation and the next slot's warp, so that
    # the warp's pixels are the loop's carry. Otherwise XLA repeats the lookup for each
    # use of it in the colour operations, 1.5 times slower on a CPU.
    ops, levels = numbers.ops.T, numbers.levels.T
    identity = jnp.full((1, count), views.OP_NAMES.index("identity"), jnp.int32)
    maps = operations.affine(
        jnp.concatenate([ops, identity]), jnp.concatenate([levels, levels[:1]]), tables
    )
    crop = functools.partial(_crop, numbers=numbers, spec=spec, size=size)
    images = warp(images, maps[0], crop)

    def slot(x, drawn):
        op, level, next_maps = drawn
        x = operations.colour(x, op, level, tables, capacity)
        return warp(x, next_maps), None

    return jax.lax.scan(slot, images, (ops, levels, maps[1:]), unroll=unroll)[0]


def _cutout(
    images: UInt8[Array, "n s s 3"], levels: Int32[Array, "n 3"]
) -> UInt8[Array, "n s s 3"]:
    """Paints one square per image; its edges are inclusive, as Pillow's: a side of s
    pixels covers floor(s) + 1, fewer at the right and bottom; a side of 0 covers none.
    """
    size = images.shape[1]
    # All numbers are integers in units of 2**-18 pixels. The centre is in (1, size]:
    # USB calls uniform(size), whose one argument is the lower bound.
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
