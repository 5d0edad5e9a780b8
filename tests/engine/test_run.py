"""Whole runs on the `fake` set: their files, and what must not change them."""

import dataclasses
import json
import os
import re

import numpy as np
import optax
import pytest
from support.helpers import assert_bit_equal, config
from support.runs import KEYS, ONE_NETWORK, first_state, lines, run, saved_state

from rsmatch_jax import files
from rsmatch_jax.engine import experiment, loop, pace
from rsmatch_jax.errors import RequestError, RunFailed
from rsmatch_jax.runs import history, same_data, workdir

# Of the task in `test_digest_of_an_earlier_version`, by the version that sampled.
OLDER_DIGEST = "43006de5f366dd4fea747ce6816c303692e196bf7d9fa7763a06a633471e99e4"


def check(folder, task):
    same_data.check(folder, task, same_data.digest(task))


SHORT = {"train.num_steps": 3, "log.tensorboard": True}


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """(workdir, result) of a run with the keys SHORT."""
    folder = tmp_path_factory.mktemp("short") / "r"
    return folder, run(folder, **SHORT)


def test_files_of_a_run_and_that_a_finished_one_is_left_alone(short, capsys):
    folder, result = short
    names = set(os.listdir(folder))
    assert {*workdir.FILES, workdir.CHECKPOINTS} - {workdir.PICTURES_FILE} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    path = folder / "result.json"
    assert json.loads(path.read_text()) == files.plain(result)
    assert (result["status"], result["steps"]) == ("finished", 3)
    confusion = np.load(folder / "confusion.npy")
    assert confusion.sum() == 320
    assert np.trace(confusion) / 320 == pytest.approx(result["test_accuracy"])
    with np.load(folder / "split.npz") as split:
        assert len(split["labeled"]) == 40
        assert len(split["unlabeled_real"]) == len(split["unlabeled_synthetic"]) == 320
    before = path.stat().st_mtime_ns
    assert run(folder, **SHORT) == files.plain(result)
    assert path.stat().st_mtime_ns == before
    assert "Nothing to do" in capsys.readouterr().out


def test_ground_truth_never_enters_training(short, tmp_path, monkeypatch):
    """Permuted flags, classes and generators of unlabelled images change no bit."""
    folders = short[0], tmp_path / "permuted"
    load = experiment.load_task

    def permuted(c):
        task = load(c)
        order = np.random.default_rng(0).permutation(len(task.unl_labels))
        return dataclasses.replace(
            task,
            unl_labels=task.unl_labels[order],
            unl_origins=task.unl_origins[order],
        )

    monkeypatch.setattr(experiment, "load_task", permuted)
    run(folders[1], **SHORT)
    monkeypatch.undo()
    first = first_state()
    assert_bit_equal(*(saved_state(folder, 3, first) for folder in folders))
    assert lines(folders[0]) != lines(folders[1])  # it was permuted


def test_run_that_diverges_stops_before_it_is_saved(tmp_path):
    """The message names the step and the metric; no checkpoint has the damage."""
    with pytest.raises(RunFailed, match=r" at step [1-4]:.*learning_rate"):
        run(tmp_path / "r", **{"method.name": "fixmatch", "optim.learning_rate": 1e30})
    assert workdir.read_result(str(tmp_path / "r"))["status"] == "failed"
    assert not list((tmp_path / "r" / "checkpoints").iterdir())


def test_gradient_that_is_not_finite_stops_in_its_step(tmp_path, monkeypatch):
    """The loss, and all other metrics of that step, are finite."""
    honest = optax.global_norm
    monkeypatch.setattr(optax, "global_norm", lambda grads: honest(grads) / 0.0)
    with pytest.raises(RunFailed, match="classifier_grad_norm is inf at step 1:.*noth"):
        run(tmp_path / "r", **{"method.name": "supervised"})
    assert not list((tmp_path / "r" / "checkpoints").iterdir())


