"""Compares the figures of a pool with loops, Pillow and numpy."""

import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from support.pictures import decode, encode

from rsmatch_jax.forensics import features, pictures
from rsmatch_jax.synthesis.look import comparison, cues, file_format


def noise(n, height=16, width=16, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, height, width, channels), dtype=np.uint8)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(pictures, "_CHUNK_VALUES", 2000)
    monkeypatch.setattr(cues, "_BLOCK_VALUES", 2000)


@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_against_numpy(channels, small_chunks):
    images = noise(7, 16, 24, channels)
    stats = cues.statistics(images)
    for n, image in enumerate(images.astype(float)):
        np.testing.assert_allclose(stats.means[n], image.mean((0, 1)))
        np.testing.assert_allclose(stats.stds[n], image.std((0, 1)))
        luma = image @ [0.299, 0.587, 0.114] if channels == 3 else image[..., 0]
        across, down = np.abs(np.diff(luma, axis=1)), np.abs(np.diff(luma, axis=0))
        border = np.append(across[:, [7, 15]], down[7])
        inside = np.append(np.delete(across, [7, 15], 1), np.delete(down, 7, 0))
        np.testing.assert_allclose(stats.border[n, 0], border.mean(), rtol=1e-5)
        np.testing.assert_allclose(stats.inside[n], inside.mean(), rtol=1e-5)
        if channels == 3:
            np.testing.assert_allclose(stats.chroma[n, 0], np.ptp(image, 2).mean())
    assert stats.chroma.shape == (7, channels // 3)
    channels_of_all = cues.channels(stats)
    np.testing.assert_allclose(channels_of_all["mean"], images.mean((0, 1, 2)))
    np.testing.assert_allclose(channels_of_all["std"], images.std((0, 1, 2)))
    assert len(stats.rows(np.array([1, 3])).means) == 2


def test_small_pictures_have_no_block_edges():
    stats = cues.statistics(noise(3, 8, 8, 1))
    assert stats.border.shape == (3, 0)
    assert cues.blockiness(stats) is None
    tiny = cues.statistics(noise(3, 1, 2))
    assert all(np.isfinite(figures).all() for figures in tiny)


def test_blockiness_finds_jpeg_and_its_grid():
    rng = np.random.default_rng(0)
    images = []
    for spots in rng.integers(60, 200, (30, 7, 7, 3), np.uint8):
        smooth = Image.fromarray(spots).resize((77, 77), Image.Resampling.BICUBIC)
        top, left = rng.integers(0, 37, 2)
        images.append(np.asarray(smooth)[top : top + 40, left : left + 40])
    images = np.stack(images)
    coarse = np.stack([decode(encode(i, "JPEG", quality=8)) for i in images])

    def blockiness(images):
        return cues.blockiness(cues.statistics(images))

    assert 0.9 < blockiness(images) < 1.1
    assert blockiness(coarse) > 1.5
    assert blockiness(coarse[:, 4:, 4:]) < 1  # the grid has moved


def test_near_grey_share_by_class():
    images = np.full((4, 2, 2, 3), 100, np.uint8)
    images[0, ..., 0] += 7  # not below the limit
    images[1, ..., 2] -= 6
    images[3, 0] = (100, 100, 120)  # half of the pixels: 10 in the mean
    stats = cues.statistics(images)
    shares = cues.grey_share(stats, np.array([0, 0, 2, 2]), 4)
    assert shares == [0.5, None, 0.5, None]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (28, 20), (5, 9)])
def test_shrink_is_the_area_mean(height, width, small_chunks):
    images = noise(5, height, width)
    got = pictures.shrink(images, 8)
    h, w = min(height, 8), min(width, 8)
    fine = images.repeat(h, axis=1).repeat(w, axis=2).astype(float)
    expected = fine.reshape(5, h, height, w, width, 3).mean((2, 4))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_exact_duplicates_as_the_importer_counts_them():
    rng = np.random.default_rng(1)
    images = noise(12, 2, 2)[rng.integers(0, 12, 60)]
    labels = rng.integers(0, 3, 60)
    seen, same = {}, 0
    for image, label in zip(images, labels, strict=True):
        places = seen.setdefault(image.tobytes(), set())
        same += label in places
        places.add(label)
    several = sum(len(places) > 1 for places in seen.values())
    names = features.digests(images)
    assert list(cues.exact_duplicates(names, labels).values()) == [same, several]
    assert several > 3
    assert list(cues.exact_duplicates(names[:0], labels[:0]).values()) == [0, 0]


