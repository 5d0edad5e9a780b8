"""Pictures decoded once into the cache, against Pillow's own reading of the files."""

import functools
import io

import numpy as np
import pytest
from PIL import Image
from support.pictures import encode, noise, smooth

from rsmatch_jax.data.images import compression, kinds, picture_store
from rsmatch_jax.data.images.image_source import File, Unreadable
from rsmatch_jax.errors import RequestError, RunFailed

SIDE = 8
FILES = {
    "a.png": encode(noise(SIDE, SIDE, 3, seed=1)),
    "b.jpg": encode(smooth(2, 24, 16), "JPEG"),
    "broken.png": encode(noise(SIDE, SIDE, 3))[:60],
    "c.webp": encode(smooth(3, 16, 16), "WEBP"),
    "copy.png": encode(noise(SIDE, SIDE, 3, seed=1), compress_level=0),
}


def load(tmp_path, contents=FILES, **options):
    options = {"size": SIDE, "encode": False, **options}
    sources = [
        File(name, functools.partial(bytes, data)) for name, data in contents.items()
    ]
    examined = picture_store.examine(sources, "photos")
    return picture_store.load(examined, cache_dir=str(tmp_path), **options)


def test_decoded(tmp_path):
    """A square of the size keeps its pixels; others are cut and averaged."""
    pictures = load(tmp_path)
    assert pictures.rows.tolist() == [0, 1, 3, 4] and list(pictures.unreadable) == [2]
    images = pictures.images
    assert images.shape == (4, SIDE, SIDE, 3) and images.dtype == np.uint8
    assert np.array_equal(images[0], noise(SIDE, SIDE, 3, seed=1))
    with Image.open(io.BytesIO(FILES["b.jpg"])) as image:
        middle = np.asarray(image)[4:20].astype(float)  # of 24 x 16
    expected = middle.reshape(SIDE, 2, SIDE, 2, 3).mean((1, 3))
    assert np.abs(images[1] - expected).max() <= 1  # two passes, each rounded
    assert np.array_equal(images[0], images[3])
    assert pictures.digests[0] == pictures.digests[3] != pictures.digests[1]
    notes = "\n".join(pictures.notes("photos", list(FILES)))
    assert "photos: no complete pictures, left out: 1 of 5 files" in notes
    assert "broken.png (" in notes and "resized (2)" in notes
    assert "exact copies of other pictures, all used: 1" in notes


def test_encoded(tmp_path):
    """JPEG and PNG files keep their bytes, other kinds become PNG, of any size."""
    pictures = load(tmp_path, encode=True, size=12)
    files = [pictures.images.read(row) for row in range(4)]
    assert files[:2] == [FILES["a.png"], FILES["b.jpg"]]
    for of_file, name in ((files[2], "c.webp"), (files[3], "copy.png")):
        one, other = (Image.open(io.BytesIO(data)) for data in (of_file, FILES[name]))
        assert one.format == "PNG"
        assert np.array_equal(np.asarray(one), np.asarray(other.convert("RGB")))
    assert pictures.images.shape == (4, 12, 12, 3)
    assert pictures.images[1].shape == (12, 12, 3)


def test_decoded_once(tmp_path, monkeypatch):
    first = load(tmp_path)
    expected, calls = np.array(first.images), []
    decode = picture_store._decode

    def counted(*args):
        calls.append(args)
        return decode(*args)

    monkeypatch.setattr(picture_store, "_decode", counted)
    again = load(tmp_path)
    assert not calls and np.array_equal(again.images, expected)
    assert again.unreadable == first.unreadable and again.changes == first.changes
    # By content: other names are the same pictures, another byte is another set.
    load(tmp_path, {f"x{name}": data for name, data in FILES.items()})
    assert not calls
    load(tmp_path, {**FILES, "a.png": encode(noise(SIDE, SIDE, 3, seed=9))})
    assert len(calls) == 5
    load(tmp_path, size=4)
    assert len(calls) == 10
    # A damaged entry is made again.
    for entry in (tmp_path / "pictures").glob("*/images.bin"):
        entry.write_bytes(b"x" + entry.read_bytes()[1:])
    assert np.array_equal(load(tmp_path).images, expected)
    assert len(calls) == 15


def test_a_new_reader(tmp_path, monkeypatch):
    """What nothing could read is tried again, and nothing else decoded anew."""
    formats = kinds.formats()
    fewer = {name: suffixes for name, suffixes in formats.items() if name != "WEBP"}
    monkeypatch.setattr(kinds, "formats", lambda: fewer)
    assert list(load(tmp_path).unreadable) == [2, 3]
    plain = {"a.png": FILES["a.png"]}
    load(tmp_path, plain)
    monkeypatch.setattr(kinds, "formats", lambda: formats)
    assert list(load(tmp_path).unreadable) == [2]
    monkeypatch.setattr(picture_store, "_write", None)  # a call would raise
    assert list(load(tmp_path).unreadable) == [2]
    assert load(tmp_path, plain).rows.tolist() == [0]


def test_what_is_too_long_for_jpeg(tmp_path):
    """Left out by name, as what cannot be read."""
    contents = {"a.png": FILES["a.png"], "b.png": encode(noise(1, 65501, 3))}
    jpeg = compression.of_file(FILES["b.jpg"])
    pictures = load(tmp_path, contents, stored_as=[jpeg, jpeg])
    assert pictures.rows.tolist() == [0]
    assert pictures.unreadable[1].startswith("65501x1 pixels cannot be stored as JPEG")


def test_nothing_readable(tmp_path):
    pictures = load(tmp_path, {"a.png": b"junk", "b.png": b""})
    assert len(pictures.images) == len(pictures.rows) == 0
    assert len(pictures.unreadable) == 2


def test_no_room(tmp_path):
    (tmp_path / "pictures").write_text("a file")
    with pytest.raises(RequestError, match="photos cannot be cached.*data.cache_dir"):
        load(tmp_path)


def test_a_file_that_vanishes(tmp_path):
    def gone():
        raise Unreadable("gone")

    sources = [File("a.png", functools.partial(bytes, FILES["a.png"])), File("b", gone)]
    examined = picture_store.examine(sources, "photos")
    pictures = picture_store.load(
        examined, cache_dir=str(tmp_path), size=SIDE, encode=False
    )
    assert pictures.unreadable == {1: "gone"} and len(pictures.images) == 1


@pytest.mark.parametrize(
    "reads",
    [
        (FILES["a.png"], None),
        (None, FILES["a.png"]),
        (FILES["a.png"], FILES["copy.png"]),
        (FILES["broken.png"], FILES["a.png"]),
    ],
    ids=["gone", "back", "other", "repaired"],
)
def test_a_file_that_changes_between_its_two_reads(tmp_path, reads):
    """Nothing is stored, or the good content would count as unreadable for good."""
    contents = iter(reads)

    def read():
        if (content := next(contents)) is None:
            raise Unreadable("Input/output error")
        return content

    sources = [File("b.png", functools.partial(bytes, FILES["a.png"])), File("x", read)]
    examined = picture_store.examine(sources, "photos")
    options = {"cache_dir": str(tmp_path), "size": SIDE, "encode": False}
    with pytest.raises(RunFailed, match="^x changed.*start again"):
        picture_store.load(examined, **options)
    assert not [x for x in (tmp_path / "pictures").iterdir() if x.suffix != ".lock"]
