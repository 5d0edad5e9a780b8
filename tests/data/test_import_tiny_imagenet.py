"""The importer's layout of Tiny-ImageNet."""

import os

import numpy as np
import pytest
from PIL import Image
from support.import_sources import decode, encode, make_folder, make_zip, pixels, run

from rsmatch_jax.data import sources

TINY = {
    "wnids.txt": b"n03\nn01\nn02\nn04\n",
    "words.txt": b"n01\tcrane\nn02\tgoldfish, Carassius\nn03\tcrane, bird\nn9\tx\n",
    "val/val_annotations.txt": b"val_0.JPEG\tn03\t0\t0\t9\t9\nval_1.JPEG\tn01\t1\t2\n",
    "train/n01/n01_boxes.txt": b"n01_0.JPEG\t0\t0\t9\t9\n",
    "test/images/test_0.JPEG": encode(pixels(99, 64), "JPEG"),
    "readme.jpg": b"junk",
}


def tiny_imagenet_files(size=64) -> dict[str, bytes]:
    files = dict(TINY)
    for number, wnid in enumerate(("n01", "n02", "n03", "n04")):
        for i in (10, 9):
            name = f"train/{wnid}/images/{wnid}_{i}.JPEG"
            files[name] = encode(pixels(10 * i + number, size), "JPEG")
    grey = Image.fromarray(pixels(5, size)).convert("L")
    files["val/images/val_0.JPEG"] = encode(np.asarray(grey), "JPEG")
    files["val/images/val_1.JPEG"] = encode(pixels(6, size), "JPEG")
    return files


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


@pytest.mark.parametrize(
    ("change", "flags", "word"),
    [
        ({"words.txt": None}, (), "no words.txt"),
        ({"val/val_annotations.txt": b"val_0.JPEG\tn03\n"}, (), "val_1.JPEG is not in"),
        ({"wnids.txt": b"n01\nn02\nn03\n"}, (), "its class n04 is not in wnids.txt"),
        ({}, ("--generator=g",), "--generator: Tiny-ImageNet"),
        ({}, ("--size=9", "--full_size"), "exclude each other"),
    ],
)
def test_wrong_archives_and_flags_are_refused(change, flags, word, tmp_path, capsys):
    files = {**tiny_imagenet_files(8), **change}
    files = {k: v for k, v in files.items() if v is not None}
    source = make_zip(tmp_path / "t.zip", files)
    out = tmp_path / "o"
    assert run(source, out, *flags, layout="tiny_imagenet", size=None) == 2
    assert word in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["t.zip"]
