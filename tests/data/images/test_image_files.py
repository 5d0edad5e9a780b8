"""Image files of every type, from their name to the pixels that a network gets."""

import io
import os
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image
from support import encoded_sets

from rsmatch_jax.data.images import image_files, image_source
from rsmatch_jax.data.stores import encoded
from rsmatch_jax.errors import RequestError

SIZE = 8


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(width, height, depth, data):
    """A PNG file of RGB pixels, by hand: Pillow writes no 16 bits and no bombs."""
    content = b"\x89PNG\r\n\x1a\n"
    head = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    for kind, part in ((b"IHDR", head), (b"IDAT", data), (b"IEND", b"")):
        content += struct.pack(">I", len(part)) + kind + part
        content += struct.pack(">I", zlib.crc32(kind + part))
    return content


def saved(path, pixels, mode=None, **how):
    Image.fromarray(pixels, mode).save(path, **how)
    return str(path)


def test_plain_images_are_their_pixels(tmp_path):
    """PNG, BMP and lossless WebP are not changed."""
    for kind, how in (("png", {}), ("bmp", {}), ("webp", {"lossless": True})):
        pixels = noise(SIZE, SIZE, 3)
        loaded = image_files.load(saved(tmp_path / f"x.{kind}", pixels, **how), SIZE)
        np.testing.assert_array_equal(loaded.pixels, pixels)
        assert (loaded.size, loaded.changes, loaded.reason) == ((SIZE, SIZE), (), "")


