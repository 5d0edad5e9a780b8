"""Runs on a user's pictures: a few labelled, the others of unknown origin."""

import json

import jax
import numpy as np
import pytest
from PIL import Image
from support import photos, unknown
from support.helpers import config
from support.pictures import encode, noise
from support.runs import KEYS, ONE_NETWORK, killed_copy, lines, timeless

from rsmatch_jax import evaluate, export, predict
from rsmatch_jax.analysis import explain, tsne
from rsmatch_jax.data import rs_ssl
from rsmatch_jax.engine import experiment, stages
from rsmatch_jax.errors import RequestError
from rsmatch_jax.report import __main__ as report
from rsmatch_jax.runs import same_data, workdir

OWN = {
    **KEYS,
    "data.labels_per_class": None,
    "data.size": 8,
    "eval.batch_size": 160,
}


def check(folder, task):
    same_data.check(folder, task, same_data.digest(task))


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return photos.make(tmp_path_factory.mktemp("photos"))


def own(**overrides):
    return config("own", **{**OWN, **overrides})


def run(folder, **overrides):
    return stages.run(own(**overrides), str(folder), devices=jax.local_devices()[:1])


@pytest.fixture(scope="module")
def trained(places, tmp_path_factory):
    """(workdir, result) of a run without a word about origins."""
    folder = tmp_path_factory.mktemp("bare") / "run"
    return folder, run(folder, **places)


def test_parts_of_the_task(places):
    """Against the pictures as Pillow reads them from the folders."""
    task = experiment.load_task(own(**places))
    folder = places["data.labeled"]
    held = task.files["test"].names.tolist()
    assert [name.split("/")[0] for name in held] == [
        f"class_{c}" for c in range(photos.CLASSES) for _ in range(2)
    ]  # a fifth of 8, rounded
    used = task.files["labelled"].names.tolist()
    assert not set(used) & set(held) and len(used) + len(held) == 24
    for names, images, labels in (
        (used, task.lab_images, task.lab_labels),
        (held, task.test_images, task.test_labels),
    ):
        for name, image, label in zip(names, images, labels, strict=True):
            assert name.startswith(f"class_{label}/")
            assert np.array_equal(image, np.asarray(Image.open(f"{folder}/{name}")))
    names = task.files["unlabelled"].names
    assert names[: len(used)].tolist() == used
    assert names[len(used) :].tolist() == sorted(names[len(used) :])
    for name, image in zip(names[18:], task.unl_images[18:], strict=True):
        path = f"{places['data.unlabeled']}/{name}"
        assert np.array_equal(image, np.asarray(Image.open(path)))
    assert (task.unl_labels[18:] == -1).all() and len(task.unl_labels) == 138
    assert (task.unl_origins[18:] == rs_ssl.UNKNOWN).all()
    assert (task.unl_origins[:18] == rs_ssl.REAL).all()
    assert any("6 of 24 labelled pictures are held out" in x for x in task.notes)


def test_origins_change_figures_alone(places, trained, tmp_path, capsys):
    folder, bare = trained
    unknown.check(folder, bare, 138, capsys)
    csv = places["data.labeled"].replace("labelled", "origins.csv")
    known = run(tmp_path / "known", **places, **{"data.origins": csv})
    assert known["fingerprint"] == bare["fingerprint"]
    assert bare["detector_auroc"] is None and bare["queue_purity"] is None
    assert known["known"]["origins"] == known["known"]["classes"] == 138
    # The same figure, computed here from the scores of each picture's file.
    figures = evaluate.evaluate(str(folder), places={"origins": csv})
    assert figures["detector_auroc"] == known["detector_auroc"] is not None


def test_labels_alone_need_no_unlabelled_batch(places):
    """A step of the others has 160 images; 120 were collected."""
    keys = {**places, "train.batch_size": 160, "train.unlabeled_ratio": 1}
    with pytest.raises(RequestError, match="120 readable pictures, fewer than"):
        experiment.load_task(own(**keys))
    task = experiment.load_task(own(**keys, **{"method.name": "supervised"}))
    assert len(task.unl_labels) == 138


