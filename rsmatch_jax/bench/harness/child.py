"""Runs benches in child processes: on one core, with other devices, started cold."""

import sys
from collections.abc import Mapping, Sequence

from rsmatch_jax.errors import RequestError, RunFailed
from rsmatch_jax.runtime import child

MARKER = "RSMATCH_BENCH_CHILD"  # holds the bench's name in the process of `rerun`


def run(name: str, flags: Sequence[str], **kwargs) -> int:
    """Runs `python -m rsmatch_jax.bench name flags`; kwargs: of `runtime.child.run`."""
    command = [sys.executable, "-m", "rsmatch_jax.bench", name, *flags]
    return child.run(command, **kwargs)


def rerun(
    name: str,
    flags: Sequence[str],
    environment: Mapping[str, str] | None = None,
    core: int | None = None,
):
    """Runs the bench again in a child, which measures and writes the results."""
    variables = {MARKER: name, **(environment or {})}
    code = run(name, flags, environment=variables, core=core)
    require_success(code, f"the child process of bench {name}")


def require_success(code: int, what: str):
    """Raises RequestError for exit code 2, RunFailed for others but 0. The child has
    printed the reason."""
    if code == 2:
        raise RequestError(f"{what} refuses the request, see above")
    if code:
        raise RunFailed(f"{what} ended with {code}")
