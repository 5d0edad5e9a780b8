"""Image files of every type, from their name to the pixels that a network gets."""

import importlib
import os
import struct
import sys
import threading
import types
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, features
from support import encoded_sets
from support.pictures import encode, noise

from rsmatch_jax.data.images import alpha, image_files, image_source, kinds, limits
from rsmatch_jax.data.stores import encoded
from rsmatch_jax.errors import RequestError

SIZE = 8
EXACT = {"lossless": True, "exact": True}


def png(width, height, depth, data):
    """A PNG file of RGB pixels, by hand: Pillow writes no 16 bits and no bombs."""
    content = b"\x89PNG\r\n\x1a\n"
    head = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    for kind, part in ((b"IHDR", head), (b"IDAT", data), (b"IEND", b"")):
        content += struct.pack(">I", len(part)) + kind + part
        content += struct.pack(">I", zlib.crc32(kind + part))
    return content


def saved(path, pixels, **how):
    Image.fromarray(pixels).save(path, **how)
    return str(path)


@pytest.mark.parametrize("kind", ["png", "bmp", "webp"])
def test_plain_images_are_their_pixels(tmp_path, kind):
    pixels, how = noise(SIZE, SIZE, 3), {"lossless": True} if kind == "webp" else {}
    loaded = image_files.load(saved(tmp_path / f"x.{kind}", pixels, **how), SIZE)
    np.testing.assert_array_equal(loaded.pixels, pixels)
    assert (loaded.size, loaded.changes, loaded.reason) == ((SIZE, SIZE), (), "")


