"""Views on the device: the law of their numbers, and pictures by numpy and Pillow."""

import functools

import jax
import numpy as np
import pytest
from scipy import stats
from support.pillow_oracle import (
    crop_by_numpy,
    pillow,
    pillow_cutout,
    some_images,
    uniform,
)

from rsmatch_jax.augment import on_device, views
from rsmatch_jax.data import tf_augment
from rsmatch_jax.runtime import parallel

SPEC = views.ViewSpec(flip=True, crop_pad=4, randaugment_ops=3, cutout=True)
PLAIN = views.ViewSpec(flip=False, crop_pad=0, randaugment_ops=0, cutout=False)
ROWS = 470_000  # of 3 operations each: 100,000 draws of every one


@functools.partial(jax.jit, static_argnames=("rows", "spec", "strong"))
def draw(key, rows, spec, strong):
    return on_device.draw(key, rows, spec, strong)


weak = jax.jit(on_device.weak, static_argnames="spec")
strong = jax.jit(on_device.strong, static_argnames="spec")


def on_host(numbers):
    return jax.tree.map(np.asarray, numbers)


def expected_strong(image, n, i, spec):
    """View i of an image, by numpy and Pillow."""
    size = len(image)
    x = crop_by_numpy(image, n.shift[i], n.flip[i], spec.crop_pad)
    for op, level in zip(n.ops[i], n.levels[i], strict=True):
        name = views.OP_NAMES[op]
        x = pillow(name, x, float(views.value(name, level)))
    if not spec.cutout:
        return x
    share, cy, cx = n.cutout[i] / views.LEVELS
    # numpy's uniform(low=size, high=1)
    return pillow_cutout(x, share / 2, *(size + (1 - size) * np.array([cy, cx])))


@pytest.mark.parametrize("size, pad", [(32, 4), (8, 1), (8, 0), (5, 4)])
def test_weak_view_is_reflect_crop_then_flip(size, pad):
    spec = views.ViewSpec(flip=True, crop_pad=pad, randaugment_ops=0, cutout=False)
    side = np.arange(2 * pad + 1)
    every = np.stack(np.meshgrid(side, side, [0, 1]), axis=-1).reshape(-1, 3)
    numbers = on_device.Numbers(every[:, :2].astype(np.int32), every[:, 2] > 0)
    images = some_images(len(every), size)
    got = weak(images, numbers, spec)
    want = [
        crop_by_numpy(x, n[:2], n[2], pad) for x, n in zip(images, every, strict=True)
    ]
    np.testing.assert_array_equal(got, want)
    assert got.dtype == np.uint8


@pytest.mark.parametrize(
    "size, spec, rows",
    [
        (32, SPEC, 100),
        (32, SPEC, 3),
        (8, views.ViewSpec(False, 1, 2, True), 100),
        (9, views.ViewSpec(True, 0, 1, False), 100),
        (9, views.ViewSpec(True, 2, 0, True), 40),
    ],
)
def test_strong_view_is_crop_flip_operations_cutout_in_this_order(size, spec, rows):
    images = some_images(rows, size)
    numbers = draw(jax.random.key(3), rows, spec, True)
    got = strong(images, numbers, on_device.make_tables(size, spec), spec)
    assert got.dtype == np.uint8 and got.shape == images.shape
    n = on_host(numbers)
    for i, x in enumerate(images):
        np.testing.assert_array_equal(got[i], expected_strong(x, n, i, spec), f"{i}")


@pytest.mark.parametrize("size", [32, 8, 224])
def test_cutout_paints_the_inclusive_rectangle(size):
    spec = views.ViewSpec(flip=False, crop_pad=0, randaugment_ops=0, cutout=True)
    rows = 40 if size > 32 else 300
    levels = np.random.default_rng(0).integers(0, views.LEVELS, (rows, 3))
    last, half = views.LEVELS - 1, views.LEVELS // 2
    levels[:5] = [[0, half, half], [last, 0, 0], [last, last, 0], [half] * 3, [1, 0, 9]]
    levels[5:30, 0] = np.arange(25) * views.LEVELS // 32  # whole pixels at 32
    images = some_images(rows, size)
    numbers = on_device.Numbers(
        shift=np.zeros((rows, 2), np.int32),
        flip=np.zeros(rows, bool),
        ops=np.zeros((rows, 0), np.int32),
        levels=np.zeros((rows, 0), np.int32),
        cutout=levels.astype(np.int32),
    )
    got = np.asarray(strong(images, numbers, None, spec))
    for i, x in enumerate(images):
        np.testing.assert_array_equal(got[i], expected_strong(x, numbers, i, spec))
    np.testing.assert_array_equal(got[0], images[0])  # a side of 0 leaves it alone


def test_everything_can_be_switched_off():
    images = some_images(64, 8)
    numbers = draw(jax.random.key(0), 64, PLAIN, True)
    assert not numbers.flip.any() and not numbers.shift.any()
    assert numbers.ops.shape == numbers.levels.shape == (64, 0)
    np.testing.assert_array_equal(strong(images, numbers, None, PLAIN), images)
    np.testing.assert_array_equal(weak(images, numbers, PLAIN), images)


def test_grey_images_stay_grey_until_cutout():
    spec = views.ViewSpec(flip=False, crop_pad=1, randaugment_ops=3, cutout=False)
    images = np.repeat(some_images(64, 8)[..., :1], 3, axis=3)
    numbers = draw(jax.random.key(0), 64, spec, True)
    got = np.asarray(strong(images, numbers, on_device.make_tables(8, spec), spec))
    np.testing.assert_array_equal(got, np.repeat(got[..., :1], 3, axis=3))


