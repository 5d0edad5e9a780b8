"""The bench beside PyTorch: its rows, and the figures that follow from times.

What runs PyTorch is skipped without it.
"""

import multiprocessing
import sys
import types

import numpy as np
import pytest
from support import benches

from rsmatch_jax.bench import peer

SMALL = benches.small(ratio=2)
OURS, OURS_INPUT = f"{peer.OURS}, float32", f"{peer.OURS_INPUT}, float32"


def test_rows(torch, monkeypatch, capsys):
    from rsmatch_jax.bench.rivals import torch_fixmatch

    seen, step = [], torch_fixmatch.AsInUSB.step

    def spy(self, batch):
        seen.append(float(batch.weak.sum()))
        return step(self, batch)

    monkeypatch.setattr(torch_fixmatch.AsInUSB, "step", spy)
    content, rows = benches.measured(peer.BENCH, *SMALL)
    names = [OURS, peer.USB, peer.LEAN, OURS_INPUT, peer.USB_LOADER]
    assert list(rows) == names and content["figures"] == {}
    assert content["versions"]["torch"] == torch.__version__.split("+")[0]
    for row in rows.values():
        assert row["steps_per_second"] == pytest.approx(1e3 / row["ms"])
        assert row["images_per_second"] == pytest.approx(1e4 / row["ms"]), "2 + 2 * 4"
        assert row["precision"] == "float32"
        torch_row = row["row"].startswith("torch")
        assert row["form"] == ("eager" if torch_row else "XLA")
        assert ("jax_speed_ratio" in row) == torch_row
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
    assert not multiprocessing.active_children(), "workers go on"


def test_without_torch(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in list(sys.modules):
        if name.startswith("rsmatch_jax.bench.rivals.torch_"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("rsmatch_jax.bench.rivals.torch_programs", raising=False)
    peer.BENCH.main(SMALL)
    text = capsys.readouterr().out
    assert "pip install torch" in text
    assert OURS in text and OURS_INPUT in text and "torch as" not in text


def test_ratios_of_known_times():
    times = {"ours": np.array([0.1, 1.0, 0.2]), "theirs": np.array([0.3, 5.0, 0.4])}

    def columns(workers=None):
        names = ("theirs", "", "eager", None, "ours")
        return peer.Contender(*names, workers, workers).row(times, 960)

    theirs = columns()
    assert theirs["jax_speed_ratio"] == pytest.approx(3)
    assert theirs["jax_speed_ratio_quartiles"] == pytest.approx([2.5, 4])
    assert theirs["ms"] == pytest.approx(400)
    assert theirs["images_per_second"] == pytest.approx(960 / 0.4)
    # Not in turns: of medians, 0.4 / 0.2, and of quartiles crosswise.
    theirs = columns(workers=3)
    assert theirs["jax_speed_ratio"] == pytest.approx(2)
    assert theirs["jax_speed_ratio_quartiles"] == pytest.approx(
        [0.35 / 0.6, 2.7 / 0.15]
    )


def test_rows_that_are_not_fair_have_no_figure():
    """Too few workers, or lean torch that is not compiled."""

    def figures(workers=14, form="compiled"):
        contenders = [
            peer.Contender(peer.USB_LOADER, "", "eager", None, "ours", workers, 14),
            peer.Contender(peer.LEAN, "", form, None, "ours"),
        ]
        seconds = {c.name: np.full(3, 2.0) for c in contenders}
        seconds["ours"] = np.ones(3)
        rows = [c.row(seconds, 960) for c in contenders]
        return set(benches.figures(peer.BENCH, ["--preset=gpu"], rows))

    assert figures() == {"G7", "G8"}
    assert figures(workers=2) == {"G8"}
    assert figures(form="eager") == {"G7"}


def test_no_more_workers_than_shared_memory_has_room_for(torch, monkeypatch, capsys):
    from rsmatch_jax.bench.rivals import torch_programs

    exp = benches.experiment("fixmatch", "--config.train.unlabeled_ratio=2")
    # 10 rows of 32 x 32 x 3 float32 and 2 labels of int64, three batches a worker.
    batch = 10 * 32 * 32 * 3 * 4 + 2 * 8

    def programs(room, pillow=True):
        usage = types.SimpleNamespace(free=room)
        monkeypatch.setattr(torch_programs.cores, "count", lambda: 16)
        monkeypatch.setattr(torch_programs.os.path, "isdir", lambda path: True)
        monkeypatch.setattr(torch_programs.shutil, "disk_usage", lambda path: usage)
        spec = object() if pillow else None
        monkeypatch.setattr(
            torch_programs.importlib.util, "find_spec", lambda name: spec
        )
        monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
        made = torch_programs.contenders(exp, [OURS, OURS_INPUT])
        return [(c.needed, c.workers) for c in made[2:]], capsys.readouterr().out

    assert programs(14 * 3 * batch) == ([(14, 14)], "")
    counts, text = programs(14 * 3 * batch - 1)
    assert counts == [(14, 13)] and "13 of 14" in text
    assert programs(3 * batch - 1)[0] == [], "there is no row"
    counts, text = programs(14 * 3 * batch, pillow=False)
    assert counts == [] and "no Pillow" in text
