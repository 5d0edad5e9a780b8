"""What is sifted: pictures in places, and those of a command line beside a run's."""

import argparse
import contextlib
import types

import numpy as np
import pytest
from support.import_sources import make_folder
from support.pictures import decode, encode, smooth

from rsmatch_jax.data import rs_ssl, user_parts, user_task
from rsmatch_jax.data.images import compression, image_files
from rsmatch_jax.sift import material

SIDE = 16


def made(root, alike, named):
    """What is sifted of the pictures `named` beside JPEG files of a run's."""
    jpegs = [encode(smooth(i, SIDE, SIDE), "JPEG", quality=40) for i in range(8)]
    make_folder(root / "scraped", {f"{i}.jpg": x for i, x in enumerate(jpegs)})
    real = {f"{c}/{i}.png": encode(smooth(i, SIDE, SIDE)) for c in "ab" for i in (1, 2)}
    make_folder(root / "labelled", real)
    make_folder(root, named)
    folders = str(root / "labelled"), str(root / "scraped")
    task = user_task.load_task(
        user_parts.Places(*folders, None, None, str(root / "cache")),
        size=SIDE,
        encode=False,
        alike=alike,
        test_share=0.0,
        labels_per_class=None,
        validation_per_class=0,
        seed=0,
    )
    data = types.SimpleNamespace(same_compression=alike)
    exp = types.SimpleNamespace(config=types.SimpleNamespace(data=data))

    def read(paths, stored_as=()):
        return image_files.batches(paths, SIDE, 2, stored_as=stored_as)

    model = types.SimpleNamespace(open=read, run=types.SimpleNamespace(exp=exp))
    paths = [str(root / name) for name in named]
    return material._of_files(material._of_task(task), model, paths, task.compressed)


@pytest.mark.parametrize("alike", [False, True])
def test_pictures_named_are_compressed_like_a_run_that_made_its_own_alike(
    tmp_path, alike
):
    pictures = [smooth(i, SIDE, SIDE) for i in (10, 11, 12)]
    got = made(tmp_path, alike, {f"{i}.png": encode(x) for i, x in enumerate(pictures)})
    if alike:
        files = [encode(x, "JPEG", quality=40) for x in pictures]
        np.testing.assert_array_equal(got.images, [decode(x) for x in files])
        assert got.notes == (f"the images named: {compression.CHANGE} (3)",)
    else:
        np.testing.assert_array_equal(got.images, [np.asarray(x) for x in pictures])
        (note,) = got.notes
        assert note.startswith("warning: 100% of the images named are compressed less")


def test_pictures_named_that_are_compressed_more(tmp_path):
    """The run's own pictures stay as it trained on them."""
    file = encode(smooth(10, SIDE, SIDE), "JPEG", quality=5)
    got = made(tmp_path, True, {"x.jpg": file})
    np.testing.assert_array_equal(got.images, [decode(file)])
    assert "100% of the run's unlabelled pictures are compressed less" in got.notes[0]


def test_pictures_named_that_are_like_the_run(tmp_path):
    file = encode(smooth(10, SIDE, SIDE), "JPEG", quality=40)
    got = made(tmp_path, True, {"x.jpg": file})
    np.testing.assert_array_equal(got.images, [decode(file)])
    assert got.notes == ()


def test_origins_of_a_picture_that_cannot_be_read(tmp_path):
    files = {f"{i}.png": encode(smooth(i, SIDE, SIDE)) for i in range(3)}
    make_folder(tmp_path / "scraped", {**files, "1.png": b"junk"})
    make_folder(tmp_path / "labelled", {f"{c}/{c}.png": files["0.png"] for c in "ab"})
    (tmp_path / "o.csv").write_text("path,origin\n1.png,sd\n2.png,real\n")
    places = {"labeled": tmp_path / "labelled", "unlabeled": tmp_path / "scraped"}
    places |= {"origins": tmp_path / "o.csv", "cache_dir": tmp_path / "cache"}
    flags = {"test": None, "size": SIDE, "link": None, "copy": None}
    flags |= {key: str(place) for key, place in places.items()}
    with contextlib.ExitStack() as stack:
        got = material.of_places(argparse.Namespace(**flags), stack)
    assert got.names == ["0.png", "2.png"]
    assert got.origins.tolist() == [rs_ssl.UNKNOWN, rs_ssl.REAL]
    assert any(note.endswith("not used: 1.png") for note in got.notes)
