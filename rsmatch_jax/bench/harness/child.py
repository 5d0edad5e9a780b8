"""Runs benches in child processes: on one core, with other devices, started cold."""

import sys
from collections.abc import Sequence

from rsmatch_jax.errors import RequestError, RunFailed
from rsmatch_jax.runtime import child

MARKER = "RSMATCH_BENCH_CHILD"  # holds the bench's name in the process of `rerun`


def run(name: str, flags: Sequence[str], **kwargs) -> int:
    """Runs `python -m rsmatch_jax.bench name flags`; kwargs: of `runtime.child.run`."""
    command = [sys.executable, "-m", "rsmatch_jax.bench", name, *flags]
    return child.run(command, **kwargs)


def rerun(name: str, flags: Sequence[str], **kwargs):
    """Runs a bench in a child, which measures and writes the results; see `run`."""
    kwargs["environment"] = {MARKER: name, **kwargs.get("environment", {})}
    require_success(name, run(name, flags, **kwargs))


def require_success(name: str, code: int):
    """Raises RequestError for a child's exit code 2, RunFailed for others but 0. The
    child has printed the reason."""
    if code == 2:
        raise RequestError(f"bench {name} refuses the request, see above")
    if code:
        raise RunFailed(f"the child process of bench {name} ended with {code}")
