"""Lines and tables on the terminal, and the flags of commands. Without JAX, because the
commands that need PyTorch use it."""

import argparse
import contextlib
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any

from rsmatch_jax import progress
from rsmatch_jax.errors import RequestError, exit_code, suggestion
from rsmatch_jax.progress import duration

PATIENCE = 10.0  # seconds after Ctrl-C in which a command ends by itself
__all__ = ["Parser", "counted", "duration", "home_expanded", "run_command"]
__all__ += ["say", "seconds", "show", "table"]


def say(text: str = ""):
    """Prints a line for the user at once, by `progress.note`."""
    progress.note(text, sys.stdout)


def show(text: str):
    """Prints a result for the user at once; unlike `say` it raises OSError if that
    cannot be written, such as to a full disk."""
    progress.line(text, sys.stdout)


class Parser(argparse.ArgumentParser):
    """The flags of a command; a wrong or abbreviated flag raises RequestError."""

    def __init__(self, command: str, description: str | None):
        """command: of `rsmatch`. description: its module's docstring."""
        super().__init__(
            prog=f"rsmatch {command}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str):
        raise RequestError(f"{message}\n{self.format_usage().strip()}")

    def parse_known_args(self, args=None, namespace=None):  # which all others call
        known = self._option_string_actions
        args = home_expanded(sys.argv[1:] if args is None else args)
        for word in args:
            flag = word.partition("=")[0]
            near = suggestion(flag, known)
            if flag.startswith("--") and flag not in known and near:
                raise RequestError(f"there is no {word}{near}")
        return super().parse_known_args(args, namespace)


def home_expanded(argv: Sequence[str]) -> list[str]:
    """Returns words in which a flag's value may begin with ~, which a shell leaves as
    it is after `=`."""
    flags = (re.match(r"(--[\w.]+=)(~.*)", word, re.DOTALL) for word in argv)
    return [
        flag[1] + os.path.expanduser(flag[2]) if flag else word
        for flag, word in zip(flags, argv, strict=True)
    ]


def run_command(
    parser: Parser,
    argv: Sequence[str] | None,
    command: Callable[[Any], None],
    go_on: str,
    *,
    resumable: bool = False,
    parse: Callable[[Sequence[str] | None], Any] | None = None,
) -> int:
    """Runs the command with what `parse`, by default `parser.parse_args`, returns of
    argv, by `errors.exit_code`; returns its exit code. Says what is under way."""

    def run():
        with progress.live(parser.prog.partition(" ")[2]), _answered(go_on, resumable):
            command((parse or parser.parse_args)(argv))

    return exit_code(run, go_on, resumable=resumable)


@contextlib.contextmanager
def _answered(go_on: str, resumable: bool) -> Generator[None]:
    """Answers Ctrl-C within PATIENCE seconds. Python raises KeyboardInterrupt only
    between two instructions, so not while a compiler works. For the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ended, (read_end, write_end) = threading.Event(), os.pipe()
    os.set_blocking(write_end, False)

    def watch():
        with open(read_end, "rb", buffering=0) as signals:
            while number := signals.read(1):
                if number[0] not in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    continue
                if ended.wait(PATIENCE):
                    return
                if not resumable:  # and so nothing is to be saved
                    os.write(2, f"\ninterrupted; {go_on}\n".encode())
                    os._exit(1)
                os.write(2, b"\nstopping, once what is under way lets go\n")

    before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        os.close(write_end)  # the thread sees the end


def leave(code: int):
    """Ends the process at once. Python's end takes ten seconds on a slow CPU once
    TensorFlow is loaded, and all files of a command are closed before."""
    jax = sys.modules.get("jax")
    if jax is not None and jax.distributed.is_initialized():
        sys.exit(code)  # so that JAX leaves the other processes of a run
    with contextlib.suppress(OSError, ValueError):  # nobody reads any more
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def counted(number: int, one: str) -> str:
    """Returns a number and its noun: 1 step, 2 steps, 3 dispatches."""
    ending = "es" if one.endswith(("s", "x", "ch", "sh")) else "s"
    return f"{number} {one}{ending if number != 1 else ''}"


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