def test_other_modes_become_rgb_and_are_reported(tmp_path):
    grey, colour = noise(SIZE, SIZE), noise(SIZE, SIZE, 3)
    alpha, bits = noise(SIZE, SIZE, seed=1), grey > 127
    three = "grey made three channels"
    put = "transparency put on white"
    grey_alpha = np.dstack([grey, alpha])

    def on_white(pixels):
        share = alpha[..., None] / 255
        return np.rint(pixels * share + 255 * (1 - share)).astype(int)

    palette = Image.new("P", (SIZE, SIZE))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1] * (SIZE * SIZE // 2))
    colours = np.tile([[255, 255, 255], [40, 50, 60]], (SIZE, SIZE // 2, 1))
    opaque = np.dstack([colour, np.full_like(alpha, 255)])
    red = Image.new("CMYK", (SIZE, SIZE), (0, 255, 255, 0))
    for name, image, how, pixels, changes in (
        ("grey.png", grey, {}, np.stack([grey] * 3, -1), (three,)),
        ("bits.png", bits, {}, np.stack([bits * 255] * 3, -1), (three,)),
        ("la.png", grey_alpha, {}, on_white(grey[..., None]), (three, put)),
        ("alpha.png", np.dstack([colour, alpha]), {}, on_white(colour), (put,)),
        ("alpha.webp", np.dstack([colour, alpha]), EXACT, on_white(colour), (put,)),
        ("alpha.tiff", np.dstack([colour, alpha]), {}, on_white(colour), (put,)),
        ("opaque.png", opaque, {}, colour, ()),
        ("palette.png", palette, {"transparency": 0}, colours, (put,)),
        ("red.jpg", red, {}, np.full((SIZE, SIZE, 3), [255, 0, 0]), ("CMYK made RGB",)),
    ):
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image, "LA" if name == "la.png" else None)
        image.save(tmp_path / name, **how)
        loaded = image_files.load(str(tmp_path / name), SIZE)
        far = np.abs(loaded.pixels.astype(int) - pixels).max()
        assert far < (12 if name == "red.jpg" else 2), name
        assert loaded.changes == changes, name


def test_transparency_before_anything_else(tmp_path):
    """Half of a picture shows the background: put on it at full size, then averaged."""
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:, ::2] = 60, 90, 120, 255
    path = saved(tmp_path / "x.png", pixels)
    for background, colour in (("white", 255), ("#000000", 0), ("#102030", None)):
        loaded = image_files.load(path, 2, background=background)
        back = [16, 32, 48] if colour is None else [colour] * 3
        expected = (np.array([60, 90, 120]) + back) / 2
        assert np.abs(loaded.pixels - expected).max() <= 1
        put, resized = loaded.changes
        assert put == f"transparency put on {background}"
        assert resized == "resized from 4x4"
        central = image_files.load(path, 2, central=True, background=background)
        assert np.abs(central.pixels - expected).max() <= 30  # it crops and blurs
        assert put in central.changes
    pixels[..., 3] = 0
    loaded = image_files.load(saved(tmp_path / "x.png", pixels), 4)
    assert (loaded.pixels == 255).all()
    assert loaded.changes == ("transparency put on white", "fully transparent")


@pytest.mark.parametrize("colour", ["nocolour", "#12", "#11223344", ""])
def test_colours_that_are_none(colour):
    with pytest.raises(RequestError, match=f"--background={colour}: write"):
        alpha.colour(colour)


@pytest.mark.parametrize("depth", [8, 16])
def test_further_formats(tmp_path, depth):
    """Colour of TIFF and PPM, of 8 or 16 bits a channel, by hand."""
    colour = noise(SIZE, SIZE, 3)
    deep = (colour.astype(np.uint16) * 257).astype(">u2")
    tiff = tiff_file(deep.tobytes() if depth == 16 else colour.tobytes(), depth)
    ppm = b"P6 8 8 %d\n" % (2**depth - 1) + (deep if depth == 16 else colour).tobytes()
    changes = ("16 bits a channel made 8",) if depth == 16 else ()
    for name, data in (("x.tif", tiff), ("x.ppm", ppm)):
        (tmp_path / name).write_bytes(data)
        loaded = image_files.load(str(tmp_path / name), SIZE)
        np.testing.assert_array_equal(loaded.pixels, colour, name)
        assert loaded.changes == changes, name


def tiff_file(data, depth):
    """A big-endian TIFF of RGB pixels, without compression."""
    depths = 8 + 2 + 10 * 12 + 4
    tags = [
        (256, 3, 1, SIZE << 16),
        (257, 3, 1, SIZE << 16),
        (258, 3, 3, depths),
        (259, 3, 1, 1 << 16),
        (262, 3, 1, 2 << 16),
        (273, 4, 1, depths + 6),
        (274, 3, 1, 1 << 16),
        (277, 3, 1, 3 << 16),
        (278, 3, 1, SIZE << 16),
        (279, 4, 1, len(data)),
    ]
    content = b"MM\0*" + struct.pack(">IH", 8, len(tags))
    content += b"".join(struct.pack(">HHII", *tag) for tag in tags)
    return content + struct.pack(">IHHH", 0, depth, depth, depth) + data


@pytest.mark.parametrize("kind", ["x.tiff", "x.jfif", "x.avif", "x.pgm"])
def test_suffixes_that_are_images(tmp_path, kind):
    """As far as this Pillow reads them."""
    if kind == "x.avif" and not features.check("avif"):
        pytest.skip("this Pillow does not read AVIF")
    flat = np.full((SIZE, SIZE), 77, np.uint8)
    format_ = {"x.jfif": "JPEG"}.get(kind)
    Image.fromarray(flat).save(tmp_path / kind, format=format_)
    (path,) = image_files.find([str(tmp_path)])
    loaded = image_files.load(path, SIZE)
    assert np.abs(loaded.pixels.astype(int) - 77).max() <= 2


def test_suffixes_that_pillow_does_not_read_are_counted(tmp_path):
    for name in ("a.heic", "b.HEIC", "c.jxl", "x.png", "n.txt", ".d.heic"):
        (tmp_path / name).write_bytes(b"")
    notes = []
    image_files.find([str(tmp_path)], notes.append)
    line = f"{tmp_path}: pictures that cannot be read here, convert them: "
    assert notes[0] == line + "2 .heic, 1 .jxl"


def test_heic_is_read_where_its_package_is_there(tmp_path, monkeypatch):
    """The package pillow_heif adds the format to Pillow when it is asked to."""
    package = types.ModuleType("pillow_heif")
    package.__spec__ = importlib.machinery.ModuleSpec("pillow_heif", None)
    package.register_heif_opener = lambda: calls.append(1)
    calls = []
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    clear = (kinds.formats.cache_clear, kinds.suffixes.cache_clear)
    [forget() for forget in clear]
    try:
        assert kinds.formats()["HEIF"] == (".heic", ".heif") and calls == [1]
        assert kinds.is_image("a/x.HEIC")
    finally:
        [forget() for forget in clear]
        monkeypatch.undo()
    assert kinds.is_image("a/x.HEIC") == bool(importlib.util.find_spec("pillow_heif"))


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
    exif, wide = Image.Exif(), noise(SIZE, 2 * SIZE, 3)
    exif[0x0112] = 6  # turn by 90 degrees to the right
    for name in ("turned.png", "turned.jpg", "turned.tif"):
        loaded = image_files.load(saved(tmp_path / name, wide, exif=exif), SIZE)
        # Pillow gives the size of a TIFF as it is upright.
        turned = name == "turned.tif"
        assert loaded.size == ((SIZE, 2 * SIZE) if turned else (2 * SIZE, SIZE))
        assert loaded.changes[0] == "turned upright"
        if name != "turned.jpg":
            upright = np.rot90(wide, -1)[SIZE // 2 : -SIZE // 2]
            np.testing.assert_array_equal(loaded.pixels, upright)
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
    assert "more than 8 bits" in image_files.load(grey, SIZE).reason


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
        crop, resize = loaded.changes[-2:]
        assert crop == "cropped to 0.875 of its central square"
        assert resize == f"resized from {width}x{height}"
        plain = image_files.load(str(path), size)
        assert not np.array_equal(plain.pixels, loaded.pixels)


BROKEN = [
    (b"", "empty file"),
    (b"no image at all", "cannot identify it as JPEG, PNG"),
    (encode(noise(64, 64, 3))[:3000], "truncated"),
    (encode(noise(64, 64, 3), "JPEG")[:1500], "truncated"),
    (png(50_000, 50_000, 8, b""), "decompression bomb"),
    (png(10_000, 10_000, 8, b""), "10000x10000 pixels, more than"),
]


@pytest.mark.parametrize(("data", "reason"), [*BROKEN, (None, "No such file")])
def test_broken_files_have_a_reason(tmp_path, data, reason):
    path = tmp_path / "x.png"
    if data is not None:
        path.write_bytes(data)
    with image_source.bombs_refused_by_name():
        loaded = image_files.load(str(path), SIZE)
    assert loaded.pixels is None and reason in loaded.reason
    assert "BytesIO" not in loaded.reason  # and no address of it


def test_pipes_and_devices(tmp_path, monkeypatch):
    """A pipe is read, as a shell's <(command) is; a device without an end is left."""
    os.mkfifo(tmp_path / "pipe.png")
    data = encode(noise(SIZE, SIZE, 3))
    writer = threading.Thread(target=(tmp_path / "pipe.png").write_bytes, args=(data,))
    writer.start()
    loaded = image_files.load(str(tmp_path / "pipe.png"), SIZE)
    writer.join()
    np.testing.assert_array_equal(loaded.pixels, noise(SIZE, SIZE, 3))
    monkeypatch.setattr(limits, "MAX_FILE_MIB", 2)
    assert image_files.load("/dev/zero", SIZE).reason == "larger than 2 MiB"


def test_reading_by_threads_leaves_the_warnings_alone(tmp_path):
    """In whatever order threads begin and end."""
    (tmp_path / "large.png").write_bytes(png(10_000, 10_000, 8, b""))
    paths = [saved(tmp_path / f"{i}.png", noise(SIZE, SIZE, 3)) for i in range(40)]
    before = list(warnings.filters)
    paths = [str(tmp_path / "large.png"), *paths]
    with image_source.bombs_refused_by_name():
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
    images = ["d/b9.png", "d/b10.png", "d/sub/c.JPG"]
    assert image_files.find(["d"], notes.append) == images
    assert len(notes) == 1 and "d: 3 of 6 files are left out" in notes[0]
    os.rename("d/n.txt", "d/x[1].png")
    for names, paths in (
        (["d/odd"], ["d/odd"]),
        (["d/b*.png"], ["d/b9.png", "d/b10.png"]),
        (["d/**/*.JPG"], ["d/sub/c.JPG"]),
        (["d/b10.png", "d/b*.png", "d/b9.png"], ["d/b10.png", "d/b9.png"]),
        (["d/x[1].png"], ["d/x[1].png"]),
    ):
        assert image_files.find(names) == paths
    for name in ("empty", "text"):
        (tmp_path / name).mkdir()
    (tmp_path / "text" / "n.heic").write_text("")
    for name, words in (
        ("empty", "no image in this folder"),
        ("text", "no image in this folder .*convert them: 1 .heic"),
        ("d/*.webp", "no file matches this pattern"),
        ("gone.png", "no such file or folder"),
    ):
        with pytest.raises(RequestError, match=f"^{name.replace('*', '.')}: .*{words}"):
            image_files.find(["d", name])
