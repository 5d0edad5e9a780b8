"""The command `sift` on small pictures, with and without a run."""

import argparse
import collections
import csv
import dataclasses
import json
import os
import zipfile

import jax
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics
from support import photos, workdirs
from support.helpers import TINY, config
from support.runs import KEYS

from rsmatch_jax import predict
from rsmatch_jax.data.rs_ssl import REAL, UNKNOWN
from rsmatch_jax.engine import stages
from rsmatch_jax.errors import RequestError
from rsmatch_jax.metrics import verdicts
from rsmatch_jax.sift import __main__ as sift
from rsmatch_jax.sift import judge
from rsmatch_jax.sift.judge import Scores

OWN = {**KEYS, "data.labels_per_class": None, "data.size": 8, "eval.batch_size": 160}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A user's pictures, and two runs on them: `run`, and `plain` without a detector
    and without a test set."""
    root = tmp_path_factory.mktemp("photos")
    keys = {**OWN, **photos.make(root)}
    own = {**keys, "data.test": str(root / "test")}
    plain = {**keys, "data.test_share": 0.0, "method.name": "fixmatch"}
    for name, values in (("run", own), ("plain", plain)):
        c = config("own", **values)
        stages.run(c, str(root / name), devices=jax.local_devices()[:1])
    return root


def read(out):
    """The rows of images.csv and the content of summary.json."""
    with open(out / "images.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return rows, json.loads((out / "summary.json").read_text())


def truth(root, rows):
    """Whether each row's picture is synthetic."""
    with open(root / "origins.csv", newline="") as file:
        origin = {line["path"]: line["origin"] for line in csv.DictReader(file)}
    return [origin[row["path"]] != "real" for row in rows]


def scores(rows):
    return np.array([float(row["synthetic_score"]) for row in rows])


def check_summary(rows, summary):
    """The verdicts follow from the scores and the threshold."""
    limit, words = summary["threshold"], [row["verdict"] for row in rows]
    for score, word in zip(scores(rows), words, strict=True):
        expected = "real" if score < 0.5 or limit < 0.5 else "unsure"
        assert word == ("synthetic" if score > limit else expected)
    assert summary["verdicts"] == {w: words.count(w) for w in verdicts.VERDICTS}
    low, high = summary["estimated_share_interval"]
    assert low <= summary["estimated_share"] <= high
    assert 0 <= summary["share_at_least"] <= summary["estimated_share"]


@pytest.mark.parametrize("test", [False, True], ids=["labelled alone", "test set"])
def test_without_a_run(root, tmp_path, capsys, test):
    flags = [f"--test={root}/test"] if test else []
    flags += [f"--out={tmp_path}/out", "--size=8", "--false_alarm=0.1"]
    (tmp_path / "o.csv").write_text("path,origin,by\n000r.png,real,me\n")
    flags.append(f"--origins={tmp_path}/o.csv")
    places = [f"--labeled={root}/labelled", f"--unlabeled={root}/scraped"]
    assert sift.main([*places, *flags]) == 0
    rows, summary = read(tmp_path / "out")
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    assert len(rows) == 120 and {row["class"] for row in rows} == {""}
    assert metrics.roc_auc_score(truth(root, rows), scores(rows)) > 0.95
    check_summary(rows, summary)
    assert summary["by"] == "statistics" and summary["step"] is None
    assert summary["held_out_real"] == 24
    assert 0.3 < summary["estimated_share"] < 0.7
    out = capsys.readouterr().out
    assert "estimated synthetic share" in out and "lean on" in out
    assert f"--origins={tmp_path}/o.csv: columns that are not used: by" in out
    assert summary["known_origins"]["real"] == 1
    assert {x.name for x in (tmp_path / "out").iterdir()} == {
        *("images.csv", "summary.json", "sift.html"),
        *("sheet.png", "sheet.dark.png"),
    }


