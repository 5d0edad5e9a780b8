"""RandAugment's operations on batches, one operation per row, bit-exact with Pillow.

Shapes are static; there is no convolution and no double precision. Cheap operations are
computed on all rows.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32, UInt8

from rsmatch_jax.augment import views
from rsmatch_jax.augment.tables import Tables

_COUNT_BITS = 23  # a level and a number of pixels share 31 bits: sides up to 2896


def affine(
    ops: Int32[Array, "*n"], levels: Int32[Array, "*n"], tables: Tables
) -> Int32[Array, "*n 6"]:
    """Returns the map of each operation, see `Tables.affine`; the identity unless it is
    geometric. ops: positions in views.OPS."""
    which = jnp.zeros_like(ops)
    for i, name in enumerate(views.GEOMETRIC):
        which = jnp.where(_drew(ops, name), 1 + i, which)
    moved = tables.affine[jnp.maximum(which - 1, 0), levels]
    still = jnp.array([65536, 0, 32768, 0, 65536, 32768], jnp.int32)
    return jnp.where((which > 0)[..., None], moved, still)


def geometry(
    maps: Int32[Array, "n 6"], size: int
) -> tuple[Int32[Array, "n s s"], Int32[Array, "n s s"]]:
    """Returns the row and the column from which each output pixel is read; a number
    outside 0..S-1 means black."""
    a, b, c, d, e, f = maps.T[:, :, None, None]
    y = jnp.arange(size, dtype=jnp.int32)[None, :, None]
    x = jnp.arange(size, dtype=jnp.int32)[None, None, :]
    return (f + d * x + e * y) >> 16, (c + a * x + b * y) >> 16


def look_up(
    images: UInt8[Array, "n s s c"], y: Int32[Array, "n s s"], x: Int32[Array, "n s s"]
) -> UInt8[Array, "n s s c"]:
    """Returns the pixels (y, x) of each image; all lie inside it."""
    count, size, _, channels = images.shape
    row = jnp.arange(count, dtype=jnp.int32)[:, None, None]
    pixels = images.reshape(count * size * size, channels)
    return pixels.at[(row * size + y) * size + x].get(mode="promise_in_bounds")


def colour(
    images: UInt8[Array, "n s s 3"],
    ops: Int32[Array, " n"],
    levels: Int32[Array, " n"],
    tables: Tables,
    capacity: int,
) -> UInt8[Array, "n s s 3"]:
    """Applies each row's operation, unless it is geometric. capacity: the most rows
    that may draw each of the EXPENSIVE operations."""
    count, factor = images.shape[0], tables.factor[levels]
    if capacity >= count:
        return _on_all_rows(images, ops, levels, factor, tables)
    total = jnp.sum(_luma(images)[..., 0], axis=(1, 2))
    changed = _cheap(images, ops, levels, factor, total)
    for name, apply in EXPENSIVE.items():
        rows = jnp.nonzero(_drew(ops, name), size=capacity, fill_value=count)[0]
        few, strength = (x.at[rows].get(mode="clip") for x in (images, factor))
        changed = changed.at[rows].set(apply(few, strength, tables), mode="drop")
    return changed


def _on_all_rows(images, ops, levels, factor, tables):
    """`colour` without a capacity. A histogram of colours and grey has all statistics,
    so that a GPU needs four kernels: its counts, their sums, the table of Equalize, and
    all operations with the next lookup."""
    counts = _histogram(jnp.concatenate([images, _luma(images)[..., :1]], axis=3))
    level = jnp.arange(256, dtype=jnp.int32)[None, None]
    total = jnp.sum(counts * level, axis=2)[:, 3]
    lowest = jnp.min(jnp.where(counts > 0, level, 255), axis=2)
    top = _brightest(counts)
    low, high = (x[:, None, None, :3] for x in (lowest, top >> _COUNT_BITS))
    p = images.astype(jnp.int32)
    changed = _cheap(images, ops, levels, factor, total)
    results = {
        "autocontrast": tables.autocontrast[low, high, p],
        "equalize": _spread(images, _darker(counts), top),
        "sharpness": _sharpness(images, factor, tables),
    }
    for name, result in results.items():
        changed = jnp.where(_per_image(_drew(ops, name)), result, changed)
    return changed


def most_drawn(ops: Int32[Array, "n slots"]) -> Int32[Array, ""]:
    """Returns the most rows that drew one operation with a capacity in one slot."""
    counts = [jnp.sum(_drew(ops, n), axis=0, dtype=jnp.int32) for n in EXPENSIVE]
    return jnp.max(jnp.stack(counts))


def _drew(ops, name):
    return ops == views.OP_NAMES.index(name)


def _per_image(x):
    return x[:, None, None, None]


def _blend(degenerate, x, factor):
    """Pillow's blend, single precision truncated, uint8.

    degenerate: int32, broadcasts to x; x: int32 [M, S, S, 3]; factor: float32 [M].
    Pillow rounds the product before the sum. Compilers may fuse both into one rounding,
    which changes some pixels. So the factor is split into 16 and 8 bits, whose products
    with 8-bit differences are exact: fusing them then changes nothing.
    """
    bits = jax.lax.bitcast_convert_type(factor, jnp.int32)
    head = jax.lax.bitcast_convert_type(bits & ~0xFF, jnp.float32)
    tail = factor - head
    start = degenerate.astype(jnp.float32)
    difference = x.astype(jnp.float32) - start
    product = _per_image(head) * difference + _per_image(tail) * difference
    return (start + product).astype(jnp.int32).astype(jnp.uint8)


def _luma(x):
    """Converts to grey as Pillow does: uint8 [M, S, S, 3] -> int32, in each channel.
    With a single channel, a GPU computes it in a kernel of its own."""
    p = x.astype(jnp.int32)
    red, green, blue = (jnp.broadcast_to(p[..., i : i + 1], p.shape) for i in range(3))
    return (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16


def _cheap(x, ops, levels, factor, total):
    """All operations but the EXPENSIVE ones. total: each image's sum of luma."""
    return _mask_bits(_enhance(x, ops, factor, total), ops, levels)


