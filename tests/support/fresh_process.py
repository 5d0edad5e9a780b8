"""Runs programs in a fresh process, where imports can be blocked."""

import os
import pathlib
import subprocess
import sys
import textwrap

ROOT = pathlib.Path(__file__).parents[2]


def run(program, cwd=ROOT, **environ):
    """Returns what the program printed; it must exit with 0."""
    # conftest adds its flag; twice the flag would be another cache key.
    environ = {**os.environ, **environ, "XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=cwd,
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
