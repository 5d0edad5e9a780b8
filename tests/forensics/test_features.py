"""Checks the statistics of pictures against plain formulas."""

import itertools

import numpy as np
import pytest
from scipy import fft, signal
from support.pictures import decode, encode

from rsmatch_jax.forensics import features, groups


def noise(n, height=16, width=16, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 200, (n, 1, 1, channels))
    levels = coarse + rng.integers(-40, 40, (n, height, width, channels))
    return levels.astype(np.uint8)


def columns(images, group):
    return features.compute(images)[:, features.groups(images.shape[1:])[group]]


def planes_of(image):
    red, green, blue = np.moveaxis(image.astype(np.float64), 2, 0)
    return 0.299 * red + 0.587 * green + 0.114 * blue, red - green, blue - green


def each_plane(images):
    """Yields ((picture, plane), levels)."""
    for n, image in enumerate(images):
        for p, plane in enumerate(planes_of(image)):
            yield (n, p), plane


@pytest.mark.parametrize("shape", [(4, 4, 3), (8, 8, 1), (20, 32, 3), (40, 40, 3)])
def test_shapes_and_chunks(shape, monkeypatch):
    images = noise(7, *shape)
    together = features.compute(images)
    assert together.dtype == np.float32
    assert np.isfinite(together).all()
    slices = features.groups(shape)
    assert list(slices) == list(groups.GROUPS)
    assert sum(s.stop - s.start for s in slices.values()) == together.shape[1]
    assert features.compute(images[:0]).shape == (0, together.shape[1])
    monkeypatch.setattr(features, "_CHUNK_VALUES", 2 * images[0].size)
    np.testing.assert_allclose(features.compute(images), together, rtol=1e-3, atol=1e-4)


def test_a_system_that_cannot_say_which_cores(monkeypatch):
    """Such as macOS."""
    images = noise(5)
    before = features.compute(images)
    monkeypatch.delattr(features.cores.os, "sched_getaffinity", raising=False)
    np.testing.assert_array_equal(features.compute(images), before)


def test_digests_know_equal_pictures(monkeypatch):
    """In chunks of any size, unlike the statistics."""
    images = noise(7, 20, 32)
    images[5] = images[1]
    together = features.digests(images)
    assert together.dtype == "S32" and len(set(together.tolist())) == 6
    assert together[5] == together[1]
    assert features.digests(images[:0]).shape == (0,)
    monkeypatch.setattr(features, "_CHUNK_VALUES", 2 * images[0].size)
    np.testing.assert_array_equal(features.digests(images), together)


def test_sizes_have_the_same_statistics():
    numbers = {features.compute(noise(1, s, s)).shape[1] for s in (16, 32, 96, 224)}
    assert len(numbers) == 1


def test_grey_pictures_equal_coloured_copies():
    grey = noise(3, channels=1)
    pair = features.compute(grey), features.compute(grey.repeat(3, axis=3))
    np.testing.assert_allclose(*pair, rtol=1e-3, atol=1e-3)


def test_spectrum_against_the_full_transform():
    images = noise(3, 12, 20)
    got = columns(images, "spectrum").reshape(3, 3, -1)
    window = np.outer(np.hanning(12), np.hanning(20))
    radius = np.hypot(np.fft.fftfreq(12)[:, None], np.fft.fftfreq(20))
    rings = np.minimum(radius / np.sqrt(0.5) * 8, 7).astype(int)
    rings[0, 0] = -1
    present = [r for r in range(8) if (rings == r).any()]
    for place, plane in each_plane(images):
        power = np.abs(np.fft.fft2((plane - plane.mean()) * window)) ** 2
        means = [np.log(power + 1e-3)[rings == r].mean() for r in present]
        np.testing.assert_allclose(got[place], means, rtol=1e-3, atol=1e-3)


