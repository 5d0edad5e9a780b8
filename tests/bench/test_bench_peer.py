"""The bench beside PyTorch: its rows, and the figures that follow from times.

What runs PyTorch is skipped without it.
"""

import json
import os
import sys

import numpy as np
import pytest

from rsmatch_jax.bench import peer
from rsmatch_jax.bench.harness import request, workload
from rsmatch_jax.errors import RequestError

SMALL = (
    "--preset=cpu",
    "--config.train.batch_size=2",
    "--config.train.unlabeled_ratio=2",
    "--config.model.classifier=wrn_10_1",
)
OURS, OURS_INPUT = f"{peer.OURS}, float32", f"{peer.OURS_INPUT}, float32"


def asked(*flags):
    return request.parse(["bench", *flags], peer.PRESETS)


@pytest.fixture
def torch():
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the bench does
    return pytest.importorskip("torch")


def test_rows(torch, monkeypatch, capsys):
    from rsmatch_jax.bench.rivals import torch_fixmatch, torch_loader, torch_programs

    seen, closed = [], []
    step, stream = torch_fixmatch.AsInUSB.step, torch_loader.stream

    def spy(self, batch):
        seen.append(float(batch.weak.sum()))
        return step(self, batch)

    def watched(*args, **kw):
        yield from stream(*args, **kw)

    monkeypatch.setattr(torch_fixmatch.AsInUSB, "step", spy)
    monkeypatch.setattr(torch_loader, "stream", watched)
    monkeypatch.setattr(
        torch_programs.Programs,
        "close",
        lambda self: closed.append(setattr(self, "_stream", None)),
    )
    content = peer.measure(asked(*SMALL), 64, least_seconds=0.0, rounds=2)
    json.dumps(content)
    rows = {row["row"]: row for row in content["rows"]}
    names = [OURS, peer.USB, peer.LEAN, OURS_INPUT, peer.USB_LOADER]
    assert list(rows) == names and content["figures"] == {}
    assert content["versions"]["torch"] == torch.__version__
    for row in rows.values():
        low, high = row["ms_quartiles"]
        assert 0 < low <= row["ms"] <= high
        assert row["steps_per_second"] == pytest.approx(1e3 / row["ms"])
        assert row["images_per_second"] == pytest.approx(1e4 / row["ms"]), "2 + 2 * 4"
        assert row["precision"] == "float32"
        torch_row = row["row"].startswith("torch")
        assert row["form"] == ("eager" if torch_row else "XLA")
        assert (row["jax_speed_ratio"] is None) == (not torch_row)
    assert rows[peer.USB_LOADER]["partner"] == OURS_INPUT
    assert rows[peer.USB]["partner"] == rows[peer.LEAN]["partner"] == OURS
    workers = [row["loader_workers"] for row in content["rows"]]
    assert workers[:-1] == [None] * 4 and workers[-1] >= 1
    # A fixed batch, warmed up by two steps, for two rounds; then another every step.
    fixed, loaded = seen[:4], seen[4:]
    assert len(set(fixed)) == 1 and len(set(loaded)) == len(loaded)
    # The first batch, those made ahead, two steps that warm up, and two turns.
    ahead = 2 * workers[-1] + 1
    assert len(loaded) == 1 + ahead + 2 + 2 * 2 * workers[-1]
    assert closed == [None]