def test_of_a_run(root, tmp_path, capsys, monkeypatch):
    """By both; the detector's own threshold gives the verdicts of `predict`."""
    monkeypatch.setattr(judge, "ENOUGH_HELD_OUT", 24)
    workdir = f"--workdir={root}/run"
    pictures = str(root / "scraped")
    assert predict.main([workdir, pictures]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["verdict"] for line in lines} == {None}
    assert sift.main([workdir, "--false_alarm=0.1"]) == 0
    rows, summary = read(root / "run" / "sift")
    check_summary(rows, summary)
    assert summary["by"] == "both" and summary["step"] == 4
    assert summary["held_out_real"] == 24
    assert [row["class"] for row in rows] == [line["class"] for line in lines]
    out = f"--out={tmp_path}/detector"
    assert sift.main([workdir, "--by=detector", "--false_alarm=0.1", out]) == 0
    rows, of_detector = read(tmp_path / "detector")
    check_summary(rows, of_detector)
    assert of_detector["threshold"] == summary["detector_threshold"]
    assert predict.main([workdir, pictures]) == 0
    lines = [json.loads(x) for x in capsys.readouterr().out.splitlines() if x[0] == "{"]
    assert [line["verdict"] for line in lines] == [row["verdict"] for row in rows]
    expected = [line["synthetic_score"] for line in lines]
    np.testing.assert_allclose(scores(rows), expected, atol=1e-5)
    # Another step has no threshold.
    assert predict.main([workdir, "--step=2", f"{pictures}/000r.png"]) == 0
    [line] = [x for x in capsys.readouterr().out.splitlines() if x[0] == "{"]
    assert json.loads(line)["verdict"] is None


def test_few_held_out_pictures_weigh_nothing(root, tmp_path, capsys):
    """24 do not tell how much to trust the detector: the statistics judge alone."""
    flags = [f"--workdir={root}/run", "--false_alarm=0.1"]
    assert sift.main([*flags, f"--out={tmp_path}/out"]) == 0
    rows, summary = read(tmp_path / "out")
    check_summary(rows, summary)
    assert summary["by"] == "statistics" and summary["detector_weight"] is None
    assert summary["held_out"] == "test and validation pictures"  # as many are labelled
    text = capsys.readouterr().out
    assert "the run's detector is left out" in text and "50 held-out" in text
    assert sift.main([*flags, "--by=both", f"--out={tmp_path}/both"]) == 0
    _, summary = read(tmp_path / "both")
    assert summary["by"] == "both" and summary["detector_weight"] == 0.5
    assert "left out" not in capsys.readouterr().out


def test_labelled_pictures_set_the_threshold(root, tmp_path, capsys):
    """Where fewer are held out, as after training on four fifths of a few."""
    files = sorted((root / "test").rglob("*.png"))
    for file in [files[0], *files[8::8]]:
        kept = tmp_path / "test" / file.relative_to(root / "test")
        kept.parent.mkdir(parents=True)
        kept.write_bytes(file.read_bytes())
    flags = [f"--labeled={root}/labelled", f"--unlabeled={root}/scraped", "--size=8"]
    flags += [f"--test={tmp_path}/test", f"--out={tmp_path}/out"]
    assert sift.main([*flags, "--false_alarm=0.1"]) == 0
    rows, summary = read(tmp_path / "out")
    check_summary(rows, summary)
    assert summary["held_out_real"] == 24
    assert summary["held_out"] == "labelled pictures, cross-fitted"
    text = capsys.readouterr().out
    assert "3 classes: class_0, class_1, class_2\n" in text
    assert "by 24 labelled and 3 held-out real ones" in text
    assert "24 (the labelled ones, by models that did not see them)" in text


