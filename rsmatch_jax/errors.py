"""Exceptions whose message is for the user, and what a command ends with."""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable


class RequestError(ValueError):
    """A user's mistake: a key, path or value that cannot work.

    The message names the key, the value and the way out. Entry points print it
    without a traceback and exit with code 2.
    """


class RunFailed(RuntimeError):
    """A run cannot go on, for a reason that is no programming error. Exit code 1."""


STOPPED = 75  # by a signal, after saving


def exit_code(
    command: Callable[[], None], go_on: str, *, resumable: bool = False
) -> int:
    """Runs a command: 0 done, 1 it failed, 2 the request was wrong.

    go_on: what the user may do after a failure or Ctrl-C. resumable: the same command
    goes on where it was; then SIGTERM ends it as Ctrl-C does, with STOPPED. A traceback
    is shown only for what nobody foresaw.
    """
    try:
        with _terminated_as_interrupted() if resumable else contextlib.nullcontext():
            command()
        sys.stdout.flush()
    except RequestError as e:
        sys.stderr.write(f"error: {e}\n")
        return 2
    except RunFailed as e:
        sys.stderr.write(f"error: {e}\n")
        return 1
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"\ninterrupted; {go_on}\n")
        return STOPPED if resumable else 1
    except Exception:
        traceback.print_exc()
        sys.stderr.write(f"error: it failed as said above; {go_on}\n")
        return 1
    return 0


@contextlib.contextmanager
def _terminated_as_interrupted():
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
