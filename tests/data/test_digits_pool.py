"""The committed sample pool lies between classes, and differs from real scans."""

import dataclasses
import os

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.svm import SVC

import rsmatch_jax.data
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.synthesis.ddpm import settings as ddpm_settings

FOLDER = os.path.join(os.path.dirname(rsmatch_jax.data.__file__), "digits_pool")


@pytest.fixture(scope="module")
def pool():
    return arrays.load(FOLDER)


@pytest.fixture(scope="module")
def real():
    return arrays.digits("train")


def pixels(images):
    return np.asarray(images).reshape(len(images), -1) / 255


def svc():
    return SVC(kernel="rbf", C=10, gamma="scale")


def test_it_is_small_and_fits_the_digits(pool, real):
    sizes = {f: os.path.getsize(os.path.join(FOLDER, f)) for f in os.listdir(FOLDER)}
    columns = {"labels.npy", "generators.npy", "second_labels.npy"}
    assert set(sizes) == {"images.npy", "meta.json", *columns}
    assert sum(sizes.values()) <= 300_000
    assert (pool.name, pool.generator_names) == ("digits", ("ddpm",))
    assert pool.class_names == real.class_names
    assert pool.images.shape == (1900, 8, 8, 1)
    np.testing.assert_array_equal(pool.counts(), 190)
    assert set(np.unique(pool.images)) == set(np.unique(real.images))


def test_it_records_how_it_was_made():
    meta = arrays.load_meta(FOLDER)
    argv = meta["command"].split("rsmatch_jax.synthesis.ddpm ")[1].split()
    args = ddpm_settings.parser(None).parse_args(argv)
    ddpm_settings.check(args, 1)
    assert (args.dataset, args.format) == ("digits", None)  # None: arrays for digits
    assert args.out == "rsmatch_jax/data/digits_pool"
    settings = ddpm_settings.settle(args, 8, images_per_class=129)
    assert {**dataclasses.asdict(settings), "mix": args.mix} == meta["settings"]
    assert args.mix
    assert "CC BY 4.0" in meta["source"]
    assert {"jax", "flax", "numpy"} <= set(meta["versions"])


def test_no_picture_twice_and_none_a_real_scan(pool, real):
    pictures = {image.tobytes() for image in np.asarray(pool.images)}
    assert len(pictures) == len(pool.images)
    scans = np.concatenate([real.images, arrays.digits("test").images])
    assert pictures.isdisjoint(image.tobytes() for image in scans)


def test_pictures_show_one_of_their_two_classes(pool, real):
    """Which of both is a coin's throw, so that a label of one of them teaches harm."""
    judge = svc().fit(pixels(real.images), real.labels)
    shown = judge.predict(pixels(pool.images))
    meta = arrays.load_meta(FOLDER)
    name = "second_labels.npy"
    second = arrays.open_column(FOLDER, name, meta["files"][name]["sha256"])
    assert 0.4 <= (shown == pool.labels).mean() <= 0.6
    assert 0.4 <= (shown == second).mean() <= 0.6
    either = (shown == pool.labels) | (shown == second)
    assert either.mean() >= 0.95
    for c in range(10):
        assert either[pool.labels == c].mean() >= 0.9


def test_pictures_differ_from_scans_but_not_trivially(pool, real):
    images = pixels(np.concatenate([real.images, pool.images]))
    synthetic = np.repeat([0, 1], [len(real.images), len(pool.images)])
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    guesses = cross_val_predict(svc(), images, synthetic, cv=folds)
    assert 0.95 <= balanced_accuracy_score(synthetic, guesses) <= 0.995
