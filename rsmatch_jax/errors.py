"""Exceptions whose message is for the user, and the exit code of a command."""

import contextlib
import difflib
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any


class RequestError(ValueError):
    """A user's mistake, exit code 2; the message names key, value and the way out."""


class RunFailed(RuntimeError):
    """A run cannot go on, and no programming error is the reason. Exit code 1."""


class NotNow(RunFailed):
    """What may go well at the next start, such as reading from a busy disk."""


class Unfinished(RuntimeError):
    """The time of a resumable command is up, and what it has is saved. Exit code 75."""


STOPPED = 75  # exit code of what a signal or a time limit stopped after it was saved


def one_line(error: BaseException, limit: int = 200) -> str:
    """Returns an error's message on one line of at most `limit` characters, without its
    middle: XLA's and Orbax's run over pages, and the end may hold the reason."""
    # The text of a KeyError is the representation of its message, with quotes.
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    text = " ".join(str(message).split()) or type(error).__name__
    half = (limit - 5) // 2
    return text if len(text) <= limit else f"{text[:half]} ... {text[-half:]}"


def suggestion(word: str, known: Iterable[str]) -> str:
    """Returns " (did you mean 'x'?)", "" if no known word is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def with_flags(message: str, flags: Mapping[str, str]) -> str:
    """Returns a message about a config's keys of `data` in the words of a command.

    Args:
        flags: {key: flag}. A path that has such a name in it stays.
    """
    for key, flag in flags.items():
        named = rf"(?<![\w/.])(--config\.)?data\.{key}(?![\w/])"
        message = re.sub(named, flag, message)
    return message


def exit_code(
    command: Callable[[], None], go_on: str, *, resumable: bool = False
) -> int:
    """Runs a command; returns 0: done, 1: failed, 2: a wrong request, 75: resumable.

    Args:
        go_on: what the user can do after a failure or Ctrl-C.
        resumable: the same command continues where it stopped. Then SIGTERM and SIGHUP
            end it as Ctrl-C does, with exit code 75; ignored ones stay ignored, as
            SIGHUP under nohup.
    """
    open_streams()
    try:
        with _as_ctrl_c() if resumable else contextlib.nullcontext():
            command()
        sys.stdout.flush()
    except (RequestError, RunFailed) as e:
        sys.stderr.write(f"error: {e}\n")
        return 2 if isinstance(e, RequestError) else 1
    except Unfinished as e:
        sys.stderr.write(f"{e}; {go_on}\n")
        return STOPPED
    except BrokenPipeError:  # the reader of stdout, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as e:
        sys.stderr.write(f"error: {e}; {go_on}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"\ninterrupted; {go_on}\n")
        return STOPPED if resumable else 1
    except Exception:
        traceback.print_exc()
        sys.stderr.write(f"error: the command failed, see above; {go_on}\n")
        return 1
    return 0


def open_streams():
    """Gives a process that began without stdout or stderr (`2>&-`) one that nobody
    reads. For commands."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (for good)


@contextlib.contextmanager
def handled_by(
    handler: Callable[[int, Any], object], numbers: Iterable[int]
) -> Generator[None]:
    """Calls `handler` for some signals within the block. Ignored ones stay ignored:
    SIGINT in a shell's background job, SIGHUP under nohup."""
    heard = [n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN]
    before = {n: signal.signal(n, handler) for n in heard}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _as_ctrl_c() -> contextlib.AbstractContextManager[None]:
    return handled_by(signal.default_int_handler, (signal.SIGTERM, signal.SIGHUP))
