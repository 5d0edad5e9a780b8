"""Lines, metrics and tables."""

import math
import types

import numpy as np
import pytest
from support import fresh_process, runs

from rsmatch_jax import files, terminal
from rsmatch_jax.runs import logbook


def book(folder, num_bytes=0, tensorboard=False):
    log = {"tensorboard": tensorboard, "wandb": None}
    config = {"train": {"num_steps": 9}, "log": log}
    return logbook.Logbook(str(folder), config, num_bytes=num_bytes)


@pytest.mark.parametrize("beyond", ['{"step": 8, "a"', '{"step": 8}\n', "\0" * 4096])
def test_going_on_drops_what_came_after_the_save(tmp_path, capsys, beyond):
    first = book(tmp_path)
    for step in (2, 4):
        first.write(step, {"a": step / 2})
    kept = first.sync()
    first.write(6, {"a": 3.0})
    first.close()
    with open(tmp_path / "metrics.jsonl", "a") as f:
        f.write(beyond)  # cut off by a kill, or never brought to disk
    again = book(tmp_path, kept)
    assert again.sync() == kept  # what a save before the next line notes
    again.write(6, {"a": math.nan})
    again.close()
    values = [(x["step"], x["a"]) for x in runs.lines(tmp_path)]
    assert values == [(2, 1.0), (4, 2.0), (6, None)]
    assert capsys.readouterr().out == ""
    book(tmp_path, 9999).close()
    assert "metrics.jsonl has lost lines" in capsys.readouterr().out


def test_event_files_are_written_in_silence_and_nobody_waits(tmp_path, monkeypatch):
    """By clu's TensorFlow, which without our settings prints lines about oneDNN and
    sees the GPUs. Its import takes longer than all that comes before `close`."""
    program = f"""
        import glob, os
        os.dup2(1, 2)
        from rsmatch_jax.runs import logbook
        log = {{"tensorboard": True, "wandb": None}}
        config = {{"train": {{"num_steps": 9}}, "log": log}}
        mine = logbook.Logbook({str(tmp_path)!r}, config, num_bytes=0)
        for step in range(3):
            mine.write(step, {{"a": step}})
            mine.count_step(step)
        print("before TensorFlow" if mine._events._writer is None else "after it")
        mine.close()
        print(os.environ["TF_ENABLE_ONEDNN_OPTS"])
        from tensorboard.backend.event_processing import event_file_loader
        from tensorboard.util import tensor_util
        (path,) = glob.glob({str(tmp_path)!r} + "/events*")
        for event in event_file_loader.EventFileLoader(path).Load():
            for value in event.summary.value:
                print(event.step, tensor_util.make_ndarray(value.tensor))
    """
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    printed = fresh_process.run(program).splitlines()
    assert printed == ["before TensorFlow", "0", "0 0.0", "1 1.0", "2 2.0"]


def test_event_files_that_cannot_be_written_end_no_run(tmp_path, capsys, monkeypatch):
    def full(step, scalars):
        raise ValueError("no space left")

    def opened(events, folder, num_steps):
        events._writer = types.SimpleNamespace(write_scalars=full)

    monkeypatch.setattr(logbook.EventFiles, "_open", opened)
    mine = book(tmp_path, tensorboard=True)
    for step in (1, 2):
        mine.write(step, {"a": 1.0})
    mine.close()
    assert capsys.readouterr().out == (
        "warning: no TensorBoard event files from here on: no space left\n"
    )
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_plain_makes_json_of_numpy():
    values = {"a": np.float32(0.5), "b": [np.int64(3), math.inf], "c": (None, "x")}
    assert files.plain(values) == {"a": 0.5, "b": [3, None], "c": [None, "x"]}


def test_tables_are_aligned():
    lines = [["a", "1,000.5"], ["longer", "2.0"]]
    assert terminal.table(["method", "ms"], lines, numbers=True) == (
        "| method |      ms |\n"
        "| ------ | ------: |\n"
        "| a      | 1,000.5 |\n"
        "| longer |     2.0 |"
    )
    assert terminal.table(["", "%"], [["x", "-"]]) == (
        "|     | %   |\n| --- | --- |\n| x   | -   |"
    )