def test_residual_against_counts():
    images = noise(2, 9, 10)
    got = columns(images, "residual").reshape(2, 3, 15)
    edges = [0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 63.5, np.inf]
    edges = [-e for e in edges[::-1]] + edges
    kernel = [[0, -1, 0], [-1, 4, -1], [0, -1, 0]]
    for place, plane in each_plane(images):
        residual = signal.convolve2d(plane, kernel, "valid")
        counts = np.histogram(residual, edges)[0]
        np.testing.assert_allclose(got[place], np.divide(counts, 56), atol=1e-6)


def test_differences_against_numpy():
    images = noise(2, 11, 13)
    got = columns(images, "differences").reshape(2, 3, 2, 2, 7)
    shares = [0.1, 0.25, 0.5, 0.75, 0.9, 0.97]
    for place, plane in each_plane(images):
        for axis, order in itertools.product((0, 1), (1, 2)):
            step = np.diff(plane, order, axis=axis).ravel()
            levels = np.quantile(np.abs(step), shares, method="nearest")
            row = got[place][axis, order - 1]
            np.testing.assert_allclose(row[:6], np.log(levels + 1), rtol=1e-3)
            moment = ((step - step.mean()) ** 4).mean() / step.var() ** 2
            assert row[6] == pytest.approx(np.log(moment + 0.1), abs=1e-3)


def test_dct_of_a_single_block():
    images = noise(3, 8, 8)
    for row, image in zip(columns(images, "dct"), images, strict=True):
        coefficients = fft.dctn(planes_of(image)[0], norm="ortho").ravel()[1:]
        np.testing.assert_allclose(row, np.log(np.abs(coefficients) + 0.5), atol=1e-3)


def test_colour_against_numpy():
    image = noise(1)[0]
    pixels = image.reshape(-1, 3).astype(np.float64)
    row = columns(image[None], "colour")[0]
    np.testing.assert_allclose(row[:3], pixels.mean(0), rtol=1e-5)
    np.testing.assert_allclose(row[3:6], pixels.std(0), rtol=1e-4)
    chroma = np.ptp(pixels, axis=1)
    np.testing.assert_allclose(row[15:17], [chroma.mean(), chroma.std()], rtol=1e-4)


def test_correlation_of_channels_that_are_equal_and_opposite():
    levels = noise(1, channels=1, seed=3)[0].astype(int)
    image = np.concatenate([levels, levels, 255 - levels], axis=2).astype(np.uint8)
    row = columns(image[None], "correlation")[0]
    np.testing.assert_allclose(row[:3], [1, -1, -1], atol=1e-3)


def test_patterns_count_brighter_neighbours():
    spot = np.full((1, 9, 9, 3), 50, np.uint8)
    spot[0, 4, 4] = 200
    grey = columns(spot, "patterns").reshape(3, 10)[0] ** 2 * 49
    # 40 flat centres and the spot see no brighter neighbour, 8 centres see one.
    np.testing.assert_allclose(grey, [41, 8, *[0] * 8], atol=1e-3)


def test_texture_against_blocks():
    image = noise(1, 16, 16)[0]
    grey = planes_of(image)[0]
    corners = itertools.product(range(0, 16, 4), repeat=2)
    blocks = [grey[y : y + 4, x : x + 4].var() for y, x in corners]
    levels = np.quantile(blocks, [0.05, 0.25, 0.5, 0.75, 0.95], method="nearest")
    row = columns(image[None], "texture")[0]
    np.testing.assert_allclose(row[:5], np.log(levels + 1), rtol=1e-3)


def test_grid_sees_jpeg():
    images = noise(20, 32, 32)
    coarse = np.stack([decode(encode(i, "JPEG", quality=8)) for i in images])
    assert abs(columns(images, "grid")[:, 0].mean()) < 0.05
    assert columns(coarse, "grid")[:, 0].mean() > 0.15
    assert (columns(noise(2, 8, 8), "grid") == 0).all()


def test_large_pictures_are_sampled_over_all_columns(monkeypatch):
    monkeypatch.setattr(groups, "_SAMPLE", 50)
    values = np.arange(400).reshape(1, 20, 20)
    sample = groups._sample(values)[0]
    assert len(sample) <= 50
    assert len(set(sample % 20)) == 20
