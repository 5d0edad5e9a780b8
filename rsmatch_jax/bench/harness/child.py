"""Benches in processes of their own: on one core, with other devices, started cold.

A process that fails, or that is killed for its time, takes nothing with it.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

from rsmatch_jax.engine import config_file
from rsmatch_jax.errors import RequestError, RunFailed


def run(
    name: str,
    flags: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    core: int | None = None,
    seconds: float | None = None,
) -> int:
    """Runs `python -m rsmatch_jax.bench name flags` here; it writes to our terminal.

    environment: variables to set beside ours. core: the only one that it may use.
    seconds: after which it is killed, with all that it has started.

    Returns its exit code, negative for the signal that ended it.
    """
    paths = [config_file.ROOT, os.environ.get("PYTHONPATH", "")]
    own = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), **(environment or {})}
    with _pinned(core):  # a new process inherits it, before it has any thread
        process = subprocess.Popen(
            [sys.executable, "-m", "rsmatch_jax.bench", name, *flags],
            env={**os.environ, **own},
            start_new_session=seconds is not None,
        )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return -signal.SIGKILL
    finally:  # also where we are interrupted
        with contextlib.suppress(ProcessLookupError):
            if seconds is None:  # of our own group: ends with us
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def must(code: int, what: str):
    """Raises what the child's exit code means, where it is not 0; it has said why."""
    if code == 2:
        raise RequestError(f"{what} refuses the request, see above")
    if code:
        raise RunFailed(f"{what} ended with {code}")


@contextlib.contextmanager
def _pinned(core: int | None) -> Iterator[None]:
    if core is None:
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})  # of this thread alone
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
