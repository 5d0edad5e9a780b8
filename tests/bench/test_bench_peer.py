"""The bench beside PyTorch: its rows, and the figures that follow from times.

What runs PyTorch is skipped without it.
"""

import sys
import types

import numpy as np
import pytest
from support import benches

from rsmatch_jax.bench import peer
from rsmatch_jax.bench.harness import workload

SMALL = benches.small(ratio=2)
OURS, OURS_INPUT = f"{peer.OURS}, float32", f"{peer.OURS_INPUT}, float32"


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
    content = peer.BENCH.content(peer.BENCH.parse(SMALL))
    rows = benches.rows_of(content)
    names = [OURS, peer.USB, peer.LEAN, OURS_INPUT, peer.USB_LOADER]
    assert list(rows) == names and content["figures"] == {}
    assert content["versions"]["torch"] == torch.__version__
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
    assert closed == [None]


def test_without_torch(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in list(sys.modules):
        if name.startswith("rsmatch_jax.bench.rivals.torch_"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("rsmatch_jax.bench.rivals.torch_programs", raising=False)
    peer.BENCH.main(SMALL)
    text = capsys.readouterr().out
    assert "pip install -r requirements-torch.txt" in text
    assert OURS in text and OURS_INPUT in text and "torch as" not in text


def columns(name, partner=None, workers=None, **seconds):
    row = peer.contender(name, "", "compiled", partner, workers, workers)
    times = {name: np.array(s) for name, s in seconds.items()}
    return peer.timed_columns(times, row, 960)


def test_ratios_of_known_times():
    times = {"ours": [0.1, 1.0, 0.2], "theirs": [0.3, 5.0, 0.4]}
    theirs = columns("theirs", "ours", **times)
    assert theirs["jax_speed_ratio"] == pytest.approx(3)
    assert theirs["jax_speed_ratio_quartiles"] == pytest.approx([2.5, 4])
    assert theirs["ms"] == pytest.approx(400)
    assert theirs["images_per_second"] == pytest.approx(960 / 0.4)
    # Not in turns: of medians, 0.4 / 0.2, and of quartiles crosswise.
    theirs = columns("theirs", "ours", 3, **times)
    assert theirs["jax_speed_ratio"] == pytest.approx(2)
    assert theirs["jax_speed_ratio_quartiles"] == pytest.approx(
        [0.35 / 0.6, 2.7 / 0.15]
    )


def test_figures_of_made_up_rows():
    ratios = {peer.USB: 0.4, peer.USB_LOADER: 2.5, peer.LEAN: 0.8}
    table = [
        {
            **peer.contender(name, "", "compiled", None, 14, 14),
            "jax_speed_ratio": ratio,
            "jax_speed_ratio_quartiles": [ratio - 0.1, ratio + 0.1],
        }
        for name, ratio in ratios.items()
    ]

    def figures(preset, *flags, platform=None):
        request = peer.BENCH.parse([f"--preset={preset}", *flags])
        results = benches.figures(peer.BENCH, request, table, platform=platform)
        bounds = ("value", "must", "goal", "holds")
        return {name: tuple(f[key] for key in bounds) for name, f in results.items()}

    cpu, gpu = (peer.BENCH.parse([f"--preset={p}"]).config for p in ("cpu", "gpu"))
    assert (cpu.train.batch_size, cpu.train.unlabeled_ratio) == (8, 7)
    assert (gpu.train.batch_size, gpu.model.dtype) == (64, "bfloat16")
    assert figures("cpu") == {"C8": (0.4, 0.35, 0.5, True)}
    assert figures("gpu") == {"G7": (2.5, 2, 3, True), "G8": (0.8, 0.9, 1.1, False)}
    assert figures("cpu", platform="gpu") == figures("gpu", platform="cpu") == {}
    assert figures("cpu", "--config.train.batch_size=4") == {}
    assert figures("gpu", "--config.input.randaugment_ops=2") == {}
    table[1] |= peer.contender(peer.USB_LOADER, "", "eager", None, 2, 14)
    assert set(figures("gpu")) == {"G8"}
    table[2] |= peer.contender(peer.LEAN, "", "eager")
    assert figures("gpu") == {}
    del table[0]
    assert figures("cpu") == {}


def test_no_more_workers_than_shared_memory_has_room_for(torch, monkeypatch, capsys):
    from rsmatch_jax.bench.rivals import torch_programs

    request, cpu = peer.BENCH.parse(SMALL), torch.device("cpu")
    values = {"method.name": "fixmatch"}
    exp = workload.build(request.config, values, request.device)
    # 10 rows of 32 x 32 x 3 float32 and 2 labels of int64, three batches a worker.
    batch = 10 * 32 * 32 * 3 * 4 + 2 * 8
    opened = []

    def programs(room, pillow=True):
        usage = types.SimpleNamespace(free=room)
        monkeypatch.setattr(torch_programs.machine, "cores", lambda: 16)
        monkeypatch.setattr(torch_programs.os.path, "isdir", lambda path: True)
        monkeypatch.setattr(torch_programs.shutil, "disk_usage", lambda path: usage)
        spec = object() if pillow else None
        monkeypatch.setattr(
            torch_programs.importlib.util, "find_spec", lambda name: spec
        )
        monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
        monkeypatch.setattr(
            torch_programs.torch_loader,
            "stream",
            lambda *args, workers, **kw: opened.append(workers),
        )
        p = torch_programs.Programs(exp, cpu)
        if p.workers:
            p.usb_loader(0)
        return p.needed, p.workers, capsys.readouterr().out

    assert programs(14 * 3 * batch) == (14, 14, "")
    needed, workers, text = programs(14 * 3 * batch - 1)
    assert (needed, workers) == (14, 13) and "13 of 14" in text
    assert programs(3 * batch - 1)[:2] == (14, 0)
    needed, workers, text = programs(14 * 3 * batch, pillow=False)
    assert (needed, workers) == (14, 0) and "no Pillow" in text
    assert opened == [14, 13]
