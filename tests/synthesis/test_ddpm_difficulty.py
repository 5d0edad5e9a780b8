"""Tests `ddpm --difficulty` from end to end: pools, resuming, refusals; and what `look`
says of such pools."""

import json
import re

import numpy as np
import pytest
from generate_helpers import failing_at
from scipy import stats
from test_ddpm import SHORT

from rsmatch_jax.data.stores import arrays
from rsmatch_jax.runs import checkpoint
from rsmatch_jax.synthesis.ddpm import __main__ as ddpm
from rsmatch_jax.synthesis.ddpm import adapters, difficulty, pool
from rsmatch_jax.synthesis.look import __main__ as look
from rsmatch_jax.synthesis.look import conditions

TUNED = ["--tuning_steps=4", "--rank=2", "--difficulty_labels=3"]


def argv(folder, name, *more):
    """Returns the flags of a small pool; the model is kept beside it."""
    common = ["--dataset=fake", f"--model_dir={folder}/model", "--save_every=2"]
    return [f"--out={folder}/{name}", *common, *SHORT, *more]


def test_one_model_draws_plain_and_difficult_pools(tmp_path, capsys):
    array_form, hard = "--format=arrays", "--difficulty=0.8,0.05"
    assert ddpm.main(argv(tmp_path, "plain", array_form)) == 0
    state = (tmp_path / "model" / "training.json").read_bytes()
    assert ddpm.main(argv(tmp_path, "hard", array_form, hard, *TUNED)) == 0
    printed = capsys.readouterr().out
    assert "training: 6 of 6 steps are done already" in printed
    assert "tuning 4/4 steps" in printed
    assert (tmp_path / "model" / "training.json").read_bytes() == state

    mixed = argv(tmp_path, "mixed", "--mix", "--difficulty=uniform", *TUNED)
    assert ddpm.main(mixed) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "tuning: 4 of 4 steps are done already" in printed
    assert "scoring" not in printed
    assert ddpm.main(argv(tmp_path, "again", array_form)) == 0

    plain, again, harder = (
        arrays.load(str(tmp_path / name)) for name in ("plain", "again", "hard")
    )
    np.testing.assert_array_equal(plain.images, again.images)
    np.testing.assert_array_equal(plain.labels, harder.labels)
    assert not np.array_equal(plain.images, harder.images)
    assert not (tmp_path / "plain" / "difficulty.npy").exists()
    assert "tuning_steps" not in arrays.load_meta(str(tmp_path / "plain"))["settings"]

    wanted = np.load(tmp_path / "hard" / "difficulty.npy")
    assert wanted.mean() == pytest.approx(0.8, abs=0.05)
    measured = np.load(tmp_path / "hard" / "measured_difficulty.npy")
    scores = np.load(tmp_path / "model" / "difficulty" / "scores.npy")
    want, agreement = difficulty.measure(arrays.fake("train"), scores, harder, 0)
    np.testing.assert_array_equal(measured, want)
    meta = arrays.load_meta(str(tmp_path / "hard"))
    assert meta["settings"]["difficulty"] == {"mean": 0.8, "deviation": 0.05}
    assert meta["settings"]["rank"] == 2
    assert meta["difficulty"]["agreement"] == agreement
    assert meta["difficulty"]["scale"] in ("value", "rank")
    assert "3 labels a class" in meta["difficulty"]["scored_by"]
    report = json.loads((tmp_path / "mixed" / "pool.json").read_text())
    names = {"second_labels", "difficulty", "measured_difficulty"}
    assert set(report["pictures"]) == names
    assert {len(column) for column in report["pictures"].values()} == {20}


