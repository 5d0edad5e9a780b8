"""Fixtures that several files of these tests share."""

import generate_helpers
import pytest

from rsmatch_jax.models import unet


@pytest.fixture
def model(monkeypatch):
    """Replaces the generate command's model; returns the list of seeds that it drew."""
    return generate_helpers.install(monkeypatch)


@pytest.fixture
def run(tmp_path, capsys):
    """Returns run(generator, *flags, code=0), which fills tmp_path/pool."""
    return generate_helpers.runner(tmp_path, capsys, "--size=8", "--batch_size=5")


@pytest.fixture
def shallow(monkeypatch):
    """One resolution with attention, at 8 px: all parts of the net at low cost."""
    monkeypatch.setattr(unet, "multipliers", lambda size: (1,))
    monkeypatch.setattr(unet, "attention_sizes", lambda size: (8,))
