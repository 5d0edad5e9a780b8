"""The importer's layouts, the images it writes, and its exit codes."""

import json
import os

import numpy as np
import pytest
from PIL import Image
from support import encoded_sets
from support.import_sources import (
    SIZE,
    cifake_files,
    make_folder,
    make_tar,
    make_zip,
    pixels,
    pool_of,
    report_of,
    run,
    sift_links,
    stored_bytes,
    tiny_imagenet_files,
)
from support.pictures import decode, encode

from rsmatch_jax.data import sources
from rsmatch_jax.data.images import image_source


@pytest.fixture
def imported(tmp_path, capsys):
    """Returns imported(files, *flags): imports them and gives the folder and output."""

    def import_files(files, *flags, out="out", size=SIZE):
        source = make_folder(tmp_path / "s", files)
        assert run(source, tmp_path / out, *flags, size=size) == 0
        return tmp_path / out, capsys.readouterr().out

    return import_files


@pytest.mark.parametrize("form", ["zip", "folder", "inside"])
def test_cifake_labels_bytes_and_order(form, tmp_path, capsys):
    files = cifake_files()
    others = {
        "train/REAL/0001.jpg": encode(pixels(1), "JPEG"),
        "test/FAKE/1.jpg": encode(pixels(2), "JPEG"),
        "__MACOSX/train/FAKE/._9.jpg": b"junk",
        "README.txt": b"text",
    }
    if form == "zip":
        source = make_zip(tmp_path / "c.zip", files | others)
    else:
        source = make_folder(tmp_path / "c", files | others)
        source += "/train/FAKE" if form == "inside" else ""
    out = tmp_path / "pool"
    assert run(source, out, layout="cifake") == 0
    pool = pool_of(out, tmp_path)
    assert pool.class_names[:2] == ("airplane", "automobile")
    assert pool.class_names[9] == "truck"
    # By number, and within one number by k; no k at all is airplane and sorts last.
    assert pool.labels.tolist() == [*range(1, 10), 0] * 2
    numbers = [9] * 10 + [10] * 10
    for image, label, number in zip(pool.images, pool.labels, numbers, strict=True):
        name = f"{number} ({label + 1}).jpg" if label else f"{number}.jpg"
        expected = decode(files[f"train/FAKE/{name}"])
        # JPEG decoders differ by a few levels; other noise is 80 away in the mean.
        assert np.abs(image.astype(int) - expected).mean() < 8
    for path, data in stored_bytes(out).items():
        assert data == files["train/FAKE/" + path.split("/")[-1]]
    assert pool.generator_names == ("stable-diffusion-1.4",)
    text = capsys.readouterr().out
    assert "airplane: 2" in text
    if form != "inside":
        assert "1 images ignored: outside FAKE" in text
        assert "1 images ignored: CIFAKE's test split" in text
    report = report_of(out)
    assert "MIT" in report["licence"]
    assert report["generators"]["stable-diffusion-1.4"]["images"] == 20
    assert report["resize"]["kernel"] is None


def test_real_dataset_with_two_splits(tmp_path):
    files = {
        f"{split}/{name}/{i}.png": encode(pixels(s * 100 + c * 10 + i))
        for s, split in enumerate(("train", "test"))
        for c, name in enumerate(("b10", "b9"))
        for i in range(2)
    }
    source = make_zip(tmp_path / "s.zip", {f"wrapped/{k}": v for k, v in files.items()})
    out = tmp_path / "set"
    assert run(source, out) == 0
    assert not (out / "pool.json").exists() and not (out / "origins.json").exists()
    train, test = sources.load_real(str(out), cache_dir=str(tmp_path / "cache"))
    assert train.class_names == ("b9", "b10")
    assert test.labels.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(test.images[0], pixels(110))
    np.testing.assert_array_equal(train.images[2], pixels(0))