def test_drawn_numbers_have_fixed_types_and_leading_rows():
    numbers = draw(jax.random.key(0), 6, SPEC, True)
    want = {
        "shift": ((6, 2), np.int32),
        "flip": ((6,), bool),
        "ops": ((6, 3), np.int32),
        "levels": ((6, 3), np.int32),
        "cutout": ((6, 3), np.int32),
    }
    for name, (shape, dtype) in want.items():
        leaf = getattr(numbers, name)
        assert (leaf.shape, leaf.dtype) == (shape, dtype), name
    plain = draw(jax.random.key(0), 6, SPEC, False)
    assert plain.ops is plain.levels is plain.cutout is None


def test_drawn_numbers_follow_the_law():
    n = on_host(draw(jax.random.key(0), ROWS, SPEC, True))
    for slot in n.ops.T:
        assert uniform(np.bincount(slot, minlength=14)) > 1e-3
    pairs = n.ops[:, 0] * 14 + n.ops[:, 1]  # slots are independent
    assert uniform(np.bincount(pairs, minlength=196)) > 1e-3
    for column in (*n.levels.T, *n.cutout.T):
        assert 0 <= column.min() < 32 and 65500 < column.max() < views.LEVELS
        assert uniform(np.bincount(column >> 11, minlength=32)) > 1e-3
    low_bits = np.concatenate([*n.levels.T, *n.cutout.T]) & 31
    assert uniform(np.bincount(low_bits, minlength=32)) > 1e-3
    for op in range(14):  # every operation sees all of its range
        drawn = n.levels[n.ops == op]
        assert uniform(np.bincount(drawn >> 11, minlength=32)) > 1e-3
    for axis in n.shift.T:
        assert uniform(np.bincount(axis, minlength=9)) > 1e-3
    assert uniform(np.bincount(n.flip, minlength=2)) > 1e-3
    together = np.corrcoef([*n.shift.T, n.flip, *n.ops.T, *n.levels.T, *n.cutout.T])
    assert np.abs(together - np.eye(len(together))).max() < 5 / np.sqrt(ROWS)


def test_numbers_have_the_distribution_of_the_tensorflow_path():
    mine = on_host(draw(jax.random.key(1), ROWS, SPEC, True))
    theirs = {
        name: value.numpy()
        for name, value in tf_augment.draw(0, 0, "strong", ROWS, SPEC).items()
    }

    def same_counts(a, b, length):
        table = [np.bincount(np.ravel(x), minlength=length) for x in (a, b)]
        return stats.chi2_contingency(table).pvalue

    assert same_counts(mine.ops, theirs["ops"], 14) > 1e-3
    assert same_counts(mine.shift, theirs["shift"], 9) > 1e-3
    assert same_counts(mine.flip, theirs["flip"], 2) > 1e-3
    for op, name in enumerate(views.OP_NAMES):
        value = views.value(name, mine.levels[mine.ops == op])
        other = theirs["values"][theirs["ops"] == op]
        assert stats.ks_2samp(value, other).pvalue > 1e-3, name
    cutout = mine.cutout / views.LEVELS * [views.CUTOUT_MAX, 1, 1]
    for column, other in zip(cutout.T, theirs["cutout"].T, strict=True):
        assert stats.ks_2samp(column, other).pvalue > 1e-3


def test_a_key_fixes_the_numbers_and_other_keys_give_others():
    key = jax.random.key(5)
    base = on_host(draw(key, 512, SPEC, True))
    jax.tree.map(np.testing.assert_array_equal, base, draw(key, 512, SPEC, True))
    other = on_host(draw(jax.random.key(6), 512, SPEC, True))
    assert (base.shift == other.shift).all(axis=1).mean() < 0.05  # 1/81 by chance
    assert (base.levels == other.levels).mean() < 0.01


def test_four_devices_make_the_views_that_one_makes():
    spec = views.ViewSpec(flip=True, crop_pad=1, randaugment_ops=2, cutout=True)
    images, data = some_images(32, 8), jax.random.key_data(jax.random.key(0))
    tables = on_device.make_tables(8, spec)

    def forward(variables, local):
        data, tables = variables
        key = jax.random.wrap_key_data(data)
        numbers = on_device.draw(key, 32, spec, strong=True)
        numbers = jax.tree.map(parallel.local_rows, numbers)
        plain = on_device.weak(local, numbers, spec)
        return plain, on_device.strong(local, numbers, tables, spec)

    seen = {}
    for count in (1, 4):
        mapped = parallel.map_eval(forward, jax.local_devices()[:count])
        seen[count] = [
            parallel.collect(x)
            for x in mapped((data, tables), parallel.deal(images, count))
        ]
    for one, four in zip(seen[1], seen[4], strict=True):
        np.testing.assert_array_equal(one, four)
    assert (seen[1][0] != seen[1][1]).any(axis=(1, 2, 3)).mean() > 0.8


def all_crops(image, pad, flip):
    for dy in range(2 * pad + 1):
        for dx in range(2 * pad + 1):
            for mirrored in (False, True) if flip else (False,):
                yield crop_by_numpy(image, (dy, dx), mirrored, pad)


@pytest.mark.parametrize(("pad", "flip"), [(1, True), (2, False), (0, True)])
def test_a_weak_view_by_key_is_one_of_the_crops_uniformly_drawn(pad, flip):
    image = np.random.default_rng(0).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    n = 3000
    seen = on_device.weak_view(
        jax.random.key(1), np.broadcast_to(image, (n, 6, 6, 3)), flip=flip, crop_pad=pad
    )
    crops = {
        np.ascontiguousarray(crop).tobytes(): i
        for i, crop in enumerate(all_crops(image, pad, flip))
    }
    drawn = [crops[view.tobytes()] for view in np.asarray(seen)]
    assert seen.dtype == np.uint8
    assert uniform(np.bincount(drawn, minlength=len(crops))) > 1e-3
