"""Children with a time limit."""

import subprocess
import sys

import pytest

from rsmatch_jax.runtime import child

PROGRAM = """
import signal, sys, time
codes = {"saves": [75], "second signal": [None, 1], "ignores": [None] * 9}[sys.argv[1]]
def end(*_):
    code = codes.pop(0)
    if code:
        sys.exit(code)
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
for _ in range(9):
    time.sleep(600)
"""


@pytest.mark.parametrize(
    ("kind", "patience", "code"),
    [
        *(("saves", 60.0, 75), ("saves", None, -9)),
        *(("second signal", 0.1, 1), ("ignores", 0.1, -9)),
    ],
)
def test_a_child_saves_after_its_time_or_is_ended(monkeypatch, kind, patience, code):
    popen = subprocess.Popen

    def ready(command, **options):  # its time begins when its handler is there
        process = popen(command, **{**options, "stdout": subprocess.PIPE})
        assert process.stdout.readline() == b"ready\n"
        return process

    monkeypatch.setattr(child.subprocess, "Popen", ready)
    command = [sys.executable, "-c", PROGRAM, kind]
    assert child.run(command, seconds=0.01, patience=patience) == code


def test_an_infinite_limit_is_none():
    assert child.run([sys.executable, "-c", "exit(3)"], seconds=float("inf")) == 3
