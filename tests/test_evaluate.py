"""The figures of a saved run equal those it logged, and scikit-learn's."""

import contextlib
import functools
import json
import shutil
import time

import jax
import numpy as np
import pytest
from sklearn import metrics as sk
from support import processes, workdirs
from support.helpers import config
from support.runs import saved_state

from rsmatch_jax import evaluate
from rsmatch_jax.engine import experiment, stages
from rsmatch_jax.errors import RequestError
from rsmatch_jax.metrics import names
from rsmatch_jax.runs import workdir
from rsmatch_jax.runs.checkpoint import Checkpoints

KEYS = {
    "train.num_steps": 8,
    "train.batch_size": 8,
    "eval.every_steps": 4,
    "checkpoint.every_steps": 4,
    "method.threshold": 0.3,
    "model.bn_momentum": 0.9,
    "optim.ema_decay": 0.9,
    "data.validation_per_class": 2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run on four devices; no test may change it."""
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    stages.run(config(**KEYS), str(folder))
    before = snapshot(folder)
    yield folder
    assert snapshot(folder) == before


def snapshot(folder):
    return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")}


def ask(folder, *argv):
    return evaluate.main([f"--workdir={folder}", *argv])


def logged(folder, step):
    """What the run logged of an evaluation."""
    with open(folder / workdir.METRICS_FILE) as f:
        lines = [json.loads(line) for line in f]
    (line,) = [x for x in lines if x["step"] == step and "eval/test_accuracy" in x]
    return {key.removeprefix("eval/"): value for key, value in line.items()}


@pytest.mark.parametrize("step", ["last", "best"])
def test_figures_are_the_runs_own(folder, tmp_path, capsys, step):
    """To the last digit; the workdir is only read."""
    before = snapshot(folder)
    assert ask(folder, f"--step={step}", f"--out={tmp_path}/out.json") == 0
    assert snapshot(folder) == before
    with open(tmp_path / "out.json") as f:
        figures = json.load(f)
    result = workdir.read_result(str(folder))
    assert figures["step"] == (result["best_step"] if step == "best" else 8)
    key = "test_accuracy_best" if step == "best" else "test_accuracy"
    assert figures["test_accuracy"] == result[key]
    details = {"test_reliability", "queue_purity_per_class", "step", "class_names"}
    details.add("known")
    details |= {f"detector_accuracy_per_{x}" for x in ("class", "generator")}
    assert figures.keys() == names.TITLES.keys() | details | {"confusion"}
    confusion = np.asarray(figures.pop("confusion"))
    assert figures.pop("class_names") == [f"class_{c}" for c in range(10)]
    assert figures == logged(folder, figures["step"])
    if step == "last":
        np.testing.assert_array_equal(confusion, np.load(folder / "confusion.npy"))
        for name, value in result["test"].items():
            assert figures[f"test_{name}"] == value
        for name in ("detector_auroc", "queue_purity", "pseudo_label_accuracy"):
            assert figures[name] == result[name]
    printed = capsys.readouterr().out
    assert f"step {figures['step']}\n" in printed
    for key, title in names.TITLES.items():
        assert (f"{title:<40}{figures[key]:.4f}" in printed) if figures[key] else True


def test_figures_are_scikit_learns(folder):
    """On a forward pass of the restored EMA weights, each set in one batch."""
    c = config(**KEYS)
    task = experiment.load_task(c)
    dims = experiment.task_dims(c, task)
    one = jax.local_devices()[:1]
    exp = experiment.build(c, dims, task.name, one)
    state = saved_state(folder, 8, exp.init_state())

    def probabilities(name, head, images):
        @jax.jit
        def forward(images):
            shadow, stats = state.ema[name], state.stats[name]
            outputs, _ = exp.nets[name].apply(shadow, stats, images, False)
            return jax.nn.softmax(outputs.logits[head])

        return np.asarray(forward(images))

    figures = evaluate.evaluate(str(folder), devices=one)
    p, truth = probabilities("classifier", "real", task.test_images), task.test_labels
    predicted = p.argmax(1)
    assert figures["test_accuracy"] > 0.2  # it has learnt
    assert figures["test_accuracy"] == sk.accuracy_score(truth, predicted)
    assert figures["test_macro_f1"] == sk.f1_score(truth, predicted, average="macro")
    assert figures["test_top5"] == sk.top_k_accuracy_score(truth, p, k=5)
    np.testing.assert_array_equal(
        figures["confusion"], sk.confusion_matrix(truth, predicted)
    )
    score = probabilities("detector", "detector", task.unl_images)[:, 1]
    auroc = sk.roc_auc_score(task.unl_synthetic, score)
    assert figures["detector_auroc"] == pytest.approx(auroc, abs=1e-4)
    p = probabilities("classifier", "real", task.unl_images)
    sure = p.max(1) >= c.method.threshold
    assert figures["pseudo_label_accuracy"] == pytest.approx(
        np.mean(p.argmax(1)[sure] == task.unl_labels[sure]), abs=1e-3
    )
    held = np.asarray(state.extra["queue"].indices)
    assert figures["queue_purity"] == np.mean(task.unl_synthetic[held[held >= 0]])


def test_one_device_equals_four(folder):
    """Except for images whose two best classes differ by rounding."""
    one, four = (
        evaluate.evaluate(str(folder), devices=jax.local_devices()[:d]) for d in (1, 4)
    )
    assert one.keys() == four.keys()
    for key, value in one.items():
        if isinstance(value, float):
            assert four[key] == pytest.approx(value, abs=1 / 320 + 1e-6), key
    off = np.abs(np.subtract(one["confusion"], four["confusion"])).sum()
    assert off <= 2


def test_figures_that_cannot_be_printed_are_a_failure(folder, tmp_path, capsys):
    """They are in the file nevertheless."""
    out = tmp_path / "figures.json"
    with processes.full_stdout():
        assert ask(folder, f"--out={out}") == 1
    assert "No space left on device" in capsys.readouterr().err
    assert json.loads(out.read_text())["step"] == 8


def test_listing_by_hand():
    """What a run lacks is left out, and so is a class without test images."""
    figures = {
        "step": 7,
        "test_accuracy": 0.5,
        "detector_auroc": None,
        "queue_purity": 0.0,
        "confusion": [[3, 1, 0], [0, 0, 0], [4, 0, 2]],
        "class_names": ["cat", "bird", "dog"],
    }
    assert list(evaluate.describe(figures)) == [
        "step 7",
        f"{'test accuracy':<40}0.5000",
        f"{'queue purity':<40}0.0000",
        "recall per class",
        "  cat   0.7500  (3 of 4)",
        "  dog   0.3333  (2 of 6)",
        "most confused",
        "  dog taken for cat: 4 of 6",
        "  cat taken for bird: 1 of 4",
    ]
    perfect = {**figures, "confusion": np.eye(3, dtype=int).tolist()}
    assert "most confused" not in list(evaluate.describe(perfect))


def test_choice_of_a_step(tmp_path):
    """The newest checkpoint decides which step is `best`."""
    checkpoints = Checkpoints(str(tmp_path), keep=3)
    for step, best in [(3, None), (5, 5), (12, 5)]:
        checkpoints.save(step, {"x": jax.numpy.zeros(1)}, {}, best)
        checkpoints.require_written()
        if step == 3:
            while checkpoints.latest() is None:  # in the background
                time.sleep(0.01)
            with pytest.raises(RequestError, match="not evaluated.*one of 3"):
                checkpoints.choose("best")
    checkpoints.close()
    with contextlib.closing(Checkpoints(str(tmp_path), keep=None)) as checkpoints:
        chosen = [checkpoints.choose(step) for step in ("last", "best", "3", 5)]
    assert chosen == [12, 5, 3, 5]


def test_moved_run_on_moved_data(folder, tmp_path):
    """A copy whose pool is no longer where config.json says."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    change("data", synthetic_pool="/gone", data_dir="/gone")(copy)
    with pytest.raises(RequestError, match="data_dir=/gone: .*--synthetic_pool=PLACE"):
        evaluate.evaluate(str(copy))
    with pytest.raises(RequestError, match="no synthetic pool at /gone.*--synthetic_p"):
        evaluate.evaluate(str(copy), places={"data_dir": str(tmp_path)})
    figures = evaluate.evaluate(
        str(copy), places={"synthetic_pool": "fake", "data_dir": str(tmp_path)}
    )
    assert figures == evaluate.evaluate(str(folder))


def with_other_images(copy):
    with np.load(copy / "split.npz") as split:
        arrays = dict(split)
    arrays["unlabeled_synthetic"][0] += 1
    np.savez(copy / "split.npz", **arrays)


change = functools.partial(workdirs.change, "config.json")
DAMAGED = [
    (workdirs.remove("checkpoints"), "nothing is saved yet.*checkpoint.every_steps"),
    (with_other_images, "split.npz.*unlabeled_synthetic.*changed"),
    (workdirs.remove("split.npz"), "split.npz cannot be read"),
    (workdirs.write("split.npz", b"PK"), "split.npz cannot be read"),
    (change("data", name="./gone"), "/gone.*--data_dir"),
    (change("data", labels_per_class=5), "split.npz.*labeled.*changed"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGED)
def test_damaged_run_is_refused(folder, tmp_path, capsys, damage, words):
    copy = shutil.copytree(folder, tmp_path / "copy")
    damage(copy)
    before = snapshot(copy)
    workdirs.check_refused(evaluate.main, copy, [], words, capsys)
    assert snapshot(copy) == before  # and no folder checkpoints/ was made


@pytest.mark.parametrize(("lost", "step"), [("state", "last"), ("meta", "best")])
def test_damaged_checkpoint_is_a_failure(folder, tmp_path, capsys, lost, step):
    copy = shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(copy / "checkpoints" / "8" / lost)
    assert ask(copy, f"--step={step}") == 1
    printed = capsys.readouterr().err
    assert "checkpoints/8 is damaged" in printed
    assert "Traceback" not in printed
