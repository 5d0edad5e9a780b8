"""The bench of predicting: its rows, its figure, and its requests."""

import json

import numpy as np
import pytest
from support import benches

from rsmatch_jax.bench import predict

SMALL = ("--config.train.batch_size=2", "--config.train.unlabeled_ratio=2")


def request(*flags):
    return predict.BENCH.parse([*SMALL, *flags])


def test_rows_of_a_small_measurement(monkeypatch):
    monkeypatch.setattr(predict, "IMAGES", 5)
    monkeypatch.setattr(predict, "ROUNDS", 2)
    content = predict.BENCH.content(request("--preset=cpu"))
    rows = benches.rows_of(content)
    assert set(rows) == {predict.COMMAND, predict.FORWARD, predict.READING}
    assert rows[predict.FORWARD]["ratio"] == 1
    for row in rows.values():
        assert row["images_per_second"] == pytest.approx(5e3 / row["ms"])
    assert set(content["figures"]) == {"predict"}
    assert content["config"]["model"]["classifier"] == "wrn_10_1"


def test_the_figure_by_hand():
    """Speeds within a round: 1/2, 3/4 and 1/1; the median counts."""
    times = {predict.COMMAND: [2.0, 4.0, 7.0], predict.FORWARD: [1.0, 3.0, 7.0]}
    seconds = {name: np.array(values) for name, values in times.items()}
    assert predict.figures(seconds)["predict"].median == 0.75


def test_both_contenders_do_the_same(tmp_path):
    """The networks alone return what the command writes."""
    model = predict._model(request())
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    paths = predict._write_files(str(tmp_path), images)
    predict._predict(model, paths, str(tmp_path / "out"))
    with open(tmp_path / "out") as f:
        lines = [json.loads(line) for line in f]
    (batch,) = predict._networks(model, images)()
    p = np.asarray(batch["classifier"])[:5]
    assert [line["label"] for line in lines] == p.argmax(axis=1).tolist()
    for name, values in (
        ("probability", p.max(axis=1)),
        ("synthetic_score", np.asarray(batch["detector"])[:5, 1]),
    ):
        np.testing.assert_allclose([x[name] for x in lines], values, atol=1e-6)