def test_pool_of_one_generator_drops_duplicates(tmp_path, imported):
    files = {
        "cat/1.png": encode(pixels(1)),
        "cat/2.bmp": encode(pixels(1), "BMP"),  # other bytes, the same pixels
        "cat/3.png": encode(pixels(3)),
        "dog/1.png": encode(pixels(3)),  # the same pixels in another class
        "dog/2.png": encode(pixels(4)),
    }
    out, text = imported(files, "--generator=ddpm")
    assert "exact duplicates dropped: 1" in text
    assert "1 kept although the same pixels have another class" in text
    assert pool_of(out, tmp_path).counts().tolist() == [2, 2]
    assert report_of(out)["exact_duplicates_dropped"] == 1
    assert report_of(out)["same_pixels_in_two_classes"] == 1
    every, _ = imported(files, "--generator=ddpm", "--keep_duplicates", out="every")
    assert pool_of(every, tmp_path).counts().tolist() == [3, 2]
    assert report_of(every)["exact_duplicates_dropped"] == 0


def test_pool_of_several_generators(tmp_path, imported):
    files = {
        f"{g}/{c}/{i}.png": encode(pixels(100 * a + 10 * b + i))
        for a, g in enumerate(("sd", "glide"))
        for b, c in enumerate(("cat", "dog"))
        for i in range(a + 1)
    }
    names = tmp_path / "names.txt"
    names.write_text("cat\nowl\ndog\n", encoding="utf-8-sig")
    out, _ = imported(files, "--generators=glide,sd", f"--class_names={names}")
    pool = pool_of(out, tmp_path)
    assert pool.class_names == ("cat", "owl", "dog")
    assert pool.labels.tolist() == [0, 0, 2, 2, 0, 2]
    assert pool.generator_names == ("glide", "sd")
    assert np.bincount(pool.generators).tolist() == [4, 2]
    assert report_of(out)["generators"]["glide"]["images"] == 4
    sd = pool.images[pool.generators == 1]
    np.testing.assert_array_equal(sd[0], pixels(0))
    np.testing.assert_array_equal(sd[1], pixels(10))


def test_resize_is_the_area_mean_and_reported(tmp_path, imported):
    big = pixels(5, 4 * SIZE)
    wide = np.concatenate([np.zeros_like(big[:, :6]), big, big[:, :6]], axis=1)
    small = np.full((SIZE, SIZE), 7, np.uint8)
    images = {"1": big, "2": wide ^ 1, "3": small}
    files = {f"c/{name}.png": encode(image) for name, image in images.items()}
    out, text = imported(files, "--generator=g")
    assert "2 resized by Pillow BOX" in text
    assert "1 of these were cropped" in text
    images = pool_of(out, tmp_path).images

    def area(image):
        return image.reshape(SIZE, 4, SIZE, 4, 3).astype(float).mean((1, 3))

    assert np.abs(images[0] - area(big)).max() <= 1
    assert np.abs(images[1] - area(big ^ 1)).max() <= 1
    np.testing.assert_array_equal(images[2], np.full((SIZE, SIZE, 3), 7))
    stored = stored_bytes(out)
    assert stored["c/1.png"][:4] == b"\x89PNG"
    assert stored["c/3.png"] == encode(small)
    report = {"kernel": "Pillow BOX (area mean)", "size": SIZE, "resized": 2}
    assert report_of(out)["resize"] == {**report, "cropped_to_square": 1}


def test_turned_and_transparent_images_are_stored_again():
    image, exif = pixels(1), Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    alpha = np.dstack([image, np.full((SIZE, SIZE), 9, np.uint8)])
    for data in (encode(image, "PNG", exif=exif), encode(alpha)):
        assert image_source.fit(data, SIZE).encoded is None


