"""Lines, progress and tables on the terminal, and the flags of commands. Without JAX,
because the commands that need PyTorch use it."""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Sequence

from rsmatch_jax.errors import RequestError, exit_code

REPORT_SECONDS = 5.0


def say(text: str = ""):
    """Prints a line for the user at once; goes on in silence if nobody reads any more
    (a closed terminal, a pipe into an ended command)."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Parser(argparse.ArgumentParser):
    """The flags of a command; a wrong or abbreviated flag raises RequestError."""

    def __init__(self, module: str, description: str | None):
        """module: dotted, below rsmatch_jax. description: the module's docstring."""
        super().__init__(
            prog=f"python -m rsmatch_jax.{module}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str):
        raise RequestError(f"{message}\n{self.format_usage().strip()}")


def run_command(
    parser: Parser,
    argv: Sequence[str] | None,
    command: Callable[[argparse.Namespace], None],
    go_on: str,
    *,
    resumable: bool = False,
) -> int:
    """Parses argv and runs the command by `errors.exit_code`; returns its exit code."""
    return exit_code(
        lambda: command(parser.parse_args(argv)), go_on, resumable=resumable
    )


class Progress:
    """Prints every few seconds how far a loop is, its speed, and when it ends."""

    def __init__(
        self,
        name: str,
        unit: str,
        total: int,
        say: Callable[[str], None],
        first: int = 0,
        *,
        last_line: bool = True,
    ):
        """first: the number that an earlier process has done. last_line: whether the
        end is worth a line however soon it comes."""
        self._last_line = last_line
        self._name, self._unit, self._total, self._say = name, unit, total, say
        self._first = self._done = first
        self._start = self._printed = time.monotonic()

    def advance(self, n: int, detail: Callable[[], str] = lambda: ""):
        """Counts n; calls `detail` for the end of the line, only when one is due."""
        self._done += n
        now = time.monotonic()
        is_last = self._last_line and self._done >= self._total
        if not is_last and now - self._printed < REPORT_SECONDS:
            return
        text = detail()  # may wait for the device, so it comes before the time
        self._printed = time.monotonic()
        passed = max(self._printed - self._start, 1e-9)
        rate = (self._done - self._first) / passed
        self._say(
            f"{self._name} {self._done}/{self._total} {self._unit}, {rate:.1f}/s, "
            f"{(self._total - self._done) / rate:.0f} s left"
            + (f", {text}" if text else "")
        )

    def skip_to(self, done: int):
        """Counts up to `done`, at no time, because an earlier process did it."""
        self._first += max(0, done - self._done)
        self._done = max(done, self._done)


def table(
    head: Sequence[str], lines: Sequence[Sequence[str]], *, numbers: bool = False
) -> str:
    """Returns a table; numbers: aligns all columns but the first to the right."""
    columns = []
    for i, cells in enumerate(zip(head, *lines, strict=True)):
        width, right = max(3, *map(len, cells)), numbers and i > 0
        first, *others = (c.rjust(width) if right else c.ljust(width) for c in cells)
        rule = "-" * (width - 1) + (":" if right else "-")
        columns.append([first, rule, *others])
    return "\n".join(f"| {' | '.join(row)} |" for row in zip(*columns, strict=True))


def seconds(minutes: float | None) -> float:
    """Returns the seconds of --minutes, infinite for None; raises RequestError unless
    it is a positive number."""
    if minutes is None:
        return math.inf
    if not 0 < minutes < math.inf:
        raise RequestError(f"--minutes={minutes:g}: a positive number, such as 9")
    return 60.0 * minutes


def duration(seconds: float) -> str:
    """Returns a duration such as 2h05m or 3m07s."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"
