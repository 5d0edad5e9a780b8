"""Tests the look command on pools with known faults, and all its refusals."""

import json
import os
import re
import sys

import numpy as np
import pytest
from PIL import Image
from support import pictures as make_pictures

from rsmatch_jax.data import sources, stores
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.synthesis.look import __main__ as look
from rsmatch_jax.synthesis.look import file_format

SIZE, CLASSES = 16, ("cat", "dog", "owl")


def pictures(per_class, seed, channels=3):
    """Returns (images, labels): smooth patches with noise; the mean tells the class."""
    rng = np.random.default_rng(seed)
    labels = np.tile(np.arange(len(CLASSES), dtype=np.int32), per_class)
    coarse = rng.normal(0, 30, (len(labels), 4, 4, channels))
    smooth = coarse.repeat(SIZE // 4, axis=1).repeat(SIZE // 4, axis=2)
    levels = 80 + 40 * labels[:, None, None, None] + smooth
    levels = levels + rng.normal(0, 10, smooth.shape)
    return np.clip(levels, 0, 255).astype(np.uint8), labels


def array_pool(folder, images, labels, kinds=("a",), names=CLASSES, extra=None):
    """Writes a pool; the generators take turns of one picture of each class."""
    generators = (np.arange(len(labels)) // 3 % len(kinds)).astype(np.int32)
    data = arrays.ImageArrays("pets", images, labels, names, generators, kinds)
    arrays.save(str(folder), data, extra)
    return str(folder)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Writes a real set in array form with 150 training pictures a class."""
    root = tmp_path_factory.mktemp("real")
    for split, per_class, seed in (("train", 150, 0), ("test", 20, 1)):
        data = arrays.ImageArrays("pets", *pictures(per_class, seed), CLASSES)
        arrays.save(str(root / split), data)
    return str(root)


def run(pool, real, out, *flags):
    return look.main([str(pool), f"--real={real}", f"--out={out}", *flags])


def figures_of(out):
    with open(os.path.join(out, look.JSON)) as f:
        return json.load(f)


@pytest.mark.parametrize(
    ("frame", "low", "high", "words"),
    [
        (False, 0.4, 0.6, ("no shortcut seen", "nothing of the above")),
        (True, 0.95, 1.0, ("trivially told",)),
    ],
)
def test_a_planted_frame_is_found(frame, low, high, words, tmp_path, real, capsys):
    images, labels = pictures(150, seed=5)
    if frame:
        images[:, (0, -1)] = 0
        images[:, :, (0, -1)] = 0
    pool = array_pool(tmp_path / "pool", images, labels, ("a", "b"))
    assert run(pool, real, tmp_path / "out") == 0
    figures = figures_of(tmp_path / "out")
    assert figures["near_twins"]["real"] < 0.05
    assert figures["probe"]["pictures"] == 900
    for name in ("pixels", "statistics"):
        assert low < figures["probe"][name]["balanced_accuracy"] <= high
        assert len(figures["probe"][name]["by_generator"]) == 2
    out = capsys.readouterr().out
    assert all(word in out for word in words)


def test_copies_of_real_pictures_do_not_leak(tmp_path, real, capsys):
    """A pool of copies of itself and of real pictures has too few different ones."""
    images, labels = pictures(2, seed=7)
    train = arrays.load(os.path.join(real, "train"))
    test = arrays.load(os.path.join(real, "test"))
    pool = array_pool(
        tmp_path / "pool",
        np.concatenate([*[images] * 20, train.images[:60], test.images[:9]]),
        np.concatenate([*[labels] * 20, train.labels[:60], test.labels[:9]]),
        extra={"duplicates_dropped": 4},
    )
    assert run(pool, real, tmp_path / "out") == 0
    figures = figures_of(tmp_path / "out")
    assert figures["duplicates"]["pool"] == {
        "in_their_class": 19 * 6,
        "pixels_in_several_classes": 0,
        "copies_of_training_pictures": 60,
        "copies_of_test_pictures": 9,
    }
    assert figures["imported"] == {"duplicates_found": 4, "duplicates_dropped": 4}
    assert figures["probe"]["pictures"] == 2 * (6 + 9)
    assert figures["probe"]["pixels"] is None
    out = capsys.readouterr().out
    assert "60 copies of real training pictures" in out
    assert "too few different pictures" in out


def test_a_pool_of_copies_of_real_pictures_alone(tmp_path, real, capsys):
    train = arrays.load(os.path.join(real, "train"))
    pool = array_pool(tmp_path / "pool", train.images[:60], train.labels[:60])
    assert run(pool, real, tmp_path / "out") == 0
    assert figures_of(tmp_path / "out")["probe"] == {
        "pictures": 0,
        "seed": 0,
        "pixels": None,
        "statistics": None,
    }
    assert "60 copies of real training pictures" in capsys.readouterr().out


def test_near_twins_in_a_grey_pool_beside_coloured_pictures(tmp_path, real, capsys):
    images, labels = pictures(10, seed=9, channels=1)
    darker = np.concatenate([images, images // 2 + 20])
    pool = array_pool(tmp_path / "pool", darker, np.tile(labels, 2))
    assert run(pool, real, tmp_path / "out", "--sample=100") == 0
    figures = figures_of(tmp_path / "out")
    assert figures["near_grey"]["pool"] == [1, 1, 1]
    assert figures["near_twins"]["pool"] == 1
    assert "- near twins: 100.0 % against" in capsys.readouterr().out


REPEATS = [*range(30), 0, 1, 2, 0]  # three duplicates, and a cat that is a dog too


@pytest.fixture(scope="module")
def dataset_folders(tmp_path_factory):
    """Returns the folders (pool, real).

    Generator a: JPEG of quality 30, 4 of the dogs grey. b: PNG, see REPEATS. Real
    pictures: JPEG of quality 90.
    """
    from rsmatch_jax.data.stores import tf_write

    root = tmp_path_factory.mktemp("folders")

    def examples(images, labels, encode, generator, start=0):
        return [
            tf_write.Example(encode(image), int(label), f"{start + i}", generator)
            for i, (image, label) in enumerate(zip(images, labels, strict=True))
        ]

    def jpeg(quality):
        return lambda image: make_pictures.encode(image, "JPEG", quality=quality)

    splits = {
        split: examples(*pictures(20, seed), jpeg(90), None)
        for split, seed in (("train", 0), ("test", 1))
    }
    pool, real = str(root / "drawn"), str(root / "pets")
    form = {"class_names": CLASSES, "size": (SIZE, SIZE)}
    tf_write.write(real, splits, **form)
    a, labels_a = pictures(10, 2)
    dogs = np.flatnonzero(labels_a == 1)[:4]
    a[dogs] = a[dogs][..., :1]
    b, labels_b = pictures(10, 3)
    b, labels_b = b[REPEATS], np.append(labels_b[REPEATS[:-1]], 1)
    drawn = examples(a, labels_a, jpeg(30), 0)
    drawn += examples(b, labels_b, np.asarray, 1, start=100)
    duplicates = {"exact_duplicates": 3, "exact_duplicates_dropped": 0}
    names = {"generator_names": ("a", "b"), "pool": duplicates}
    tf_write.write(pool, {"train": drawn}, **form, **names)
    return pool, real


def test_known_faults_are_counted(dataset_folders, tmp_path, capsys):
    pool, real = dataset_folders
    cache = f"--cache_dir={tmp_path}/cache"
    assert run(pool, real, tmp_path / "out", cache, "--sample=100") == 0
    figures = figures_of(tmp_path / "out")
    assert figures["counts"]["pool"] == [21, 22, 21]
    assert figures["counts"]["generators"] == [[10, 10, 10], [11, 12, 11]]
    assert figures["imported"] == {"duplicates_found": 3, "duplicates_dropped": 0}
    assert figures["duplicates"]["pool"] == {
        "in_their_class": 3,
        "pixels_in_several_classes": 1,
        "copies_of_training_pictures": 0,
        "copies_of_test_pictures": 0,
    }
    assert figures["near_grey"]["pool"] == pytest.approx([0, 4 / 22, 0])
    assert figures["near_grey"]["generators"][0] == pytest.approx([0, 0.4, 0])
    encoding = figures["encoding"]
    assert encoding["real"]["formats"] == {"JPEG": 60}
    assert encoding["real"]["commonest"][0]["setting"] == "quality 90, 4:2:0"
    assert encoding["pool"]["formats"] == {"PNG": 34, "JPEG": 30}
    assert encoding["generators"][0]["commonest"][0]["setting"] == "quality 30, 4:2:0"
    assert encoding["generators"][1]["jpeg_settings"] == 0
    colour = figures["colour"]["generators"][1]["mean"]
    np.testing.assert_allclose(colour, pictures(10, 3)[0][REPEATS].mean((0, 1, 2)))
    assert figures["probe"]["pixels"]["by_generator"][0] is not None
    out = capsys.readouterr().out
    for line in (
        "3 exact duplicates in a class",
        "1 pictures in several classes",
        "near-grey dog: 18.2 % against 0.0 % real",
        "a: JPEG mostly of quality 30, 4:2:0, real of quality 90, 4:2:0",
        "b: 0.0 % stored as JPEG, 100.0 % of the real pictures",
    ):
        assert f"- {line}" in out, line
    with Image.open(tmp_path / "out" / look.PNG) as sheet:
        assert sheet.width > 3 * 8 * 48


def test_without_tensorflow_the_files_are_not_looked_at(dataset_folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "rsmatch_jax.data.stores.tf_read", None)
    monkeypatch.delattr(stores, "tf_read", raising=False)
    figures = file_format.of_folders(*dataset_folders, ("a", "b"))
    assert "TensorFlow" in figures["pool"]["unseen"]
    assert "TensorFlow" in figures["generators"][1]["unseen"]


def test_grey_digits_and_their_pool(tmp_path, capsys):
    pool = sources.default_pool("digits", None)
    assert run(pool, "digits", tmp_path, "--sample=200", "--per_class=3") == 0
    out = capsys.readouterr().out
    assert re.search(r"pool \| +1900 \| 190 to 190 \| +- \|", out)
    assert "files of pool not read: there are only decoded pictures" in out
    figures = figures_of(tmp_path)
    assert figures["near_grey"] is None
    assert figures["blockiness"]["pool"] is None
    assert figures["counts"]["pool"] == [190] * 10


def test_a_class_and_a_generator_without_pictures(tmp_path, real, capsys):
    images, labels = pictures(10, seed=8)
    images, labels = images[labels < 2], labels[labels < 2]
    data = arrays.ImageArrays(
        "pets", images, labels, CLASSES, np.zeros(20, np.int32), ("a", "b")
    )
    arrays.save(str(tmp_path / "p"), data)
    # By default the figures go beside the pool, and replace those that are there.
    for _ in range(2):
        argv = [str(tmp_path / "p"), f"--real={real}", "--sample=100"]
        assert look.main(argv) == 0
    assert "no pictures of owl" in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path / "p-look")) == [look.JSON, look.PNG]
    figures = figures_of(tmp_path / "p-look")
    assert figures["near_grey"]["pool"][2] is None
    assert figures["colour"]["generators"][1] == {"mean": [], "std": []}
    assert figures["blockiness"]["generators"][1] is None


@pytest.mark.parametrize(
    ("names", "size", "words"),
    [
        (("dog", "cat", "owl"), SIZE, ("classes dog, cat, owl", "in this order")),
        (("cat", "dog", "owl", "elk"), SIZE, ("has the classes cat, dog, owl, elk",)),
        (("cat", "dog"), SIZE, ("has the classes cat, dog,",)),
        (CLASSES, 12, ("(12, 12) pixels", "(16, 16)", "--size=16")),
    ],
)
def test_a_pool_for_another_set_is_refused(names, size, words, tmp_path, real, capsys):
    images, labels = pictures(10, seed=8)
    keep = labels < len(names)
    images, labels = images[keep][:, :size, :size], labels[keep]
    pool = array_pool(tmp_path / "p", images, labels, names=names)
    assert run(pool, real, tmp_path / "out") == 2
    message = capsys.readouterr().err
    for word in ("POOL pets", *words):
        assert word in message
    assert "data." not in message
    assert not (tmp_path / "out").exists()


def test_wrong_requests(tmp_path, real, capsys):
    """Requests besides those that all commands are tested with."""
    pool = array_pool(tmp_path / "p", *pictures(10, seed=8))
    nothing = array_pool(tmp_path / "nothing", *pictures(0, seed=8))
    out = tmp_path / "out"
    for arguments, word in (
        ((nothing, real, out), "holds no pictures"),
        ((os.path.join(real, "train"), real, out), "is a dataset of real images"),
        ((pool, real, out, "--per_class=21"), "--per_class=21"),
        ((pool, real, out, "--sample=30000"), "--sample=30000"),
    ):
        assert run(*arguments) == 2, arguments
        message = capsys.readouterr().err
        assert word in message
        assert "config.data" not in message