def test_transparent_images_are_put_on_a_background(tmp_path, imported):
    """Those with an alpha channel, and those with a colour that is transparent."""
    clear = np.dstack([pixels(1), np.zeros((SIZE, SIZE), np.uint8)])
    half = np.dstack([pixels(2), 255 * np.eye(SIZE, dtype=np.uint8)])
    one = pixels(3)
    one[0, 0] = 1, 2, 3
    files = {
        "c/1.png": encode(clear),
        "c/2.png": encode(half),
        "c/3.png": encode(Image.fromarray(one), transparency=(1, 2, 3)),
        "c/4.png": encode(pixels(4)),
    }
    out, text = imported(files, "--generator=g", "--background=#204060")
    assert "3 transparent, put on #204060" in text
    assert "1 of these seen not at all: c/1.png" in text
    back, shown = np.array([0x20, 0x40, 0x60]), half[..., 3:] == 255
    one[0, 0] = back
    expected = [np.broadcast_to(back, one.shape), np.where(shown, half[..., :3], back)]
    expected += [one, pixels(4)]
    np.testing.assert_array_equal(pool_of(out, tmp_path).images, expected)
    assert stored_bytes(out)["c/4.png"] == files["c/4.png"]
    report = {"background": "#204060", "images": 3}
    assert report_of(out)["transparent"] == report


def test_unlabelled_images_are_a_split_without_labels(tmp_path, imported):
    files = {
        "train/a/1.png": encode(pixels(1)),
        "train/b/2.png": encode(pixels(2)),
        "test/a/3.png": encode(pixels(3)),
        "test/b/4.png": encode(pixels(4)),
        "Unlabeled/10.png": encode(pixels(2)),  # the pixels of a labelled one
        "Unlabeled/x/9.png": encode(pixels(5)),
        "Unlabeled/x/y/9.png": encode(pixels(5)),
    }
    out, text = imported(files)
    assert "unlabelled: 2\n" in text and "two classes" not in text
    assert "exact duplicates dropped: 1" in text
    assert "1 kept although the same pixels are also in another split" in text
    assert "have another class as well" not in text
    rows = encoded_sets.stored(out, "unlabelled")
    assert {row["id"].decode(): row["label"] for row in rows} == {
        "Unlabeled/10.png": -1,
        "Unlabeled/x/9.png": -1,
    }
    assert json.loads((out / "origins.json").read_text()) == {"unlabelled": "unknown"}
    train, test = sources.load_real(str(out), cache_dir=str(tmp_path / "cache"))
    assert train.labels.tolist() == test.labels.tolist() == [0, 1]


def test_folders_of_links(tmp_path, capsys):
    """Those of sift --link, one by one, and a picture that is linked twice."""
    photos, folder = tmp_path / "photos", tmp_path / "sift"
    make_folder(photos, {f"{i}.png": encode(pixels(i)) for i in range(4)})
    names = ("real/cat/0.png", "real/dog/1.png", "real/dog/2.png")
    sift_links(folder, photos, (*names, "synthetic/cat/3.png"))
    (folder / "real" / "dog" / "3.png").symlink_to("2.png")
    assert run(folder, tmp_path / "no") == 2
    assert "pass --generators=real,synthetic;" in capsys.readouterr().err
    for part, count in (("real", 3), ("synthetic", 1)):
        out = tmp_path / part
        assert run(folder / part, out, "--generator=none") == 0
        pool = pool_of(out, tmp_path)
        assert pool.labels.tolist() == [0, 1, 1][:count]
        first = {"real": 0, "synthetic": 3}[part]
        expected = [pixels(first + i) for i in range(count)]
        np.testing.assert_array_equal(pool.images, expected)
    assert "read already: dog/3.png (as dog/2.png)" in capsys.readouterr().out


