"""Small sizes for all benches; PyTorch where it is installed."""

import os

import pytest

from rsmatch_jax.bench.harness import timing, workload


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Few images to draw from, and two rounds with turns as short as possible."""
    in_turns = timing.in_turns

    def short(runs, least_seconds, rounds, units=None):
        return in_turns(runs, 0.0, 2, units)

    monkeypatch.setattr(timing, "in_turns", short)
    monkeypatch.setattr(workload, "NUM_UNLABELED", 64)


@pytest.fixture
def torch():
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the bench does
    return pytest.importorskip("torch")
