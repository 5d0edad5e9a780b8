"""Runs a command of this package in another process. Does not import JAX."""

import contextlib
import math
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import IO

from rsmatch_jax.runtime.stopping import ECHO
from rsmatch_jax.terminal import duration, say

ROOT = os.path.dirname(  # of this package: the repository, or a site-packages
    os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
)


def environ_with_package(added: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns the environment of a child that imports the same rsmatch_jax."""
    paths = [ROOT, os.environ.get("PYTHONPATH", "")]
    python_path = os.pathsep.join(filter(None, paths))
    return {**os.environ, "PYTHONPATH": python_path, **(added or {})}


def run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    core: int | None = None,
    seconds: float | None = None,
    patience: float | None = None,
    stdout: IO | None = None,
    stderr: IO | int | None = None,
) -> int:
    """Runs a command to its end and returns its exit code, negative for a signal.

    Args:
        environment: variables to set beside those of this process.
        core: the only CPU core that the child may use.
        seconds: time limit or infinity; then the child and all its children are killed.
        patience: seconds that the child has to save and end after the time limit, or
            after Ctrl-C here; a second Ctrl-C kills it. None: it is killed at once.
        stdout, stderr: files for its output; None = those of this process.
    """
    # In another session, a terminal's Ctrl-C reaches the child only through this one.
    new_session = seconds is not None or patience is not None
    process = subprocess.Popen(
        command,
        env=environ_with_package(environment),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=new_session,
    )
    try:
        if core is not None:  # at once: later threads inherit it, earlier ones do not
            os.sched_setaffinity(process.pid, {core})
        return process.wait(None if seconds == math.inf else seconds)
    except subprocess.TimeoutExpired:
        if patience is None:
            return -signal.SIGKILL
        _stop(process, patience)
        return process.returncode
    except KeyboardInterrupt:
        if patience is not None:
            _stop(process, patience)
        raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            if new_session:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        process.wait()


def output(command: Sequence[str], **kwargs) -> tuple[int, str]:
    """Runs a command as `run` does; returns its exit code and its stdout."""
    with tempfile.TemporaryFile("w+") as file:
        code = run(command, stdout=file, **kwargs)
        file.seek(0)
        return code, file.read()


def _stop(process: subprocess.Popen, patience: float):
    """Asks a child to save and end. After `patience` a second signal ends it at once,
    with its children; what ignores that, or a second Ctrl-C, kills it."""
    say(f"stopping what is under way, which has {duration(patience)} to save itself")
    process.terminate()
    begin, twice = time.monotonic(), False
    while process.poll() is None:
        try:
            process.wait(max(0.0, begin + patience - time.monotonic()))
        except subprocess.TimeoutExpired:
            if twice:
                process.kill()
            process.terminate()
            patience, twice = patience + 2 * ECHO, True
        except KeyboardInterrupt:
            # One Ctrl-C may arrive twice, from the terminal and from a parent.
            if time.monotonic() - begin > ECHO:
                process.kill()
