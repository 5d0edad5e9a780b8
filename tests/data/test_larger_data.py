"""Larger data end to end: configs/imagenet.py on JPEGs of mixed sizes, by command."""

import json
import os

import numpy as np
import pytest
from support import encoded_sets
from support.helpers import TINY

from rsmatch_jax import evaluate, train

SIZE = 16
CONFIG = os.path.join(os.path.dirname(__file__), "..", "..", "configs", "imagenet.py")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("larger")
    encoded_sets.write(root / "real", {"train": 24, "test": 10})
    encoded_sets.write(root / "pool", {"train": 32}, generators=("a", "b"), first=100)
    return root


def command(root, workdir, *flags):
    keys = {
        "data.name": root / "real",
        "data.synthetic_pool": root / "pool",
        "data.cache_dir": root / "cache",
        "data.image_size": SIZE,
        "data.labels_per_class": 2,
        **TINY,
        "train.batch_size": 4,
        "train.num_steps": 2,
        "eval.batch_size": 16,
        "log.tensorboard": False,
    }
    argv = [f"--config.{key}={value}" for key, value in keys.items()]
    return train.main([f"--config={CONFIG}", f"--workdir={workdir}", *argv, *flags])


@pytest.fixture(scope="module")
def folder(root):
    folder = root / "run"
    assert command(root, folder) == 0
    return folder


def test_two_steps_and_an_evaluation(folder):
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "finished" and result["steps"] == 2
    for key in ("test_accuracy", "detector_accuracy", "queue_fill"):
        assert 0 <= result[key] <= 1
    assert result["queue_fill"] > 0
    assert result["config"]["data"]["image_size"] == SIZE
    assert (folder / "queue.png").exists()
    split = np.load(folder / "split.npz")
    # Synthetic images are added until they are half of the 24 + 24.
    assert len(split["unlabeled_real"]) == len(split["unlabeled_synthetic"]) == 24
    scores = evaluate.evaluate(str(folder))
    assert scores["test_accuracy"] == result["test_accuracy"]
    assert scores["detector_auroc"] == pytest.approx(result["detector_auroc"], abs=1e-6)


def test_only_places_are_cached(root, folder):
    del folder
    files = [p for p in (root / "cache").rglob("*.*") if "compiled" not in str(p)]
    assert {p.name for p in files} >= {"places.npy", "labels.npy"}
    assert not any(p.name == "images.npy" for p in files)
    assert sum(p.stat().st_size for p in files if p.is_file()) < 20_000


def test_plan_states_input_and_memory(root, tmp_path, capsys):
    assert command(root, tmp_path / "r", "--plan", "--config.method.name=fixmatch") == 0
    out = capsys.readouterr().out
    for words in (
        "4 classes, 16x16 px; 8 labelled; 48 unlabelled, of which 24 synthetic (50%)",
        "2 steps",
        " s a step",
        "images are decoded at every step (data.image_size)",
        "memory per device: ",
        "nothing was trained",
    ):
        assert words in out
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("data.image_size=7", "data.image_size=7: it must be 8 or more"),
        ("input.mode=resident", "input.mode=resident: with data.image_size=16"),
        ("input.crop_area=0.0", "input.crop_area=0.0: it must be above 0"),
        ("input.crop_area=1.5", "input.crop_area=1.5: it must lie between 0 and 1"),
        ("method.rsmatch.queue_length=100000000", "GiB of queue (lower method.rsmatch"),
    ],
)
def test_wrong_requests_exit_2(root, tmp_path, capsys, flag, words):
    assert command(root, tmp_path / "r", f"--config.{flag}") == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error
    assert not (tmp_path / "r").exists()


def test_a_damaged_image_ends_a_run_with_its_place(root, tmp_path, capsys):
    encoded_sets.write(tmp_path / "real", {"train": 24, "test": 10})
    shard = next(p for p in (tmp_path / "real").iterdir() if "-train." in p.name)
    content = bytearray(shard.read_bytes())
    for at in range(len(content)):
        if content[at : at + 3] == b"\xff\xd8\xff":  # where a JPEG begins
            content[at + 20 : at + 60] = bytes(40)
    shard.write_bytes(content)
    flags = (f"--config.data.name={tmp_path}/real", "--config.method.name=supervised")
    assert command(root, tmp_path / "r", *flags) == 1
    error = capsys.readouterr().err
    assert f"{shard.name} cannot be decoded" in error and "Traceback" not in error