def test_a_table_of_labels_and_a_tar(tmp_path, capsys):
    """One pool from a CSV beside a flat folder, and from class folders in a tar."""
    files = {f"{i}.png": encode(pixels(i)) for i in range(3)}
    make_folder(tmp_path / "flat", files)
    table = tmp_path / "flat" / "labels.csv"
    table.write_text("path,label\n2.png,dog\n0.png,cat\n1.png,dog\n")
    tar = make_tar(
        tmp_path / "s.tgz",
        {
            f"{c}/{i}.png": files[f"{i}.png"]
            for i, c in enumerate(("cat", "dog", "dog"))
        },
    )
    pools = []
    for source, name in ((table, "one"), (tar, "two")):
        assert run(source, tmp_path / name, "--generator=g") == 0
        pools.append(pool_of(tmp_path / name, tmp_path))
    for pool in pools:
        assert pool.class_names == ("cat", "dog")
        assert pool.labels.tolist() == [0, 1, 1]
        np.testing.assert_array_equal(pool.images, [pixels(i) for i in range(3)])
    assert run(table, tmp_path / "no", layout="cifake") == 2
    assert "pass --layout=folders" in capsys.readouterr().err


def test_a_class_without_a_readable_picture_is_named(imported):
    files = {"train/a/1.png": encode(pixels(1)), "train/b/2.png": b"no image"}
    files |= {"test/a/1.png": encode(pixels(2))}
    _, text = imported(files, "--skip_unreadable")
    assert "train has no readable picture of b" in text
    assert "test has no pictures of b" in text


def test_validation_stands_in_for_a_test_split(imported):
    """As training reads it (test_sources.py)."""
    _, text = imported({f"{x}/a/1.png": encode(pixels(1)) for x in ("train", "val")})
    assert "validation: 1" in text and "no test split" not in text


def test_unreadable_files_are_all_named_and_refused(tmp_path, capsys):
    files = {f"c/{i}.png": encode(pixels(i)) for i in range(3)}
    files["c/cut.png"] = files["c/0.png"][:60]
    files["c/text.jpg"] = b"no image"
    source = make_zip(tmp_path / "s.zip", files)
    out = tmp_path / "out"
    assert run(source, out, "--generator=g") == 2
    message = capsys.readouterr().err
    for words in ("2 files", "c/cut.png", "c/text.jpg"):
        assert words in message
    assert os.listdir(tmp_path) == ["s.zip"]
    assert run(source, out, "--generator=g", "--skip_unreadable") == 0
    assert "c/cut.png" in capsys.readouterr().out
    assert len(report_of(out)["unreadable_left_out"]) == 2


def test_zip_damage_is_a_request_error(tmp_path, capsys):
    source = tmp_path / "s.zip"
    make_zip(source, {f"c/{i}.png": encode(pixels(i)) for i in (1, 2)})
    content = bytearray(source.read_bytes())
    content[60] ^= 255
    source.write_bytes(content)
    assert run(source, tmp_path / "out", "--generator=g") == 2
    assert "c/1.png (Bad CRC-32" in capsys.readouterr().err


def test_full_size_keeps_every_image_as_it_is(tmp_path, imported):
    files = {
        "train/a/1.jpg": encode(np.zeros((9, 20, 3), np.uint8), "JPEG"),
        "train/b/2.png": encode(pixels(1, 12)),
        "train/b/3.bmp": encode(pixels(2, 5), "BMP"),
        "test/a/4.png": encode(pixels(3, 30)),
        "test/b/5.png": encode(pixels(4, 7)),
    }
    out, text = imported(files, "--full_size", size=None)
    assert "5 images of their own sizes" in text
    stored = stored_bytes(out)
    for name in ("train/a/1.jpg", "train/b/2.png"):
        assert stored[name] == files[name]
    np.testing.assert_array_equal(decode(stored["train/b/3.bmp"]), pixels(2, 5))
    cache = str(tmp_path / "cache")
    train, test = sources.load_real(str(out), cache_dir=cache, image_size=8)
    assert train.images[:].shape == (3, 8, 8, 3) and len(test.labels) == 2