def test_near_twins_against_all_pairs(small_chunks):
    rng = np.random.default_rng(2)
    base = noise(40, 8, 8, 1, seed=2).astype(float)
    spread = np.linspace(0.5, 18, 40)[:, None, None, None]  # around the limit
    copies = np.clip(0.6 * base + 40 + spread * rng.normal(size=base.shape), 0, 255)
    # Without contrast there is nothing to be alike in.
    flat = np.full((3, 8, 8, 1), 99) + rng.integers(0, 2, (3, 8, 8, 1))
    images = np.concatenate([base, copies, flat]).astype(np.uint8)
    labels = np.concatenate([np.zeros(40), np.arange(40) % 5 == 0, np.zeros(3)])
    related = np.corrcoef(images.reshape(83, -1)) > cues.NEAR_TWIN
    related &= (labels[:, None] == labels) & ~np.eye(83, dtype=bool)
    assert 20 < related.any(1).sum() < 50
    got = cues.near_twins(images, labels, np.arange(83))
    assert got == related.any(1).mean()
    assert cues.near_twins(images, labels, np.arange(40)) == 0
    assert cues.near_twins(images, labels, np.arange(0)) is None


def test_encodings_are_told_apart():
    image = noise(1)[0]
    plain = file_format.inspect(encode(image, "JPEG", quality=85, subsampling=0))
    assert (plain.format, plain.setting) == ("JPEG", "quality 85, 4:4:4")
    assert file_format.inspect(encode(image, "PNG")).format == "PNG"
    assert file_format.inspect(b"neither").format == "unknown"
    grey = file_format.inspect(encode(image[..., 0], "JPEG", quality=60))
    assert grey.setting == "quality 60, grey"
    numbers = [[(i * 3) % 200 + 1 for i in range(64)]] * 2
    file = encode(image, "JPEG", qtables=numbers, subsampling=2)
    odd = file_format.inspect(file)
    assert odd.setting.startswith("tables ")
    assert odd.setting.endswith("4:2:0")
    assert odd.tables[0] == tuple(Image.open(io.BytesIO(file)).quantization[0])
    got = file_format.summary(Counter({plain: 5, grey: 2, odd: 1}))
    assert got["formats"] == {"JPEG": 8}
    assert got["jpeg_settings"] == 3
    assert [c["pictures"] for c in got["commonest"]] == [5, 2, 1]


def test_choice_is_balanced_and_generators_take_turns():
    real = np.repeat([0, 1, 2], [30, 4, 20])
    labels = np.repeat([0, 1, 2], [50, 9, 12])
    generators = (np.arange(71) % 7 > 4).astype(np.int32)  # 5 to 2
    a, b = comparison.choose(real, labels, generators, 10, seed=3)
    assert np.bincount(real[a]).tolist() == np.bincount(labels[b]).tolist()
    assert np.bincount(real[a]).tolist() == [10, 4, 10]
    assert len(set(a)) == len(a)
    assert len(set(b)) == len(b)
    first = generators[b[labels[b] == 0]]
    assert np.bincount(first).tolist() == [5, 5]
    again = comparison.choose(real, labels, generators, 10, seed=3)
    np.testing.assert_array_equal(b, again[1])
    other = comparison.choose(real, labels, generators, 10, seed=4)
    assert not np.array_equal(b, other[1])


def test_verdict_by_generator_and_its_error():
    rng = np.random.default_rng(0)
    generators = np.repeat([-1, 0, 1], [200, 100, 100])
    features = rng.normal(size=(400, 3))
    features[generators == 1] += 9  # the second generator alone gives itself away
    verdict = comparison.judge("pixels", features, generators, 3, seed=0)
    by_generator, accuracy = verdict["by_generator"], verdict["balanced_accuracy"]
    hard, easy, none = by_generator
    assert none is None
    assert easy > accuracy > hard
    assert easy > 0.8
    assert accuracy == pytest.approx(np.mean([hard, easy]))
    assert 0 < verdict["error"] < 0.03
    few = comparison.judge("pixels", features[176:], generators[176:], 2, seed=0)
    assert few is None
