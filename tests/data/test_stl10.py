"""configs/stl10.py on a made dataset folder of STL-10's form, by command."""

import io
import json
import os

import numpy as np
import pytest
from PIL import Image
from support import encoded_sets
from support.helpers import TINY, config
from support.pictures import noise

from rsmatch_jax import evaluate, train
from rsmatch_jax.engine import experiment

CONFIG = os.path.join(os.path.dirname(__file__), "..", "..", "configs", "stl10.py")
CLASSES = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey"]
CLASSES += ["ship", "truck"]
SIZE, PX = (16, 16), 16
COUNTS = {"train": 40, "test": 20, "unlabelled": 60}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("stl")
    content = {split: noise(n, PX, PX, 3, seed=n) for split, n in COUNTS.items()}
    folder = root / "stl10" / "1.0.0"
    encoded_sets.write_images(folder, content, CLASSES, SIZE, unlabelled="unlabelled")
    pool = {"train": noise(90, PX, PX, 3, seed=9)}
    folder = root / "rsmatch_pools" / "stl10"  # without trucks
    encoded_sets.write_images(folder, pool, CLASSES[:9], SIZE, ("a",))
    return root


def command(root, workdir, *flags):
    keys = {
        "data.data_dir": root,
        "data.cache_dir": root / "cache",
        "data.labels_per_class": 2,
        **TINY,
        "train.batch_size": 4,
        "train.num_steps": 2,
        "eval.batch_size": 16,
        "method.rsmatch.individual_models": False,  # compiles faster
        "input.randaugment_ops": 0,
        "log.tensorboard": False,
    }
    argv = [f"--config.{key}={value}" for key, value in keys.items()]
    return train.main([f"--config={CONFIG}", f"--workdir={workdir}", *argv, *flags])


def test_two_steps_with_images_of_unknown_class(root, tmp_path, capsys):
    folder = tmp_path / "run"
    assert command(root, folder) == 0
    out = capsys.readouterr().out
    # 100 real ones, and as many synthetic: ten a class, but no truck.
    assert "20 labelled; 190 unlabelled, of which 90 synthetic (47%); 20 test" in out
    assert "no synthetic image of class truck" in out
    with np.load(folder / "split.npz") as split:
        lengths = {name: len(rows) for name, rows in split.items()}
    expected = {"labeled": 20, "validation": 0, "unlabeled_real": 40}
    assert lengths == {**expected, "unlabeled_synthetic": 90}
    result = json.loads((folder / "result.json").read_text())
    known = {"origins": 190, "classes": 130, "images": 190}
    assert result["known"] == {**known, "queue": result["known"]["queue"]}
    scores = evaluate.evaluate(str(folder))
    assert scores["detector_accuracy"] == pytest.approx(result["detector_accuracy"])


def test_encoded_and_decoded_images_are_the_same_ones(root):
    keys = {
        "data.data_dir": str(root),
        "data.cache_dir": str(root / "cache"),
        "data.labels_per_class": 2,
    }
    decoded = experiment.load_task(config("stl10", **keys))
    encoded = experiment.load_task(config("stl10", **keys, **{"data.image_size": 14}))
    assert encoded.encoded
    for name in ("unl_labels", "unl_origins", "lab_labels"):
        np.testing.assert_array_equal(getattr(encoded, name), getattr(decoded, name))
    for row in (3, 45, 99, 120):  # a labelled, two unlabelled, and a synthetic image
        data = encoded.unl_images.read(row)
        pixels = np.asarray(Image.open(io.BytesIO(data)))
        np.testing.assert_array_equal(pixels, decoded.unl_images[row])
    unlabelled = noise(60, PX, PX, 3, seed=60)
    np.testing.assert_array_equal(decoded.unl_images[40:100], unlabelled)
    assert (decoded.unl_labels[40:100] == -1).all()


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("synthetic_mode=replace", "60 unlabelled images of stl10 are of unknown"),
        ("labels_per_class=5", "class airplane has only 4 training images"),
    ],
)
def test_wrong_requests_exit_2(root, tmp_path, capsys, flag, words):
    assert command(root, tmp_path / "r", f"--config.data.{flag}") == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error