def test_pictures_on_both_sides_are_counted(root, tmp_path, capsys):
    labelled = root / "labelled" / "class_0" / "0.png"
    more = str(tmp_path / "more")
    os.mkdir(more)
    (tmp_path / "more" / "again.png").write_bytes(labelled.read_bytes())
    flags = [f"--labeled={root}/labelled", "--size=8", f"--out={tmp_path}/out"]
    places = f"{root}/scraped,{tmp_path}/more"
    assert sift.main([*flags, f"--unlabeled={places}"]) == 0
    assert (
        "unlabelled pictures that are labelled ones too, kept: 1"
        in capsys.readouterr().out
    )
    assert sift.main([*flags, f"--unlabeled={root}"]) == 2
    assert f"--unlabeled={root} holds --labeled=" in capsys.readouterr().err


def test_known_origins_choose_the_score(root, tmp_path):
    """The one with the highest AUROC, which scikit-learn computes here."""
    origins, by, limits = f"--origins={root}/origins.csv", {}, set()
    for name in ("detector", "statistics", "both", None):
        flags = [origins, f"--out={tmp_path}/{name}"] + [f"--by={name}"] * bool(name)
        assert sift.main([f"--workdir={root}/run", *flags]) == 0
        rows, summary = read(tmp_path / str(name))
        by[name] = metrics.roc_auc_score(truth(root, rows), scores(rows))
        known = summary["known_origins"]
        assert known["auroc"][summary["by"]] == pytest.approx(by[name])
        assert known["real"] == known["synthetic"] == 60
        limits.add(summary["detector_threshold"])
    assert by[None] == max(by.values())
    assert summary["by"] == max(("detector", "statistics", "both"), key=by.get)
    assert len(limits) == 1 and None not in limits  # `predict` reads it


def test_without_held_out_pictures(root, tmp_path, capsys):
    """FixMatch has no detector; statistics take the labelled pictures."""
    workdir = f"--workdir={root}/plain"
    assert sift.main([workdir, f"--out={tmp_path}/out"]) == 0
    assert "no detector: statistics judge" in capsys.readouterr().out
    rows, summary = read(tmp_path / "out")
    check_summary(rows, summary)
    assert summary["held_out"] == "labelled pictures, cross-fitted"
    assert summary["detector_threshold"] is None
    assert sift.main([workdir, "--by=both"]) == 2
    assert "--by=both: this run has no detector" in capsys.readouterr().err


def test_too_few_held_out(root, tmp_path, capsys):
    """Scores, but no threshold and no verdict."""
    flags = ["--by=detector", "--false_alarm=0.02", f"--out={tmp_path}/out"]
    assert sift.main([f"--workdir={root}/run", *flags]) == 0
    rows, summary = read(tmp_path / "out")
    assert {row["verdict"] for row in rows} == {""} and len(rows) == 120
    assert summary["threshold"] is None and summary["verdicts"] is None
    text = capsys.readouterr().out
    assert "no threshold, so no verdicts: 24 real pictures are held out" in text
    assert "--false_alarm=0.02 needs 49; hold more out in the next run" in text


def test_images_of_a_command_line(root, tmp_path, capsys):
    """They are judged among the run's pictures: a dozen alone tell nothing."""
    names = [
        f"{7 * i:02d}{c}{origin}" for i in (0, 1) for c in "012" for origin in "rs"
    ]
    pictures = [f"{root}/scraped/{name}.png" for name in names]
    flags = [f"--workdir={root}/run", "--by=statistics", "--false_alarm=0.1"]
    assert sift.main([*flags, f"--out={tmp_path}/out", *pictures]) == 0
    rows, summary = read(tmp_path / "out")
    assert [row["path"] for row in rows] == pictures
    assert metrics.roc_auc_score([name[-1] == "s" for name in names], scores(rows)) == 1
    assert summary["estimated_share"] is None and summary["threshold"] is not None


