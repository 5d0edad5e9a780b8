"""The bench of predicting: its rows, its figure, and its requests."""

import json

import numpy as np
import pytest

from rsmatch_jax.bench import __main__ as bench
from rsmatch_jax.bench import predict
from rsmatch_jax.bench.harness import request

SMALL = ("--config.train.batch_size=2", "--config.train.unlabeled_ratio=2")


def asked(*flags):
    return request.parse(["bench", *SMALL, *flags], predict.PRESETS)


def test_rows_of_a_small_measurement():
    found = predict.measure(asked("--preset=cpu"), count=5, rounds=2)
    rows = {row["row"]: row for row in found["rows"]}
    assert set(rows) == {predict.COMMAND, predict.FORWARD, predict.READING}
    assert rows[predict.FORWARD]["ratio"] == 1
    for row in rows.values():
        assert row["images_per_second"] == pytest.approx(5e3 / row["ms"])
    assert found["figures"] == {}  # of another number of images
    assert found["config"]["model"]["classifier"] == "wrn_10_1"


def test_the_figure_by_hand():
    """Speeds within a round: 1/2, 3/4 and 1/1; the median counts."""
    seconds = {
        predict.COMMAND: np.array([2.0, 4.0, 7.0]),
        predict.FORWARD: np.array([1.0, 3.0, 7.0]),
    }
    figure = predict.figures(seconds, asked(), predict.IMAGES)["predict"]
    assert figure["value"] == 0.75 and figure["holds"]
    other = asked("--config.model.classifier=wrn_16_1")
    assert predict.figures(seconds, other, predict.IMAGES) == {}
    seconds[predict.COMMAND] *= 2
    assert not predict.figures(seconds, asked(), predict.IMAGES)["predict"]["holds"]


def test_both_contenders_do_the_same(tmp_path):
    """The networks alone give what the command writes, padding apart."""
    model = predict._model(asked())
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    paths = predict._write_files(str(tmp_path), images)
    predict._command(model, paths, str(tmp_path / "out"))(1)
    with open(tmp_path / "out") as f:
        lines = [json.loads(line) for line in f]
    (found,) = predict._networks(model, images)()
    p = np.asarray(found["classifier"])[:5]
    assert [line["label"] for line in lines] == p.argmax(axis=1).tolist()
    for name, values in (
        ("probability", p.max(axis=1)),
        ("synthetic_score", np.asarray(found["detector"])[:5, 1]),
    ):
        np.testing.assert_allclose([x[name] for x in lines], values, atol=1e-6)


def test_wrong_requests(capsys):
    assert bench.main(["bench", "predict", "--out=nowhere/x.json"]) == 2
    assert "no folder" in capsys.readouterr().err
