"""Benches in processes of their own: on one core, with other devices, started cold."""

import sys
from collections.abc import Sequence

from rsmatch_jax.errors import RequestError, RunFailed
from rsmatch_jax.runtime import child


def run(name: str, flags: Sequence[str], **kwargs) -> int:
    """Runs `python -m rsmatch_jax.bench name flags` on this terminal.

    kwargs: see `runtime.child.run`. Returns its exit code, negative for a signal.
    """
    command = [sys.executable, "-m", "rsmatch_jax.bench", name, *flags]
    return child.run(command, **kwargs)


def require_success(code: int, what: str):
    """Raises the error that a child's exit code stands for; the child has said why.

    Raises:
        RequestError: the code is 2.
        RunFailed: any other code but 0.
    """
    if code == 2:
        raise RequestError(f"{what} refuses the request, see above")
    if code:
        raise RunFailed(f"{what} ended with {code}")