def test_folders_of_verdicts(root, tmp_path, capsys):
    """Links to the real files; pictures in a zip are copied."""
    flags = [f"--workdir={root}/run", "--false_alarm=0.1", f"--out={tmp_path}/out"]
    assert sift.main([*flags, f"--link={tmp_path}/links"]) == 0
    rows, _ = read(tmp_path / "out")
    for row in rows:
        link = tmp_path / "links" / row["verdict"] / row["class"] / row["path"]
        assert link.is_symlink() and link.resolve() == root / "scraped" / row["path"]
    with zipfile.ZipFile(tmp_path / "scraped.zip", "w") as archive:
        for path in (root / "scraped").iterdir():
            archive.write(path, path.name)
    flags += [f"--unlabeled={tmp_path}/scraped.zip"]
    assert sift.main([*flags, f"--copy={tmp_path}/copies"]) == 0
    copies = [x for x in (tmp_path / "copies").rglob("*") if x.is_file()]
    assert len(copies) == 120
    for path in copies:
        assert path.read_bytes() == (root / "scraped" / path.name).read_bytes()
    assert sift.main([*flags, f"--link={tmp_path}/none"]) == 2
    assert f"use --copy={tmp_path}/none" in capsys.readouterr().err


def test_run_on_a_dataset(tmp_path, capsys):
    """Its images are no files, and all origins are known."""
    workdirs.make(tmp_path / "run", **TINY)
    flags = [f"--workdir={tmp_path}/run"]
    assert sift.main(flags) == 0
    rows, summary = read(tmp_path / "run" / "sift")
    assert len(rows) == 600 and rows[0]["path"] == "unlabelled/040"
    assert summary["known_origins"]["synthetic"] == 320
    assert sift.main([*flags, f"--link={tmp_path}/links"]) == 2
    assert "come from a dataset" in capsys.readouterr().err


@pytest.mark.parametrize("signals", ((2.5, 2.5), (0.3, 3.0)))
@pytest.mark.parametrize("held_out", (200, 20))
def test_combined_scores(signals, held_out):
    """The order is that of a weighted mean rank (scipy); half of it lies at the share.
    The weight is the one by which held-out real and unlabelled pictures differ most
    (scikit-learn's AUROC), or equal with few held-out pictures."""
    rng = np.random.default_rng(0)
    synthetic = np.arange(400) >= 240
    pair = [
        Scores(rng.normal(s * synthetic), rng.normal(size=held_out), np.zeros(0))
        for s in signals
    ]
    both = judge.combined(*pair)
    ranks = [
        stats.percentileofscore(s.images, np.concatenate([s.images, s.held_out]))
        for s in pair
    ]
    is_unlabelled = np.repeat([1, 0], [400, held_out])
    weights = np.linspace(0, 1, 11)
    means = [w * ranks[0] + (1 - w) * ranks[1] for w in weights]
    apart = [metrics.roc_auc_score(is_unlabelled, x) for x in means]
    best = 5 if held_out < judge.ENOUGH_HELD_OUT else int(np.argmax(apart))
    assert both.weight == pytest.approx(weights[best])
    order = stats.spearmanr(np.concatenate([both.images, both.held_out]), means[best])
    assert order.statistic > 0.9999
    if held_out >= judge.ENOUGH_HELD_OUT:
        assert np.mean(both.images > 0.5) == pytest.approx(0.4, abs=0.06)
        alone = [metrics.roc_auc_score(synthetic, s.images) for s in pair]
        assert metrics.roc_auc_score(synthetic, both.images) > max(alone) - 0.002
    # Real pictures have the ranks of real ones.
    assert stats.ks_2samp(both.held_out, both.images[~synthetic]).pvalue > 0.05


