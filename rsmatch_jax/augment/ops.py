"""RandAugment's operations on batches, one operation per row, bit-exact with Pillow.

Shapes are static; there is no convolution and no double precision. Cheap operations are
computed on all rows.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32, UInt8

from rsmatch_jax.augment import views
from rsmatch_jax.augment.tables import Tables


def geometry(
    ops: Int32[Array, " n"], levels: Int32[Array, " n"], tables: Tables, size: int
) -> tuple[Int32[Array, "n s s"], Int32[Array, "n s s"]]:
    """Returns the row and the column from which each output pixel is read; a number
    outside 0..S-1 means black. ops: positions in views.OPS."""
    which = jnp.zeros_like(ops)
    for i, name in enumerate(views.GEOMETRIC):
        which = jnp.where(_drew(ops, name), 1 + i, which)
    moved = tables.affine[jnp.maximum(which - 1, 0), levels]
    still = jnp.array([[65536, 0, 32768, 0, 65536, 32768]], jnp.int32)
    a, b, c, d, e, f = jnp.where((which > 0)[:, None], moved, still).T[:, :, None, None]
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
    changed = _mask_bits(_enhance(images, ops, factor), ops, levels)
    for name, apply in EXPENSIVE.items():
        drew = _drew(ops, name)
        if capacity >= count:
            result = apply(images, factor, tables)
            changed = jnp.where(_per_image(drew), result, changed)
            continue
        rows = jnp.nonzero(drew, size=capacity, fill_value=count)[0]
        few, strength = (x.at[rows].get(mode="clip") for x in (images, factor))
        changed = changed.at[rows].set(apply(few, strength, tables), mode="drop")
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


def _luma(p):
    """Converts to grey as Pillow does: int32 [M, S, S, 3] -> int32 [M, S, S, 1]."""
    mixed = 19595 * p[..., :1] + 38470 * p[..., 1:2] + 7471 * p[..., 2:] + 32768
    return mixed >> 16


def _enhance(x, ops, factor):
    """Brightness, Color and Contrast; other rows have factor 1, which is exact."""
    p = x.astype(jnp.int32)
    pixels = x.shape[1] * x.shape[2]
    luma = _luma(p)
    total = jnp.sum(luma, axis=(1, 2, 3))
    mean = (2 * total + pixels) // (2 * pixels)
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
    count = x.shape[0]
    levels = x.astype(jnp.int32)
    # One 256-entry table per image and channel.
    channel = jnp.arange(count * 3, dtype=jnp.int32).reshape(count, 1, 1, 3)
    position = channel * 256 + levels
    counts = jnp.zeros((count * 3 * 256,), jnp.int32).at[position].add(1)
    counts = counts.reshape(count, 3, 256)
    brightest = jnp.max(levels, axis=(1, 2))[:, :, None]
    last = jnp.take_along_axis(counts, brightest, axis=2)
    # Also zero if the channel has a single level. Both leave the channel as it is.
    step = (x.shape[1] * x.shape[2] - last) // 255
    below = jnp.cumsum(counts, axis=2) - counts
    spread = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255)
    table = jnp.where(step > 0, spread, jnp.arange(256, dtype=jnp.int32)[None, None])
    return table.astype(jnp.uint8).reshape(-1)[position]


# Computed only on rows that drew them, because they need a histogram or neighbours.
EXPENSIVE = {
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "sharpness": _sharpness,
}
