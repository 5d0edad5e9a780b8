"""Runs on unlabelled images of unknown origin and class: no truth, no figure of it."""

import contextlib
import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image
from support.helpers import config
from support.runs import KEYS, run, timeless
from support.unknown import ABOUT_UNLABELLED, check, numbers

from rsmatch_jax import evaluate
from rsmatch_jax.analysis import explain, tsne
from rsmatch_jax.data import rs_ssl
from rsmatch_jax.engine import experiment
from rsmatch_jax.errors import RequestError
from rsmatch_jax.metrics import names


def forgotten(task, known=0):
    """The task, but of its unlabelled images only the labelled ones, and the last
    `known`, have an origin and a class."""
    rows = slice(len(task.lab_images), len(task.unl_images) - known)
    labels, origins = task.unl_labels.copy(), task.unl_origins.copy()
    labels[rows], origins[rows] = -1, rs_ssl.UNKNOWN
    return dataclasses.replace(task, unl_labels=labels, unl_origins=origins)


@pytest.fixture(scope="module")
def unknown(tmp_path_factory):
    """(workdir, result, output) of a run on images of unknown origin."""
    folder = tmp_path_factory.mktemp("unknown") / "run"
    load, out = experiment.load_task, io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(experiment, "load_task", lambda c: forgotten(load(c)))
        return folder, run(folder), out.getvalue()


@pytest.fixture
def loads(monkeypatch):
    """loads(known): from now on runs load such a task."""
    load = experiment.load_task

    def patch(known):
        patched = lambda c: forgotten(load(c), known)  # noqa: E731
        monkeypatch.setattr(experiment, "load_task", patched)

    return patch


def test_no_figure_is_invented(tmp_path, unknown, loads, capsys):
    """In every file and by every command; the training is that of known origins."""
    run_folder, result, out = unknown
    expected = run(tmp_path / "known")
    capsys.readouterr()
    loads(0)
    assert "640 unlabelled, 600 of them of unknown origin; 320 test" in out
    assert "warning" not in out
    assert result["fingerprint"] == expected["fingerprint"]
    check(run_folder, result, 640, capsys)

    folder = f"--workdir={run_folder}"
    assert evaluate.main([folder, f"--out={tmp_path}/figures.json"]) == 0
    out = capsys.readouterr().out
    assert "of 640 unlabelled images the figures about origins count 0" in out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert not {path.split(".")[1] for path, _ in numbers(figures)} & ABOUT_UNLABELLED
    assert tsne.main([folder, "--images=60"]) == 0
    points = json.loads((run_folder / "tsne.json").read_text())
    of_known = [x for x in points["synthetic"] if x is not None]
    assert set(of_known) <= {False} and len(of_known) < 40 < len(points["synthetic"])
    assert points["classifier"]["probe_balanced_accuracy"] is None
    assert explain.main([folder, "--images=20"]) == 0
    seen = json.loads((run_folder / "gradcam.json").read_text())["images"]
    assert {x["origin"] for x in seen} == {None, "real"}
    assert all((x["label"] is None) == (x["origin"] is None) for x in seen)
    with Image.open(run_folder / "queue.png") as picture:
        colours = {c for _, c in picture.convert("RGB").getcolors(2**20)}
    assert (127, 127, 127) in colours and (217, 95, 2) not in colours


def test_known_origins_change_no_bit_of_training(tmp_path, unknown, loads):
    """The figures of the last 100 images, all synthetic, beside their number."""
    loads(100)
    some, (_, none, _) = run(tmp_path / "some"), unknown
    assert some["fingerprint"] == none["fingerprint"]
    assert some["known"]["origins"] == some["known"]["classes"] == 140
    about = {name for name in names.LAST if some[name] != none[name]}
    assert about == ABOUT_UNLABELLED & set(names.LAST)
    same = timeless(some).keys() - about - {"known"}
    assert all(some[key] == none[key] for key in same)


def test_oracle_needs_every_origin(loads, tmp_path):
    loads(100)
    with pytest.raises(RequestError, match="routing=oracle: the origin of some"):
        run(tmp_path / "r", **{"method.rsmatch.routing": "oracle"})
    task = experiment.load_task(config(**KEYS))
    assert task.num_synthetic is None
    assert np.sum(task.unl_origins == rs_ssl.UNKNOWN) == 500