def test_warnings_are_seen_everywhere_and_once(tmp_path, capsys):
    """A queue that takes nothing, and one for more classes than there are."""
    keys = {**ONE_NETWORK, "method.rsmatch.queue_min_score": 1.0, "log.every_steps": 1}
    result = run(tmp_path / "r", **keys, **{"method.rsmatch.queue_classes": 12})
    [many, warning] = result["warnings"]
    assert "queue_classes=12 is more than the 10" in many
    assert warning.startswith("step 2: the CSQueue is still empty")
    out = capsys.readouterr().out
    assert out.count(f"warning: {warning}") == out.count("queue_classes=12 is") == 1
    shown = [line for line in out.splitlines() if line.startswith("step ")]
    assert re.match(r"step 2/4  .*  [0-9.]+ steps/s  ETA \d+ s  WARN", shown[2])
    assert [line.count("WARNING: queue empty") for line in shown[1:]] == [0, 1, 1, 1]
    assert workdir.read_result(str(tmp_path / "r"))["warnings"] == [many, warning]


def test_line_comes_when_its_last_step_is_done(tmp_path, capsys, monkeypatch):
    """By a clock that shows how many steps the run knows to be done: a speed is exact
    only if its line does not wait for later steps. It waits for no device, but before
    an evaluation."""
    now, fetched, waited = [0], [0], []
    done, per_step = pace.Pace.done, history.per_step

    def counted(self, dispatches):
        now[0] += dispatches
        done(self, dispatches)

    def waited_for(pending):
        steps = per_step(pending)
        fetched[0] += len(steps)
        if fetched[0] > now[0]:
            now[0] = fetched[0]
            waited.append(fetched[0])
        return steps

    monkeypatch.setattr(loop, "DISPATCHES", 2)
    monkeypatch.setattr(pace.Pace, "done", counted)
    monkeypatch.setattr(history, "per_step", waited_for)
    monkeypatch.setattr(history.Stopwatch, "read", lambda _: float(now[0]))
    keys = {"method.name": "supervised", "train.num_steps": 9, "log.every_steps": 3}
    keys |= {"eval.every_steps": 9, "checkpoint.every_steps": 9}
    run(tmp_path / "r", **keys)
    shown = [x for x in capsys.readouterr().out.splitlines() if " steps/s " in x]
    assert [x.split("  ")[0] for x in shown] == ["step 3/9", "step 6/9", "step 9/9"]
    assert all("  1.00 steps/s  " in x for x in shown)
    assert [x.split("  ETA ")[1] for x in shown] == ["6 s", "3 s", "0 s"]
    assert waited == [9]


def test_changed_data_are_not_resumed(tmp_path):
    """The queue's indices would mean other images."""
    folder, task = str(tmp_path / "r"), experiment.load_task(config(**KEYS))
    about = {same_data.DIGEST: same_data.digest(task)}
    workdir.claim(folder, {}, vars(task.split), about)
    check(folder, task)
    split = dataclasses.replace(task.split, unlabeled_synthetic=np.arange(5))
    with pytest.raises(RequestError, match="unlabeled_synthetic.*has changed"):
        check(folder, dataclasses.replace(task, split=split))
    images, labels = task.test_images.copy(), task.test_labels.copy()
    images[17, 3, 3, 0] ^= 1
    labels[17] += 1
    changes = {"test_images": images, "test_labels": labels}
    changes["unl_images"] = task.unl_images[::-1]
    for changed in ({key: value} for key, value in changes.items()):
        with pytest.raises(RequestError, match="other images or labels.*has changed"):
            check(folder, dataclasses.replace(task, **changed))


def test_digest_of_an_earlier_version(tmp_path):
    """It had sampled images alone."""
    folder, task = str(tmp_path / "r"), experiment.load_task(config(**KEYS))
    workdir.claim(folder, {}, vars(task.split), {"content": OLDER_DIGEST})
    check(folder, task)
    with pytest.raises(RequestError, match="other images"):
        images = 255 - task.test_images
        check(folder, dataclasses.replace(task, test_images=images))


def test_validation_images_choose_the_best_step(tmp_path):
    """After a second run in the workdir was refused and wrote nothing."""
    keys = {"data.validation_per_class": 8, "data.real_only": True, "seed": 1}
    with workdir.locked(str(tmp_path / "r")):
        with pytest.raises(RequestError, match="another process is training there"):
            run(tmp_path / "r", **keys)
        assert os.listdir(tmp_path / "r") == [workdir.LOCK_FILE]
    result = run(tmp_path / "r", **keys)
    evaluations = [x for x in lines(tmp_path / "r") if "eval/test_accuracy" in x]
    best = max(evaluations, key=lambda x: x["eval/validation_accuracy"])
    assert result["best_step"] == best["step"]
    assert result["test_accuracy_best"] == best["eval/test_accuracy"]
    assert result["detector_balanced_accuracy"] is None  # nothing synthetic there
