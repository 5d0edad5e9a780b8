"""Compression of picture files, against Pillow's own files, and pictures made alike."""

import os

import numpy as np
import pytest
from support.pictures import decode, encode, noise, smooth

from rsmatch_jax.data import user_parts
from rsmatch_jax.data.images import compression
from rsmatch_jax.data.images.compression import Jpeg

SIDE = 16


@pytest.mark.parametrize("subsampling", (0, 1, 2))
@pytest.mark.parametrize("quality", (100, 75, 40))
def test_stored_as_another_file_is(quality, subsampling):
    options = {"quality": quality, "subsampling": subsampling}
    of_other = compression.of_file(encode(noise(24, 16, 3), "JPEG", **options))
    picture = smooth(1, 33, 20)
    file, shown = compression.stored_as(picture, of_other)
    assert file == encode(picture, "JPEG", **options)
    assert np.array_equal(np.asarray(shown), decode(file))


def test_strength():
    """The mean step of the standard's luma table: 57.6 at quality 50, which scales it
    by 1; at 75 half of it, in whole steps. A grey file has that table alone."""
    files = [encode(noise(8, 8, 3), "JPEG", quality=q) for q in (50, 75)]
    grey = encode(noise(8, 8), "JPEG", quality=50)
    strengths = [compression.of_file(f).strength for f in (*files, grey)]
    assert strengths == pytest.approx([57.625, 29.03, 57.625], abs=0.01)
    others = encode(noise(8, 8, 3)), encode(noise(8, 8, 3), "WEBP"), files[0][:9], b""
    assert [compression.of_file(f) for f in others] == [None] * 4


def jpegs(*strengths):
    return [s and Jpeg(((s,) * 64,), 2) for s in strengths]


def stored(side, plan):
    return [planned or jpeg for jpeg, planned in zip(side, plan, strict=True)]


def strengths(side):
    return sorted(0 if jpeg is None else jpeg.strength for jpeg in side)


def test_alike_changes_what_is_less_compressed():
    """All PNG against half PNG, half JPEG; the other way round; alike; far fewer."""
    png, half = jpegs(*[None] * 8), jpegs(None, 30, None, 70, None, 30, None, 70)
    plan = compression.alike(png, half)
    assert strengths(stored(png, plan)) == strengths(half)
    assert compression.alike(half, png) == [None] * 8
    assert compression.alike(half, half[::-1]) == [None] * 8
    few = stored(png[:4], compression.alike(png[:4], half))
    assert strengths(few) == [0, 0, 30, 70]


def test_alike_by_rank():
    """Both sides come to the larger one of each rank, but for a difference too small
    to be worth a second compression."""
    rng = np.random.default_rng(0)
    sides = [jpegs(*rng.choice([None, 12, 14, 29, 58], 200)) for _ in range(2)]
    these, others = (
        strengths(stored(side, compression.alike(side, other)))
        for side, other in (sides, sides[::-1])
    )
    larger = np.maximum(*map(strengths, sides))
    for side in (these, others):
        assert np.all(np.maximum(side, 1) * compression.STRONGER >= larger)
        assert np.all(side <= larger)


def written(folder, pictures, kind, **options):
    os.makedirs(folder)
    for i, picture in enumerate(pictures):
        with open(os.path.join(folder, f"{i}.{kind.lower()}"), "wb") as f:
            f.write(encode(picture, kind, **options))


@pytest.mark.parametrize("encoded", (False, True))
def test_own_pictures(tmp_path, encoded):
    """Labelled PNG files become the JPEG files that the unlabelled ones are; those stay
    as they are, and a copy in another file is still known."""
    pictures = [smooth(i, SIDE, SIDE) for i in range(6)]
    for name in ("a", "b"):
        written(tmp_path / "labelled" / name, pictures[:3], "PNG")
    written(tmp_path / "test" / "a", pictures[:1], "PNG")
    written(tmp_path / "scraped", pictures, "JPEG", quality=40)
    places = user_parts.Places(
        labeled=str(tmp_path / "labelled"),
        unlabeled=str(tmp_path / "scraped"),
        test=str(tmp_path / "test"),
        origins=None,
        cache_dir=str(tmp_path / "cache"),
    )

    def read(alike):
        parts = user_parts.read(places, size=SIDE, encode=encoded, alike=alike)
        if encoded:
            of = (p.pictures.images for p in parts)
            return *parts, [[decode(x.read(i)) for i in range(len(x))] for x in of]
        return *parts, [list(p.pictures.images) for p in parts]

    labelled, tested, unlabelled, images = read(alike=False)
    (note,) = unlabelled.notes
    assert "100% of the pictures of data.labeled are compressed less" in note
    assert "data.same_compression=True" in note
    assert np.array_equal(images[0][0], np.asarray(pictures[0]))
    before = labelled.pictures.digests
    labelled, tested, unlabelled, again = read(alike=True)
    files = [encode(p, "JPEG", quality=40) for p in pictures]
    for part, chosen in zip(again, ((0, 1, 2, 0, 1, 2), (0,), range(6)), strict=True):
        for shown, i in zip(part, chosen, strict=True):
            assert np.array_equal(shown, decode(files[i]))
    assert np.array_equal(labelled.pictures.digests, before)
    assert unlabelled.notes == ()
    forms = [*map(compression.of_file, files)]
    assert unlabelled.compressed == forms and labelled.compressed == forms
    assert f"{compression.CHANGE} (6)" in "\n".join(labelled.notes)
    assert f"{compression.CHANGE} (1)" in "\n".join(tested.notes)