def test_without_a_test_set(places, tmp_path, capsys):
    """No figure of it in any file; the last step is the result."""
    folder = tmp_path / "run"
    keys = {**places, "data.test_share": 0.0, "method.name": "fixmatch"}
    result = run(folder, **keys)
    out = capsys.readouterr().out
    assert "data.test_share=0: there is no test set" in out
    assert result["test_accuracy"] is None and result["best_step"] is None
    assert set(result["test"].values()) == {None}
    for line in lines(folder):
        for key, value in line.items():
            assert not key.startswith("eval/test") or value is None
    stages.run(own(**keys), str(folder))
    assert "finished: no test set" in capsys.readouterr().out
    assert evaluate.main([f"--workdir={folder}"]) == 0
    assert "test accuracy" not in capsys.readouterr().out
    assert evaluate.main([f"--workdir={folder}", "--step=best"]) == 2
    assert "neither test nor validation images" in capsys.readouterr().err
    assert report.main([str(folder)]) == 0
    assert export.main([f"--workdir={folder}", f"--out={tmp_path}/net"]) == 0


@pytest.mark.parametrize("form", ["resident", "tfdata", "encoded"])
def test_every_command(places, trained, tmp_path, form, capsys):
    keys = {
        "tfdata": {"input.mode": "tfdata", "method.name": "fixmatch"},
        "encoded": {"data.image_size": 16, "input.mode": "auto", **ONE_NETWORK},
    }
    folder, result = trained
    if form in keys:
        folder = tmp_path / "run"
        result = run(folder, **places, **keys[form])
    assert result["status"] == "finished" and result["known"]["origins"] == 0
    run_flag = f"--workdir={folder}"
    assert evaluate.main([run_flag, f"--out={tmp_path}/figures.json"]) == 0
    assert report.main([str(folder), f"--out={tmp_path}/page.html"]) == 0
    if form == "tfdata":  # the images are those of "resident"
        return
    assert predict.main([run_flag, places["data.unlabeled"]]) == 0
    assert export.main([run_flag, f"--out={tmp_path}/net"]) == 0
    assert tsne.main([run_flag, "--images=40"]) == 0
    assert explain.main([run_flag, "--images=4"]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 100
    card = json.loads((tmp_path / "net.json").read_text())
    assert card["training"]["synthetic_ratio"] is None


def test_moved_and_changed(trained, tmp_path):
    """A run goes on where data and workdir have moved, and names what differs."""
    folder, first = trained
    killed_copy(folder, tmp_path / "run", 4)
    after = tmp_path / "after"
    moved = photos.make(after)
    keys = {key: value.replace("after", "before") for key, value in moved.items()}
    changed = next((after / "scraped").iterdir())
    content = changed.read_bytes()
    for damage, new in (
        (lambda: changed.write_bytes(encode(noise(8, 8, 3))), 1),
        (changed.unlink, 0),
    ):
        message = f"{new} are new, 1 are gone, such as {changed.name}"
        damage()
        with pytest.raises(RequestError, match=f"unlabelled.*{message}"):
            run(tmp_path / "run", **moved)
        changed.write_bytes(content)
    with pytest.raises(RequestError, match="before/labelled"):
        run(tmp_path / "run", **keys)
    resumed = run(tmp_path / "run", **moved)
    assert timeless(resumed).keys() == timeless(first).keys()
    assert resumed["fingerprint"] == first["fingerprint"]


def test_a_lost_split_is_no_new_beginning(places, trained, tmp_path):
    """Nothing would tell whether the checkpoints are of these images."""
    folder, _ = trained
    killed_copy(folder, tmp_path / "run", 4)
    (tmp_path / "run" / workdir.SPLIT_FILE).unlink()
    with pytest.raises(RequestError, match="split.npz cannot be read .*restore it"):
        run(tmp_path / "run", **places)


def test_changed_label(tmp_path):
    """In a CSV, of a picture that stays."""
    keys = photos.make(tmp_path)
    rows = [f"class_{i % 3}/{i}.png,{'abc'[i % 3]}" for i in range(8)]
    table = tmp_path / "labelled" / "labels.csv"
    table.write_text("\n".join(["path,label", *rows]))
    keys |= {"data.labeled": str(table), "data.test_share": 0.0}
    folder, task = str(tmp_path / "run"), experiment.load_task(own(**keys))
    about = {same_data.DIGEST: same_data.digest(task)}
    workdir.claim(folder, {}, vars(task.split), about, same_data.columns(task))
    check(folder, task)
    table.write_text(
        "\n".join(["path,label", *rows[:-1], rows[-1].replace(",b", ",c")])
    )
    with pytest.raises(RequestError, match="labelled pictures.*class_1/7.png"):
        check(folder, experiment.load_task(own(**keys)))
