"""Fixtures that several files of these tests share."""

import generate_helpers
import pytest


@pytest.fixture
def model(monkeypatch):
    """Replaces the generate command's model; returns the list of seeds that it drew."""
    return generate_helpers.install(monkeypatch)


@pytest.fixture
def request_of(tmp_path):
    """Returns flags(generator, *more) of a run that fills tmp_path/pool."""
    return generate_helpers.flags_of(tmp_path)
