"""Fixtures that several files of these tests share."""

import generate_helpers
import pytest


@pytest.fixture
def model(monkeypatch):
    """Replaces the generate command's model; returns the list of seeds that it drew."""
    return generate_helpers.install(monkeypatch)


@pytest.fixture
def run(tmp_path, capsys):
    """Returns run(generator, *flags, code=0), which fills tmp_path/pool."""
    return generate_helpers.runner(tmp_path, capsys, "--size=8", "--batch_size=5")