@pytest.mark.parametrize("form", ["zip", "wrapped", "folder"])
def test_tiny_imagenet_splits_labels_and_names(form, tmp_path, capsys):
    files = tiny_imagenet_files()
    if form == "folder":
        source = make_folder(tmp_path / "t", files)
    else:
        top = "tiny-imagenet-200/" if form == "wrapped" else ""
        source = make_zip(tmp_path / "t.zip", {top + k: v for k, v in files.items()})
    out = tmp_path / "tiny_imagenet" / "1.0.0"
    assert run(source, out, layout="tiny_imagenet", size=None) == 0
    text = capsys.readouterr().out
    assert "10 images of 64x64" in text
    assert "1 images ignored: Tiny-ImageNet's test images have no labels" in text
    train, test = sources.load_real(
        "tiny_imagenet", data_dir=str(tmp_path), cache_dir=str(tmp_path / "cache")
    )
    assert train.name == "tiny_imagenet"
    assert train.class_names == ("crane (n01)", "goldfish", "crane (n03)", "n04")
    # Natural order of the files' names: _9 before _10.
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert test.labels.tolist() == [2, 0]
    assert train.images.shape[1:] == test.images.shape[1:] == (64, 64, 3)
    expected = decode(files["train/n01/images/n01_9.JPEG"])
    assert np.abs(train.images[0].astype(int) - expected).mean() < 8
    grey = test.images[0]
    assert (grey == grey[..., :1]).all()
    assert run(source, tmp_path / "small", layout="tiny_imagenet", size=16) == 0
    assert "10 images of 16x16" in capsys.readouterr().out


TINY, FAKE = "--layout=tiny_imagenet", "--layout=cifake"
NO_WORDS = {k: v for k, v in tiny_imagenet_files(8).items() if k != "words.txt"}
NO_VAL_1 = {**tiny_imagenet_files(8), "val/val_annotations.txt": b"val_0.JPEG\tn03\n"}
NO_N04 = {**tiny_imagenet_files(8), "wnids.txt": b"n01\nn02\nn03\n"}

NO_TRAIN = {"train/c/1.png": b"junk", "test/c/2.png": encode(pixels(1))}


@pytest.mark.parametrize(
    ("files", "flags", "word"),
    [
        (NO_WORDS, (TINY,), "no words.txt"),
        (NO_VAL_1, (TINY,), "val_1.JPEG is not in"),
        (NO_N04, (TINY,), "class n04, but wnids.txt has not"),
        (tiny_imagenet_files(8), (TINY, "--generator=g"), "--generator: Tiny-ImageNet"),
        (tiny_imagenet_files(8), (TINY, "--generators=g"), "--generators: Tiny-Image"),
        ({"FAKE/1.jpg": b""}, (FAKE, "--generators=g"), "CIFAKE has one generator"),
        ({"c/1.png": b""}, ("--generators=g,",), "--generators= names an empty folder"),
        ({"c/1.png": b""}, ("--generators=g", "--generator=g"), "not allowed with"),
        ({"c/1.png": b""}, ("--background=blu",), "--background=blu: write a colour's"),
        ({"FAKE/9 (11).jpg": b""}, (FAKE,), "9 (11).jpg"),
        ({"FAKE/9 (1).jpg": b""}, (FAKE,), "9 (1).jpg"),
        ({"FAKE/cat.jpg": b""}, (FAKE,), "cat.jpg"),
        (NO_TRAIN, (), "1 file; replace or delete train/c/1.png (cannot identify"),
        (NO_TRAIN, ("--skip_unreadable",), "train/c/1.png (cannot identify"),
    ],
)
def test_wrong_files_are_named_and_leave_nothing(files, flags, word, tmp_path, capsys):
    """See also engine/test_bad_requests.py."""
    source = make_zip(tmp_path / "s.zip", files)
    assert run(source, tmp_path / "out", *flags) == 2
    assert word in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["s.zip"]


def test_a_failed_write_exits_1(tmp_path, capsys):
    source = make_folder(tmp_path / "s", {"a/1.png": encode(pixels(0))})
    (tmp_path / "file").write_text("")
    assert run(source, tmp_path / "file" / "out", "--generator=g") == 1
    assert "nothing was written" in capsys.readouterr().err