def test_best_score():
    rng = np.random.default_rng(0)
    synthetic = np.repeat([0, 1], 30)
    sharp, blunt = (
        Scores(synthetic + rng.normal(size=60) * s, np.zeros(50), np.zeros(0))
        for s in (0.5, 3)
    )
    made = {"detector": blunt, "statistics": sharp, "both": blunt}
    origins = np.where(synthetic, 0, REAL)
    name, figures = judge.best(made, origins)
    assert name == "statistics"
    assert figures["auroc"]["detector"] == metrics.roc_auc_score(
        synthetic, blunt.images
    )
    few = np.where(np.arange(60) % 30 < 19, origins, UNKNOWN)
    assert judge.best(made, few)[0] == "both"
    name, figures = judge.best(made, np.full(60, UNKNOWN))
    assert name == "both" and set(figures["auroc"].values()) == {None}
    made["both"] = dataclasses.replace(blunt, held_out=np.zeros(49))
    assert judge.best(made, np.full(60, UNKNOWN))[0] == "statistics"
    with pytest.raises(RequestError, match="no detector"):
        judge.scores(type("Bare", (), {"predicted": None})(), "detector")


def test_verdicts():
    scores = np.array([0.1, 0.49, 0.5, 0.7, 0.71])
    words = ["real", "real", "unsure", "unsure", "synthetic"]
    assert verdicts.of_scores(scores, 0.7) == words
    low = ["real", "synthetic", "synthetic", "synthetic", "synthetic"]
    assert verdicts.of_scores(scores, 0.3) == low
    assert verdicts.of_scores(scores, None) == [None] * 5


def test_results_lie_beside_the_pictures(tmp_path, monkeypatch):
    """Of a folder with a comma in its name, the first of several, and an archive."""
    (tmp_path / "mine, new").mkdir()
    (tmp_path / "c.tar.gz").touch()
    flags = dict.fromkeys(("workdir", "by", "out", "link", "copy", "images", "test"))
    flags |= dict.fromkeys(("origins", "size", *sift._OF_RUNS))
    flags |= {"false_alarm": 0.05, "labeled": "x"}
    names = ("mine, new/", "mine, new"), ("a,b", "a"), ("c.tar.gz", "c")
    for name, expected in names:
        args = argparse.Namespace(**flags, unlabeled=f"{tmp_path}/{name}")
        assert sift._check(args) == f"{tmp_path}/{expected}-sift"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    args = argparse.Namespace(**flags, unlabeled=".")
    assert sift._check(args) == f"{tmp_path}/here-sift"


@pytest.mark.parametrize("flag", ["out", "link", "copy"])
def test_results_do_not_lie_among_the_pictures(root, tmp_path, capsys, flag):
    """Also by a link; of a run its places count, those that are named and IMAGEs."""
    (tmp_path / "alias").symlink_to(root / "scraped")
    more = str(tmp_path / "more")
    os.mkdir(more)
    places = [f"--labeled={root}/labelled", f"--test={root}/test"]
    run = [f"--workdir={root}/run"]
    out = [] if flag == "out" else [f"--out={tmp_path}/out"]
    for flags, folder, key in (
        ([*places, f"--unlabeled={root}/scraped"], f"{tmp_path}/alias/x", "unlabeled"),
        ([*places, f"--unlabeled={root}/a,{more}"], f"{more}/x", "unlabeled"),
        ([*places, f"--unlabeled={root}/scraped"], f"{root}/test", "test"),
        (run, f"{root}/labelled/a/b", "data.labeled"),
        ([*run, f"--unlabeled={more}"], f"{more}/x", "data.unlabeled"),
        ([*run, more], f"{more}/x", "IMAGE"),
    ):
        assert sift.main([*flags, *out, f"--{flag}={folder}"]) == 2
        error = capsys.readouterr().err
        assert f"--{flag}={folder} lies in " in error and f"{key}=" in error
    assert not os.listdir(more)


@pytest.mark.parametrize(
    "count, reason",
    [
        (49, "it needs 50 pictures to sift or more"),
        (50, "it needs 20 held-out real pictures or more"),
    ],
)
def test_why_there_is_no_share(count, reason):
    summary = {"held_out_real": 24, "false_alarm": 0.05, "pictures": count}
    known = {"real": 0, "synthetic": 0, "auroc": {"detector": None}}
    summary |= {"known_origins": known}
    lines = list(sift._lines(collections.defaultdict(lambda: None, summary)))
    assert f"no estimated share: {reason}" in lines