def test_other_modes_become_rgb_and_are_reported(tmp_path):
    grey, colour = noise(SIZE, SIZE), noise(SIZE, SIZE, 3)
    alpha = noise(SIZE, SIZE, seed=1)
    bits = grey > 127
    dropped, three = "alpha channel dropped", "grey made three channels"
    grey_alpha = np.dstack([grey, alpha])
    for name, mode, stored, pixels, changes in (
        ("grey", None, grey, np.stack([grey] * 3, -1), (three,)),
        ("bits", None, bits, np.stack([bits * 255] * 3, -1), (three,)),
        ("grey_alpha", "LA", grey_alpha, np.stack([grey] * 3, -1), (three, dropped)),
        ("alpha", None, np.dstack([colour, alpha]), colour, (dropped,)),
    ):
        path = saved(tmp_path / f"{name}.png", stored, mode)
        loaded = image_files.load(path, SIZE)
        np.testing.assert_array_equal(loaded.pixels, pixels, err_msg=name)
        assert loaded.changes == changes, name
    palette = Image.new("P", (SIZE, SIZE))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1] * (SIZE * SIZE // 2))
    palette.save(tmp_path / "palette.png", transparency=0)
    loaded = image_files.load(str(tmp_path / "palette.png"), SIZE)
    np.testing.assert_array_equal(loaded.pixels[0, :2], [[10, 20, 30], [40, 50, 60]])
    assert loaded.changes == (dropped,)
    Image.new("CMYK", (SIZE, SIZE), (0, 255, 255, 0)).save(tmp_path / "c.jpg")
    loaded = image_files.load(str(tmp_path / "c.jpg"), SIZE)
    assert np.abs(loaded.pixels.astype(int) - [255, 0, 0]).max() < 12  # red
    assert loaded.changes == ("CMYK made RGB",)


def test_frames_and_exif(tmp_path):
    first, second = noise(SIZE, SIZE, 3), noise(SIZE, SIZE, 3, seed=1)
    frames = [Image.fromarray(x) for x in (first, second)]
    for name, how in (("a.webp", {"lossless": True}), ("a.png", {}), ("a.gif", {})):
        path = str(tmp_path / name)
        frames[0].save(path, save_all=True, append_images=frames[1:], **how)
        loaded = image_files.load(path, SIZE)
        assert "first frame of several" in loaded.changes
        far = np.abs(loaded.pixels.astype(int) - first).mean()
        assert far < (60 if name == "a.gif" else 1e-9)  # a GIF has 256 colours
        assert far < np.abs(loaded.pixels.astype(int) - second).mean()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right
    path = saved(tmp_path / "turned.png", noise(SIZE, 2 * SIZE, 3), exif=exif)
    loaded = image_files.load(path, SIZE)
    upright = np.rot90(noise(SIZE, 2 * SIZE, 3), -1)
    np.testing.assert_array_equal(loaded.pixels, upright[SIZE // 2 : -SIZE // 2])
    assert loaded.size == (2 * SIZE, SIZE)
    assert loaded.changes[0] == "turned upright"
    path = saved(tmp_path / "turned.jpg", noise(SIZE, 2 * SIZE, 3), exif=exif)
    assert image_files.load(path, SIZE).changes[0] == "turned upright"
    exif[0x0112] = 0  # no orientation at all
    path = saved(tmp_path / "zero.png", noise(SIZE, SIZE, 3), exif=exif)
    assert image_files.load(path, SIZE).changes == ()


def test_sixteen_bits_of_colour_are_cut_and_of_grey_refused(tmp_path):
    colour = noise(SIZE, SIZE, 3)
    rows = (colour.astype(">u2") * 257).reshape(SIZE, -1).astype(">u2")
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    (tmp_path / "x.png").write_bytes(png(SIZE, SIZE, 16, data))
    loaded = image_files.load(str(tmp_path / "x.png"), SIZE)
    np.testing.assert_array_equal(loaded.pixels, colour)
    assert loaded.changes == ("16 bits a channel made 8",)
    grey = saved(tmp_path / "y.png", noise(SIZE, SIZE).astype(np.uint16) * 257)
    loaded = image_files.load(grey, SIZE)
    assert loaded.pixels is None and "more than 8 bits" in loaded.reason


def test_other_sizes_are_cropped_and_averaged(tmp_path):
    """20 x 12 to 4 x 4: the central 12 x 12 in blocks of 3 x 3."""
    pixels = noise(12, 20, 3)
    loaded = image_files.load(saved(tmp_path / "x.png", pixels), 4)
    blocks = pixels[:, 4:16].reshape(4, 3, 4, 3, 3).mean(axis=(1, 3))
    assert np.abs(loaded.pixels - blocks).max() < 1  # rounded along either axis
    assert loaded.size == (20, 12)
    assert loaded.changes == ("cropped to its central square", "resized from 20x12")
    square = image_files.load(saved(tmp_path / "y.png", pixels[:, :12]), 4)
    assert square.changes == ("resized from 12x12",)


@pytest.mark.parametrize("number", range(8))
def test_central_view_is_that_of_evaluation(tmp_path, number):
    """For JPEGs, PNGs and grey ones, and for a file that has the size already."""
    (data,) = encoded_sets.files(1, first=number)
    path = tmp_path / "x.jpg"
    path.write_bytes(data)
    width, height = Image.open(path).size
    for size in (16, min(width, height)):
        loaded = image_files.load(str(path), size, central=True)
        expected = encoded.evaluation_view(data, size)
        np.testing.assert_array_equal(loaded.pixels, expected)
        assert loaded.changes[-2:] == (
            "cropped to 0.875 of its central square",
            f"resized from {width}x{height}",
        )
        plain = image_files.load(str(path), size)
        assert not np.array_equal(plain.pixels, loaded.pixels)


def broken_files(folder):
    files = {"PNG": io.BytesIO(), "JPEG": io.BytesIO()}
    for kind, buffer in files.items():
        Image.fromarray(noise(64, 64, 3)).save(buffer, format=kind)
    content = {
        "empty.png": (b"", "empty file"),
        "text.png": (b"no image at all", "cannot identify it as JPEG, PNG"),
        "cut.png": (files["PNG"].getvalue()[:3000], "truncated"),
        "cut.jpg": (files["JPEG"].getvalue()[:1500], "truncated"),
        "bomb.png": (png(50_000, 50_000, 8, b""), "decompression bomb"),
        "large.png": (png(10_000, 10_000, 8, b""), "10000x10000 pixels, more than"),
        "eps.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "cannot identify"),
    }
    for name, (data, _) in content.items():
        (folder / name).write_bytes(data)
    return {str(folder / name): reason for name, (_, reason) in content.items()}


def test_broken_files_have_a_reason(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for path, reason in broken_files(tmp_path).items():
            loaded = image_files.load(path, SIZE)
            assert loaded.pixels is None and reason in loaded.reason, loaded
            assert "BytesIO" not in loaded.reason  # and no address of it
    gone = image_files.load(str(tmp_path / "gone.png"), SIZE)
    assert "No such file" in gone.reason


def test_reading_by_threads_leaves_the_warnings_alone(tmp_path):
    """In whatever order threads begin and end."""
    (tmp_path / "large.png").write_bytes(png(10_000, 10_000, 8, b""))
    paths = [saved(tmp_path / f"{i}.png", noise(SIZE, SIZE, 3)) for i in range(40)]
    before = list(warnings.filters)
    paths = [str(tmp_path / "large.png"), *paths]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        list(image_files.batches(paths * 10, SIZE, 16))
    assert warnings.filters == before


@pytest.mark.parametrize("count", [1, 3, 50, 100, 1000])
def test_batches_are_all_files_in_order(tmp_path, count):
    images = [noise(SIZE, SIZE, 3, seed=i) for i in range(100)]
    paths = [saved(tmp_path / f"{i}.png", x) for i, x in enumerate(images)]
    batches = list(image_files.batches(paths, SIZE, count))
    assert [len(batch) for batch in batches[:-1]] == [count] * (len(batches) - 1)
    flat = [loaded for batch in batches for loaded in batch]
    assert [loaded.path for loaded in flat] == paths
    np.testing.assert_array_equal([loaded.pixels for loaded in flat], images)
    assert list(image_files.batches([], SIZE, count)) == []


def test_a_consumer_that_stops_leaves_no_thread_behind(tmp_path):
    paths = [saved(tmp_path / f"{i}.png", noise(SIZE, SIZE, 3)) for i in range(40)]
    before = threading.active_count()
    stream = image_files.batches(paths, SIZE, 4)
    next(stream)
    assert threading.active_count() > before
    stream.close()
    assert threading.active_count() == before


def test_names_mean_files_folders_and_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b10.png", "b9.png", "sub/c.JPG", "sub/.hidden.png", "odd", "n.txt"):
        path = tmp_path / "d" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    notes = []
    assert image_files.find(["d"], notes.append) == [
        "d/b9.png",
        "d/b10.png",
        "d/sub/c.JPG",
    ]
    assert len(notes) == 1 and "d: 3 of 6 files are left out" in notes[0]
    assert image_files.find(["d/odd"]) == ["d/odd"]
    assert image_files.find(["d/*.png"]) == ["d/b9.png", "d/b10.png"]
    assert image_files.find(["d/**/*.JPG"]) == ["d/sub/c.JPG"]
    assert image_files.find(["d/b10.png", "d/b*.png", "d/b9.png"]) == [
        "d/b10.png",
        "d/b9.png",
    ]
    os.rename("d/odd", "d/x[1].png")
    assert image_files.find(["d/x[1].png"]) == ["d/x[1].png"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "n.txt").write_text("")
    for name, words in (
        ("empty", "no image in this folder"),
        ("text", "no image in this folder"),
        ("d/*.webp", "no file matches this pattern"),
        ("gone.png", "no such file or folder"),
        ("", "no such file or folder"),
    ):
        with pytest.raises(RequestError, match=f"^{name.replace('*', '.')}: .*{words}"):
            image_files.find(["d", name])


def test_the_importers_picture_is_the_same(tmp_path):
    """`fit`, which makes pools, and `load` give the same pixels."""
    path = saved(tmp_path / "x.png", noise(13, 30, 3))
    with open(path, "rb") as f:
        picture = image_source.fit(f.read(), SIZE)
    loaded = image_files.load(path, SIZE)
    np.testing.assert_array_equal(picture.pixels, loaded.pixels)
    assert picture.changes == loaded.changes
