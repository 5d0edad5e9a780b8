"""Metrics that end a run, those that it is warned of, and what a record keeps."""

import json
import math

import numpy as np
import pytest

from rsmatch_jax.errors import RunFailed
from rsmatch_jax.methods import rsmatch_checks
from rsmatch_jax.runs import history


def test_infinite_metric_is_named_with_its_step_and_the_last_checkpoint():
    sound = {"loss": 1.0}
    history.require_finite(7, [sound, sound], lambda: None)
    with pytest.raises(RunFailed, match=r"loss is nan at step 6.*is of step 4\. "):
        history.require_finite(7, [sound, {"loss": math.nan}, sound], lambda: 4)
    both = [{"loss": math.nan}, {"loss": math.inf}]
    with pytest.raises(RunFailed, match="loss is nan at step 6"):
        history.require_finite(7, both, lambda: 4)
    words = "grad_norm is inf at step 7.*nothing was saved"
    with pytest.raises(RunFailed, match=words):
        history.require_finite(7, [sound, {"grad_norm": math.inf}], lambda: None)


def test_a_warning_comes_once_also_after_a_restart():
    record = history.Record()
    steps = [{"detector_synthetic": 0.0, "queue_fill": 0.5}] * 10
    alarms = rsmatch_checks.alarms(steps, first=False, images_a_step=100)
    [text] = record.warn_once(alarms, 20)
    assert text.startswith("step 20: the detector called every unlabelled image real")
    again = history.Record.from_meta(record.to_meta())
    assert again.warn_once(alarms, 30) == []
    assert again.warnings == [text]
    assert len(again.warn_once({"queue empty": "..."}, 30)) == 1


def test_stopwatch_leaves_pauses_out(monkeypatch):
    now = iter([10.0, 13.0, 18.0, 20.0])
    monkeypatch.setattr(history.time, "monotonic", lambda: next(now))
    watch = history.Stopwatch()
    with watch.paused():  # 13 to 18
        pass
    assert watch.read() == 5.0  # 10 to 20, less 5


def test_record_survives_saving():
    mine = history.Record(warnings=["w"], seconds=1.5, pending=[{"a": np.float32(0.1)}])
    mine.add_evaluation(3, {"test_accuracy": 0.5})
    meta = json.loads(json.dumps(mine.to_meta()))
    again = history.Record.from_meta(meta)
    assert again.to_meta() == meta
    assert again.pending == [{"a": float(np.float32(0.1))}]
    pending = [{"a": np.float32(1), "b": 2.0}, {"a": np.float32(2), "b": 4.0}]
    assert history.interval_means(pending) == {"a": 1.5, "b": 3.0}
    with pytest.raises(RunFailed, match="another version"):
        history.Record.from_meta({**meta, "later": 1})
