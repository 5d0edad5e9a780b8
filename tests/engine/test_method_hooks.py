"""What the engine offers a method: all images before step 0, scores after each
evaluation. Resumed runs, devices, inputs, and runs without truth."""

import dataclasses

import jax
import numpy as np
import pytest
from support import photos
from support.helpers import assert_bit_equal, build, config, leaves
from support.host_pairs import StopAfter
from support.runs import (
    KEYS,
    ONE_NETWORK,
    killed_copy,
    lines,
    run,
    saved_state,
    timeless,
)

from rsmatch_jax.data import rs_ssl
from rsmatch_jax.engine import beginning, experiment, stages
from rsmatch_jax.errors import RequestError
from rsmatch_jax.methods import base, routing
from rsmatch_jax.methods.rsmatch import STATISTICS, RSMatch
from rsmatch_jax.metrics import measure
from rsmatch_jax.sift import judge
from rsmatch_jax.sift.judge import Scores
from rsmatch_jax.state import TrainingImages

NNPU = {"method.rsmatch.detector_loss": "nnpu", **ONE_NETWORK}
BY_STATISTICS = {"method.rsmatch.routing": "statistics", **ONE_NETWORK}
PRIOR = "synthetic_prior"


def state_at(folder, step, **keys):
    like = build(**{**KEYS, **keys})[2].init_state()
    return saved_state(folder, step, like)


JUDGED = {**NNPU, "method.rsmatch.routing": "statistics"}
STOPPED = {**NNPU, "checkpoint.every_steps": 3, "train.num_steps": 5}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(workdir, result) of an undisturbed run with the keys STOPPED."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, run(folder, **STOPPED)


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """(workdir, result) of a run with the keys JUDGED, which knows all origins."""
    folder = tmp_path_factory.mktemp("known") / "run"
    return folder, run(folder, **JUDGED)


def test_prior_is_the_share_that_sift_estimates(tmp_path):
    """After each evaluation, from the scores of that step: 40 of 640 unlabelled images
    are labelled, and without a validation set the test set holds the real ones."""
    run(tmp_path / "run", **NNPU)
    _, task, exp = build(**{**KEYS, **NNPU})
    predict = measure.Predictor(exp.nets, exp.devices, exp.method.origin, 160)
    for step in (2, 4):
        state = state_at(tmp_path / "run", step, **NNPU)
        parts = []
        for images in (task.unl_images, task.test_images):
            labels = np.zeros(len(images), np.int32)
            parts.append(predict(state, images, labels)["synthetic_score"])
        made = Scores(parts[0][40:], parts[1], parts[1][:0])
        summary = judge.summary({judge.DETECTOR: made}, judge.DETECTOR, 0.05)
        expected = np.clip(summary["estimated_share"] * 600 / 640, 0.01, 0.99)
        assert state.extra[PRIOR] == np.float32(expected) != 0.5
        assert state.extra[PRIOR].dtype == np.float32
        assert state.extra.keys() == {"rule", PRIOR}


@pytest.mark.parametrize("validation", [0, 5])
def test_scores_of_an_evaluation(tmp_path, monkeypatch, validation):
    """Those of the validation set, if there is one, are the held-out real ones; the
    test set then decides nothing."""
    offered = []
    monkeypatch.setattr(
        RSMatch, "after_evaluation", lambda self, scores: offered.append(scores) or {}
    )
    run(tmp_path, **ONE_NETWORK, **{"data.validation_per_class": validation})
    assert len(offered) == 2
    for scores in offered:
        sizes = [len(x) for x in scores]
        assert sizes[0] == 40 and sizes[2] == (10 * validation or 320)
        assert all(
            x.dtype == np.float32 and 0 <= x.min() <= x.max() <= 1 for x in scores
        )


def test_a_method_without_an_origin_is_offered_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(base.Method, "after_evaluation", None)  # a call would raise
    keys = {"method.name": "fixmatch"}
    assert run(tmp_path, **keys)["status"] == "finished"


@pytest.mark.parametrize("calls", [2, 4, 9])
def test_stopped_in_an_evaluation(whole, tmp_path, calls):
    """A run stopped after step 2, in or after its evaluation ends as an undisturbed
    one, although step 3 reads the prior that this evaluation estimates."""
    (there, expected), c = whole, config(**{**KEYS, **STOPPED})
    device, folder = jax.local_devices()[:1], tmp_path / "parts"
    stopped = stages.run(c, str(folder), devices=device, stop=StopAfter(calls))
    assert (stopped["status"], stopped["steps"]) == ("stopped", 2)
    prior = state_at(folder, 2, **NNPU).extra[PRIOR]
    assert (prior == 0.5) == (calls < 9)
    assert timeless(stages.run(c, str(folder), devices=device)) == timeless(expected)
    states = [state_at(f, 5, **NNPU) for f in (there, folder)]
    assert_bit_equal(*states)