def test_without_torch(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in list(sys.modules):
        if name.startswith("rsmatch_jax.bench.rivals.torch_"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("rsmatch_jax.bench.rivals.torch_programs", raising=False)
    monkeypatch.setattr(peer, "ROUNDS", 2)
    measure = peer.measure
    monkeypatch.setattr(peer, "measure", lambda asked: measure(asked, 64))
    peer.main(["bench", *SMALL])
    text = capsys.readouterr().out
    assert "pip install -r requirements-torch.txt" in text
    assert OURS in text and OURS_INPUT in text and "torch as" not in text


def columns(row, partner=None, workers=None, **seconds):
    contender = peer.Contender(row, None, "", "compiled", partner, workers, workers)
    times = {name.replace("_", " "): np.array(s) for name, s in seconds.items()}
    return {**contender.columns(), **peer.timed_columns(times, contender, 960)}


def test_ratios_of_known_times():
    times = {"ours": [0.1, 1.0, 0.2], "theirs": [0.3, 5.0, 0.4]}
    got = columns("theirs", "ours", **times)
    assert got["jax_speed_ratio"] == pytest.approx(3)
    assert got["jax_speed_ratio_quartiles"] == pytest.approx([2.5, 4])
    assert got["ms"] == pytest.approx(400)
    assert got["images_per_second"] == pytest.approx(960 / 0.4)
    # Not in turns: of medians, 0.4 / 0.2, and of quartiles crosswise.
    got = columns("theirs", "ours", 3, **times)
    assert got["jax_speed_ratio"] == pytest.approx(2)
    assert got["jax_speed_ratio_quartiles"] == pytest.approx([0.35 / 0.6, 2.7 / 0.15])


def test_figures_of_given_rows():
    ratios = {peer.USB: 0.4, peer.USB_LOADER: 2.5, peer.LEAN: 0.8}
    table = [
        {
            "row": name,
            "form": "compiled",
            "loader_workers": 14,
            "loader_workers_wanted": 14,
            "jax_speed_ratio": ratio,
            "jax_speed_ratio_quartiles": [ratio - 0.1, ratio + 0.1],
        }
        for name, ratio in ratios.items()
    ]
    cpu, gpu = asked("--preset=cpu").config, asked("--preset=gpu").config
    assert (cpu.train.batch_size, cpu.train.unlabeled_ratio) == (8, 7)
    assert (gpu.train.batch_size, gpu.model.dtype) == (64, "bfloat16")
    found = peer.figures(table, cpu, "cpu", "cpu")
    assert found == {
        "C8": {
            "value": 0.4,
            "unit": "JAX / torch as in USB speed, fixed batch",
            "must": 0.35,
            "goal": 0.5,
            "holds": True,
            "spread": pytest.approx([0.3, 0.5]),
        }
    }
    found = peer.figures(table, gpu, "gpu", "gpu")
    assert set(found) == {"G7", "G8"}
    assert found["G7"]["value"] == 2.5 and found["G7"]["holds"]
    assert (found["G7"]["must"], found["G7"]["goal"]) == (2, 3)
    assert found["G8"]["value"] == 0.8 and not found["G8"]["holds"]
    assert (found["G8"]["must"], found["G8"]["goal"]) == (0.9, 1.1)

    assert peer.figures(table, cpu, "cpu", "gpu") == {}
    assert peer.figures(table, gpu, "gpu", "cpu") == {}
    other = asked("--preset=cpu", "--config.train.batch_size=4").config
    assert peer.figures(table, other, "cpu", "cpu") == {}
    other = asked("--preset=gpu", "--config.input.randaugment_ops=2").config
    assert peer.figures(table, other, "gpu", "gpu") == {}

    table[1]["loader_workers"] = 2
    assert set(peer.figures(table, gpu, "gpu", "gpu")) == {"G8"}
    table[2]["form"] = "eager"
    assert peer.figures(table, gpu, "gpu", "gpu") == {}
    assert peer.figures(table[1:], cpu, "cpu", "cpu") == {}


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config.method.name=rsmatch", ["method.name", "leave it out"]),
        ("--config.model.wrn_preact=tf", ["wrn_preact=tf", "usb"]),
        ("--config.train.weak_forward=separate", ["weak_forward=separate", "cat"]),
        ("--config.optim.ema_warmup", ["ema_warmup=True", "False"]),
    ],
)
def test_what_the_step_in_torch_does_not_have_is_refused(flag, words):
    with pytest.raises(RequestError) as e:
        peer.main(["bench", "--preset=cpu", flag])
    assert all(word in str(e.value) for word in words)


def test_no_more_workers_than_shared_memory_has_room_for(torch, monkeypatch, capsys):
    from rsmatch_jax.bench.rivals import torch_programs

    a, cpu = asked(*SMALL), torch.device("cpu")
    exp = workload.build(a.config, {"method.name": "fixmatch"}, a.device)
    # 10 rows of 32 x 32 x 3 float32 and 2 labels of int64, three batches a worker.
    batch = 10 * 32 * 32 * 3 * 4 + 2 * 8
    opened = []

    def programs(room, pillow=True):
        usage = (None, None, room)
        named = type(
            "Usage", (), dict(zip(("total", "used", "free"), usage, strict=True))
        )
        monkeypatch.setattr(torch_programs.results, "cores", lambda: 16)
        monkeypatch.setattr(torch_programs.os.path, "isdir", lambda path: True)
        monkeypatch.setattr(torch_programs.shutil, "disk_usage", lambda path: named)
        found = object() if pillow else None
        monkeypatch.setattr(
            torch_programs.importlib.util, "find_spec", lambda name: found
        )
        monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
        monkeypatch.setattr(
            torch_programs.torch_loader,
            "stream",
            lambda *args, workers, **kw: opened.append(workers),
        )
        p = torch_programs.Programs(exp, cpu, 64)
        if p.workers:
            p.usb_loader(0)
        return p.wanted, p.workers, capsys.readouterr().out

    assert programs(14 * 3 * batch) == (14, 14, "")
    wanted, workers, text = programs(14 * 3 * batch - 1)
    assert (wanted, workers) == (14, 13) and "13 of 14" in text
    assert programs(3 * batch - 1)[:2] == (14, 0)
    wanted, workers, text = programs(14 * 3 * batch, pillow=False)
    assert (wanted, workers) == (14, 0) and "no Pillow" in text
    assert opened == [14, 13]
