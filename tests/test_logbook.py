"""Lines, files and tables for people."""

import json
import math

import numpy as np
import pytest

from rsmatch_jax import logbook, record, report
from rsmatch_jax.errors import RequestError, RunFailed
from rsmatch_jax.record import Record, Stopwatch, interval_means


def book(folder, first_step):
    return logbook.Logbook(
        str(folder), first_step=first_step, num_steps=9, tensorboard=False
    )


def test_going_on_drops_later_and_broken_lines(tmp_path):
    first = book(tmp_path, 0)
    for step in (2, 4, 6):
        first.write(step, {"a": step / 2})
    first.close()
    with open(tmp_path / "metrics.jsonl", "a") as f:
        f.write('{"step": 8, "a"')  # cut off by a kill
    again = book(tmp_path, 4)
    again.write(6, {"a": math.nan})
    again.close()
    with open(tmp_path / "metrics.jsonl") as f:
        assert [json.loads(line) for line in f] == [
            {"step": 2, "a": 1.0},
            {"step": 4, "a": 2.0},
            {"step": 6, "a": None},
        ]


def test_plain_makes_json_of_numpy():
    given = {"a": np.float32(0.5), "b": [np.int64(3), math.inf], "c": (None, "x")}
    assert logbook.plain(given) == {"a": 0.5, "b": [3, None], "c": [None, "x"]}


def test_progress_names_rate_and_time_to_go(tmp_path, capsys):
    book(tmp_path, 1).progress(5, {"loss": 1.25}, rate=2.0, extra_seconds=60.0)
    said = capsys.readouterr().out
    assert said == "step 5/9  loss 1.250  2.00 steps/s  ETA 1m02s\n"


def test_stopwatch_leaves_pauses_out(monkeypatch):
    now = iter([10.0, 13.0, 18.0, 18.0, 20.0])
    monkeypatch.setattr(record.time, "monotonic", lambda: next(now))
    watch = Stopwatch()
    with watch.paused() as seconds:  # 13 to 18
        assert seconds() == 5.0
    assert watch.read() == 5.0  # 10 to 20, less 5


def test_damaged_line_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnot json\n')
    with pytest.raises(RequestError, match="line 2 is damaged"):
        book(tmp_path, 4)


def test_infinite_metric_is_named_with_its_step():
    sound = {"loss": np.float32(1)}
    record.require_finite(7, [sound, sound])
    with pytest.raises(RunFailed, match="loss is nan at step 6"):
        record.require_finite(7, [sound, {"loss": np.float32(math.nan)}, sound])


def test_interval_means():
    pending = [{"a": np.float32(1), "b": 2.0}, {"a": np.float32(2), "b": 4.0}]
    assert interval_means(pending) == {"a": 1.5, "b": 3.0}


def write_run(folder, accuracies, **result):
    folder.mkdir(parents=True)
    logbook.write_json(
        str(folder / "result.json"),
        {
            "method": "rsmatch",
            "seed": 1,
            "steps": 90,
            "status": "finished",
            "test_accuracy_best": max(accuracies),
            "seconds": 90.0,
            **result,
        },
    )
    with open(folder / "metrics.jsonl", "w") as f:
        for i, a in enumerate(accuracies):
            f.write(json.dumps({"step": i, "train/loss": 1.0}) + "\n")
            line = {"step": i, "eval/test_accuracy": a, "eval/queue_purity": None}
            line["eval/detector_balanced_accuracy"] = a / 2
            f.write(json.dumps(line) + "\n")


def test_report_averages_the_last_four(tmp_path, capsys):
    write_run(tmp_path / "a", [0.0, 0.9, 0.8, 0.7, 0.6])
    write_run(tmp_path / "a" / "inner", [0.5], method="supervised")
    assert report.main([str(tmp_path)]) == 0
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("|")]
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
    assert cells[2][1:] == (
        ["rsmatch", "1", "90", "finished", "0.7500", "0.3750", "-", "0.9000", "1.5000"]
    )
    assert cells[3][1] == "supervised"
    assert len({len(line) for line in lines}) == 1


def test_report_on_nothing_or_on_a_foreign_file(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 2
    (tmp_path / "result.json").write_text("[1]")
    assert report.main([str(tmp_path)]) == 2
    (tmp_path / "result.json").write_text("{")
    assert report.main([str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.count(str(tmp_path)) == 3
    assert "Traceback" not in said


def test_record_survives_saving():
    mine = Record(warnings=["w"], seconds=1.5, pending=[{"a": np.float32(0.1)}])
    mine.add_evaluation(3, {"test_accuracy": 0.5})
    meta = json.loads(json.dumps(mine.to_meta()))
    again = Record.from_meta(meta)
    assert again.to_meta() == meta
    assert again.pending == [{"a": float(np.float32(0.1))}]


def test_unreadable_metrics_of_a_report(tmp_path):
    write_run(tmp_path / "a", [0.5])
    (tmp_path / "a" / "metrics.jsonl").write_text("not json\n")
    with pytest.raises(RequestError, match="cannot be read"):
        report.row(str(tmp_path / "a"))
