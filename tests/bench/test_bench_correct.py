"""Correctness of a device: what is compared, and that a difference is seen."""

import jax
import pytest
from support import benches, helpers

from rsmatch_jax.bench import correct
from rsmatch_jax.bench.harness import workload
from rsmatch_jax.errors import RunFailed
from rsmatch_jax.runs import checkpoint

FIGURES = {"forward", "update", "repeat", "resume", "dispatch_cpu"}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """One method, and the smallest networks; on the first and the last CPU device."""
    monkeypatch.setattr(correct, "METHODS", ("fixmatch",))
    monkeypatch.setattr(correct, "BITS_AT", {"cpu": helpers.TINY})
    sizes = {"train.batch_size": 2, "train.unlabeled_ratio": 1, **helpers.TINY}
    monkeypatch.setattr(correct, "COMPARED_AT", {**correct.COMPARED_AT, **sizes})


def measured(*flags):
    """({figure: whether it holds}, rows by name)."""
    content, rows = benches.measured(correct.BENCH, *flags)
    figures = {k.removeprefix("correct_"): v for k, v in content["figures"].items()}
    return {name: figure["holds"] for name, figure in figures.items()}, rows


def test_a_device_that_is_right():
    holds, rows = measured()
    assert holds == dict.fromkeys(FIGURES, True), rows
    assert rows["fixmatch"] == {"row": "fixmatch", "forward": 0.0, "update": 0.0}
    assert rows[correct.RESUME]["equal"] == rows[correct.REPEAT]["equal"] == 1
    assert 0 < rows[correct.DISPATCH]["equal"] <= 1


def test_a_device_that_is_not(monkeypatch):
    """The CPU learns half as fast, and a restored state has lost a bit."""
    build, restore = workload.build, checkpoint.Checkpoints.restore

    def slower(config, values, device, **options):
        if device == jax.local_devices()[-1]:
            values = {**values, "optim.learning_rate": 0.015}
        return build(config, values, device, **options)

    def damaged(self, step, like):
        restored = restore(self, step, like)
        params = jax.tree.map(lambda x: x * (1 + 2e-7), restored.state.params)
        return restored._replace(state=restored.state.replace(params=params))

    monkeypatch.setattr(workload, "build", slower)
    monkeypatch.setattr(checkpoint.Checkpoints, "restore", damaged)
    holds, rows = measured()
    assert {name for name in holds if not holds[name]} == {"update", "resume"}
    assert rows["fixmatch"]["update"] == pytest.approx(1.0, rel=0.2)
    assert 0 < rows[correct.RESUME]["difference"] < 1e-3


def test_what_fails_or_has_no_time_is_a_row(monkeypatch):
    monkeypatch.setattr(correct, "_bits", lambda request: iter([{}["orbax"]]))
    holds, rows = measured()
    assert set(holds) == {"forward", "update"} and "orbax" in rows["bits"]["failed"]
    holds, rows = measured("--seconds=0")
    assert not holds
    assert all("no time was left" in row["failed"] for row in rows.values())


def test_a_cpu_that_is_not_allowed(monkeypatch):
    devices = jax.local_devices()

    def local_devices(backend=None):
        if backend:
            raise RuntimeError("no cpu")
        return devices

    monkeypatch.setattr(jax, "local_devices", local_devices)
    with pytest.raises(RunFailed, match="JAX_PLATFORMS=cpu leaves out the CPU"):
        measured()


def test_a_single_cpu_is_not_compared_with_itself(monkeypatch, capsys):
    devices = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda **_: devices)
    monkeypatch.setattr(correct, "_bits", lambda request: iter([{}["x"]]))
    _, rows = measured()
    assert set(rows) == {"bits"} and "is the only CPU" in capsys.readouterr().out