def test_a_stopped_fine_tuning_goes_on_bit_for_bit(tmp_path, capsys, monkeypatch):
    def flags(name):
        return [
            *argv(tmp_path / name, "pool", "--format=arrays", *TUNED),
            "--difficulty=0.5",
        ]

    assert ddpm.main(flags("whole")) == 0
    stop = {"error": KeyboardInterrupt}
    # Saves: 2, 4, 6 of the training and 2, 4 of the fine-tuning.
    with failing_at(monkeypatch, 5, checkpoint.Checkpoints, "save", **stop):
        assert ddpm.main(flags("parts")) == 75
    with failing_at(monkeypatch, 2, pool, "to_uint8", **stop):
        assert ddpm.main(flags("parts")) == 75
    assert "tuning: 2 of 4 steps are done already" in capsys.readouterr().out
    assert ddpm.main(flags("parts")) == 0
    for file in ("images.npy", "difficulty.npy", "measured_difficulty.npy"):
        parts, whole = (
            np.load(tmp_path / n / "pool" / file) for n in ("parts", "whole")
        )
        np.testing.assert_array_equal(parts, whole)

    # Fine-tuning of another kind is refused, drawing of another kind is not.
    other = [f"--out={tmp_path}/other", *flags("whole")[1:]]
    assert ddpm.main([*other, "--rank=4"]) == 2
    message = capsys.readouterr().err
    assert f"--model_dir={tmp_path}/whole/model" in message
    assert "rank: 2 there, 4 here" in message
    assert ddpm.main([*other, "--difficulty_guidance=1"]) == 0
    images = [arrays.load(str(tmp_path / n)).images for n in ("whole/pool", "other")]
    assert not np.array_equal(*images)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--difficulty=hard"], "--difficulty=hard cannot work"),
        (["--difficulty=1.5"], "a mean from 0 to 1"),
        (["--rank=4"], "--rank is of --difficulty"),
        (["--difficulty=0.5", "--rank=0"], "--rank=0 cannot work"),
        (["--difficulty=0.5", "--oversampling=2"], "--oversampling=2.0"),
        (["--difficulty=0.5", "--tuning_rate=0"], "--tuning_rate=0.0"),
    ],
)
def test_wrong_flags_exit_2(flags, words, tmp_path, capsys):
    assert ddpm.main(["--dataset=fake", f"--out={tmp_path}/pool", *flags]) == 2
    assert re.search(words, capsys.readouterr().err)
    assert not (tmp_path / "pool").exists()


def test_a_diverging_fine_tuning_names_its_rate(tmp_path, capsys, monkeypatch):
    def diverge(state, *inputs):
        return state.replace(step=state.step + 1), 0.0 * state.step / 0.0

    monkeypatch.setattr(adapters, "make_train_step", lambda *args: diverge)
    flags = argv(tmp_path, "pool", "--format=arrays", "--difficulty=0.5", *TUNED)
    assert ddpm.main(flags) == 1
    printed = capsys.readouterr().err
    assert f"lower --tuning_rate (0.002), delete {tmp_path}/model/difficulty" in printed


def known_pool(folder):
    """Writes a pool of 40 pictures; returns (wanted, measured)."""
    data, rng = arrays.fake("test"), np.random.default_rng(0)
    rows = np.arange(40)
    wanted = np.linspace(0.1, 1, 40).astype(np.float32)
    measured = np.clip(wanted + rng.normal(0, 0.1, 40), 0, 1).astype(np.float32)
    columns = {"difficulty": wanted, "measured_difficulty": measured}
    images, origins = data.images[rows], np.zeros(40, np.int32)
    fake = arrays.ImageArrays(
        "fake", images, data.labels[rows], data.class_names, origins, ("ddpm",)
    )
    arrays.save(str(folder), fake, None, columns)
    return fake, wanted, measured


def test_look_compares_wanted_and_measured(tmp_path, capsys):
    fake, wanted, measured = known_pool(tmp_path / "pool")
    out, cache = f"--out={tmp_path}/look", f"--cache_dir={tmp_path}/cache"
    assert look.main([str(tmp_path / "pool"), "--real=fake", out, cache]) == 0
    text = capsys.readouterr().out
    figures = json.loads((tmp_path / "look" / look.JSON).read_text())
    figures = figures["conditions"]["difficulty"]
    ranks = [np.argsort(np.argsort(column)) for column in (wanted, measured)]
    rho = np.corrcoef(*ranks)[0, 1]  # no ties but at the clipped ends
    assert figures["spearman"] == pytest.approx(rho, abs=0.01)
    assert figures["spearman"] == pytest.approx(stats.spearmanr(wanted, measured)[0])
    assert f"wanted and measured: {figures['spearman']:.3f}" in text
    low = wanted < 0.2
    want = [0.2, low.sum(), wanted[low].mean(), measured[low].mean()]
    assert figures["parts"][0] == pytest.approx(want)
    assert sum(row[1] for row in figures["parts"]) == 40
    line = f"| 0.0 to 0.2 | {low.sum():8} | {want[2]:11.2f} | {want[3]:13.2f} |"
    assert line in text
    columns = {"difficulty": wanted, "measured_difficulty": measured}
    captions = conditions.captions(columns, fake)
    assert captions[-1] == f"100:{100 * measured[-1]:.0f}"
    both = conditions.captions({**columns, "second_labels": fake.labels}, fake)
    assert both[0] == f"+ {fake.class_names[fake.labels[0]]} {captions[0]}"


def test_look_has_no_correlation_of_one_difficulty():
    columns = {"difficulty": np.full(4, 0.5), "measured_difficulty": np.arange(4) / 4}
    figures = conditions.figures(columns, arrays.fake("pool"))
    assert figures["difficulty"]["spearman"] is None
    assert "- (all are alike)" in conditions.lines(figures)[0]