def flags(task):
    count = len(task.lab_images)
    others = task.unl_images[count:]
    images = TrainingImages(task.lab_images, task.lab_labels, others)
    return routing.by_statistics(images).synthetic


@pytest.mark.parametrize("mode", ["resident", "tfdata"])
def test_statistics_go_through_a_run(tmp_path, monkeypatch, capsys, mode):
    """Computed once, at the start of a new run; in every checkpoint; resumed without
    them. Both inputs."""
    keys = {**BY_STATISTICS, "input.mode": mode}
    expected = flags(build(**KEYS)[1])
    assert 0.02 < expected.mean() < 0.98
    whole = run(tmp_path / "whole", **keys)
    assert "computing what rsmatch reads of the images" in capsys.readouterr().out
    killed_copy(tmp_path / "whole", tmp_path / "halves", last=4)
    monkeypatch.setattr(routing, "by_statistics", None)  # a call would raise
    assert timeless(run(tmp_path / "halves", **keys)) == timeless(whole)
    states = [state_at(tmp_path / f, 4, **keys) for f in ("whole", "halves")]
    assert_bit_equal(*states)
    np.testing.assert_array_equal(states[0].extra[STATISTICS], expected)


def test_a_plan_computes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(routing, "by_statistics", None)
    c = config(**{**KEYS, **BY_STATISTICS})
    assert stages.run(c, str(tmp_path / "run"), plan_only=True) == {}


def test_devices_have_the_same_buffers(tmp_path):
    """One device and two, by estimated prior and by statistics."""
    keys = {**JUDGED, "train.num_steps": 3}
    one, two = (run(tmp_path / str(n), n, **keys) for n in (1, 2))
    assert two["test_accuracy"] == pytest.approx(one["test_accuracy"], abs=0.01)
    states = [leaves(state_at(tmp_path / str(n), 3, **keys).extra) for n in (1, 2)]
    assert len(states[0]) == 2
    for path, value in states[0].items():
        np.testing.assert_allclose(states[1][path], value, atol=1e-3, err_msg=path)


@pytest.mark.parametrize("forget", [True, False], ids=["unknown", "permuted"])
def test_truth_changes_no_bit(known, tmp_path, monkeypatch, forget):
    """Origins and classes of unlabelled images are unknown, or wrong."""
    (there, expected), folder = known, tmp_path / "changed"
    load, rng = experiment.load_task, np.random.default_rng(0)

    def changed(c):
        task = load(c)
        count = len(task.lab_images)
        labels, origins = task.unl_labels.copy(), task.unl_origins.copy()
        if forget:
            labels[count:], origins[count:] = -1, rs_ssl.UNKNOWN
        else:
            rng.shuffle(labels[count:])
            rng.shuffle(origins[count:])
        return dataclasses.replace(task, unl_labels=labels, unl_origins=origins)

    monkeypatch.setattr(experiment, "load_task", changed)
    result = run(folder, **JUDGED)
    assert result["fingerprint"] == expected["fingerprint"]
    assert_bit_equal(*(state_at(f, 4, **JUDGED) for f in (there, folder)))
    assert lines(there) != lines(folder)  # the figures know of it


def test_too_few_labelled_images_write_nothing(tmp_path):
    """Of a user's pictures: three classes with two labels each."""
    keys = {**KEYS, **photos.make(tmp_path), **BY_STATISTICS}
    keys |= {"data.labels_per_class": 2, "data.size": 8}
    with pytest.raises(RequestError, match="prior=statistics: there are 6 labelled"):
        stages.run(config("own", **keys), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_images_of_a_new_run_alone(tmp_path):
    """The images after the labelled ones; no copy of them, no test image."""
    _, task, exp = build(**BY_STATISTICS)
    seen = []

    class Method(RSMatch):
        def prepared(self, images):
            seen.append(images)
            return {}

    method = Method(
        **{f.name: getattr(exp.method, f.name) for f in dataclasses.fields(exp.method)}
    )
    exp = dataclasses.replace(exp, method=method)
    beginning.from_images(exp, task, str(tmp_path), False)
    (images,) = seen
    assert images.labelled is task.lab_images
    assert len(images.unlabelled) == len(task.unl_images) - len(task.lab_images)
    assert np.shares_memory(images.unlabelled, task.unl_images)
