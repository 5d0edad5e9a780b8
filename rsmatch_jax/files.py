"""Locks between processes. The system gives one back however its holder ends."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from typing import IO

from rsmatch_jax.errors import RequestError

# Whoever only asks whether a lock is free holds it for a moment.
_GLANCE = 0.1  # seconds


def take(file: IO) -> bool:
    """Whether the lock of an open file is this process's now, until that is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait(file: IO):
    """Takes the lock of an open file once nobody holds it."""
    fcntl.flock(file, fcntl.LOCK_EX)


@contextlib.contextmanager
def held(path: str, taken: str) -> Iterator[None]:
    """Holds the lock of a file, which is made.

    Raises: RequestError with the message `taken` where another process holds it,
    OSError where no such file can be.
    """
    with open(path, "w") as file:
        if not take(file):
            time.sleep(_GLANCE)
            if not take(file):
                raise RequestError(taken)
        yield


def default_cache_dir(cache_dir: str | None) -> str:
    """`cache_dir`, or rsmatch_jax below $XDG_CACHE_HOME or ~/.cache."""
    if not cache_dir:
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        cache_dir = os.path.join(home, "rsmatch_jax")
    return os.path.abspath(os.path.expanduser(cache_dir))
