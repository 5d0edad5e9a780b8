"""Metrics that end a run, and those that it is warned of."""

import math

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
    with pytest.raises(
        RunFailed, match="grad_norm is inf at step 7.*nothing was saved"
    ):
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