def _enhance(x, ops, factor, total):
    """Brightness, Color and Contrast; other rows have factor 1, which is exact."""
    p, luma = x.astype(jnp.int32), _luma(x)
    pixels = x.shape[1] * x.shape[2]
    # Unsigned: the usual numbers of pixels make this division a shift.
    mean = ((2 * total + pixels).astype(jnp.uint32) // (2 * pixels)).astype(jnp.int32)
    brightness, color, contrast = (
        _drew(ops, name) for name in ("brightness", "color", "contrast")
    )
    flat = jnp.where(contrast, mean, 0)
    degenerate = jnp.where(_per_image(color), luma, _per_image(flat))
    factor = jnp.where(brightness | color | contrast, factor, jnp.float32(1))
    return _blend(degenerate, p, factor)


def _mask_bits(x, ops, levels):
    """Posterize to 4..7 bits, and Solarize: 255 - p is p with all bits inverted."""
    bits = 4 + (levels >> 14)
    mask = jnp.where(_drew(ops, "posterize"), (255 << (8 - bits)) & 255, 255)
    # For integer p, p >= v means p >= ceil(v), and v is (levels + 0.5) / 256.
    threshold = jnp.where(_drew(ops, "solarize"), 1 + (levels >> 8), 256)
    inverted = jnp.where(x.astype(jnp.int32) >= _per_image(threshold), 255, 0)
    return (x & _per_image(mask).astype(jnp.uint8)) ^ inverted.astype(jnp.uint8)


def _autocontrast(x, factor, tables):
    p = x.astype(jnp.int32)
    low, high = (f(p, axis=(1, 2), keepdims=True) for f in (jnp.min, jnp.max))
    return tables.autocontrast[low, high, p]


def _sharpness(x, factor, tables):
    p = x.astype(jnp.int32)
    three_rows = p[:, :-2] + p[:, 1:-1] + p[:, 2:]
    box = three_rows[:, :, :-2] + three_rows[:, :, 1:-1] + three_rows[:, :, 2:]
    inner = p[:, 1:-1, 1:-1]
    smooth = (2 * (box + 4 * inner) + 13) // 26  # rounds (neighbours + 5 centre) / 13
    # Pillow's 3 x 3 filters leave the outermost ring as it is.
    return _blend(p.at[:, 1:-1, 1:-1].set(smooth), p, factor)


def _equalize(x, factor, tables):
    counts = _histogram(x)
    return _spread(x, jnp.cumsum(counts, axis=2) - counts, _brightest(counts))


def _histogram(x):
    """Pixels of each level: [M, S, S, C] -> int32 [M, C, 256]."""
    shape = (x.shape[0], x.shape[3], 256)
    counts = jnp.zeros(math.prod(shape), jnp.int32).at[_bins(x)].add(1)
    return counts.reshape(shape)


def _bins(x):
    """Positions in flat [M, C, 256] tables: one table per image and channel."""
    row, channel = (jax.lax.broadcasted_iota(jnp.int32, x.shape, i) for i in (0, 3))
    return (row * x.shape[3] + channel) * 256 + x.astype(jnp.int32)


def _brightest(counts):
    """The highest level of each channel, shifted by _COUNT_BITS, and its pixels."""
    level = jnp.arange(256, dtype=jnp.int32)[None, None]
    both = (level << _COUNT_BITS) + counts
    return jnp.max(jnp.where(counts > 0, both, 0), axis=2)


def _darker(counts):
    """Pixels below each level, as sums of 16 levels, then of 16 such sums: one kernel
    of a GPU more where jnp.cumsum takes two. On a CPU a slot takes 2 ms longer."""

    def earlier(x, steps):
        shifted = (jnp.pad(x, ((0, 0), (0, 0), (step, 0))) for step in steps)
        return sum(x[..., :256] for x in shifted)

    return earlier(earlier(counts, range(1, 17)), range(0, 256, 16))


def _spread(x, below, top):
    """Equalizes x. below: `_darker`, top: `_brightest`, of x's channels and others."""
    last = (top & ((1 << _COUNT_BITS) - 1))[:, :3, None]
    # Also zero if the channel has a single level. Both leave the channel as it is.
    step = (x.shape[1] * x.shape[2] - last).astype(jnp.uint32) // 255
    below = below[:, :3].astype(jnp.uint32)
    spread = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255)
    level = jnp.arange(256, dtype=jnp.uint32)[None, None]
    return jnp.where(step > 0, spread, level).astype(jnp.uint8).reshape(-1)[_bins(x)]


# Computed only on rows that drew them, because they need a histogram or neighbours.
EXPENSIVE = {
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "sharpness": _sharpness,
}
