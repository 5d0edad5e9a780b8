"""The parent of one of several processes of a run.

When a process of a run dies, JAX aborts the others from C++, where no Python can say
what happened or choose the exit code. So each process of several is the child of a
small one that can: it passes signals on and exit codes back, and puts an abort into
words. It never imports JAX.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

from rsmatch_jax.errors import STOPPED
from rsmatch_jax.runtime.stopping import ECHO

MARK = "RSMATCH_JAX_PARENT"  # in the child's environment: PID:FILE_DESCRIPTOR
ENDINGS = (0, 1, 2, STOPPED)  # exit codes behind which stands a message of the child's
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
WATCH = 1.0  # seconds between two looks at the parent
GO_ON = "The same command on all hosts goes on from the last checkpoint"
REASONS = {
    signal.SIGABRT: "JAX does that where another process of the run does not answer "
    "any more: that one's own message says why",
    signal.SIGKILL: "the system does that where memory is short",
}


def is_child() -> bool:
    """Whether this process was started by `supervise`."""
    return MARK in os.environ


def tell(word: str):
    """In the child: what it is at, for the parent's message should it end there."""
    if is_child():
        os.write(int(os.environ[MARK].split(":")[1]), f"{word}\n".encode())


def supervise(program: str, arguments: Sequence[str], name: str) -> int:
    """Runs `program` (a Python file) with the arguments as a child; its exit code.

    name: this process in messages. SIGTERM, SIGINT and SIGHUP reach the child as
    SIGTERM; a second one kills it. Codes of the contract pass through, anything else
    is 1 with a message. Call it from the main thread.
    """
    stop, (words, told) = _Stop(), os.pipe()
    with stop.caught(), os.fdopen(words, "rb", buffering=0) as said:
        stop.child = child = subprocess.Popen(
            [sys.executable, program, *arguments],
            env={**os.environ, MARK: f"{os.getpid()}:{told}"},
            stdin=subprocess.DEVNULL,
            pass_fds=(told,),
            # A terminal's Ctrl-C reaches the child once, through here.
            start_new_session=True,
        )
        os.close(told)
        if stop.signals:  # before there was a child
            child.terminate()
        code = child.wait()
        os.set_blocking(words, False)  # a process of the child's may hold the other end
        last = (said.read(2**16) or b"").decode().splitlines()[-1:]
    if code in ENDINGS:
        return code
    sys.stdout.flush()
    if stop.signals > 1:
        sys.stderr.write(f"error: {name} was killed by a second signal. {GO_ON}\n")
        return 1
    if code == -signal.SIGTERM and stop.signals:
        sys.stderr.write(f"\n{name} was stopped before its first step. {GO_ON}\n")
        return STOPPED
    at = f" while {last[0]}" if last and last[0] else ""
    sys.stderr.write(f"error: {name} ended with {_ending(code)}{at}. {GO_ON}\n")
    return 1


def obey():
    """To be called first in the child: it ends when its parent does, and leaves Ctrl-C
    to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = int(os.environ[MARK].split(":")[0])
    watch = threading.Thread(target=_end_with, args=(parent,), daemon=True)
    watch.start()


class _Stop:
    """Signals of the parent, passed on."""

    def __init__(self):
        self.signals, self._since = 0, 0.0
        self.child: subprocess.Popen | None = None

    def __call__(self, number: int, frame: object):
        del number, frame
        now = time.monotonic()
        if self.signals and now - self._since < ECHO:
            return
        self.signals, self._since = self.signals + 1, now
        if self.child is not None:
            self.child.send_signal(
                signal.SIGTERM if self.signals == 1 else signal.SIGKILL
            )

    @contextlib.contextmanager
    def caught(self):
        # What is ignored stays so, such as SIGHUP under nohup.
        numbers = [n for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
        before = {n: signal.signal(n, self) for n in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    number = signal.Signals(-code)
    reason = REASONS.get(number)
    return number.name + (f" ({reason})" if reason else "")


def _end_with(
    parent: int, leave: Callable[[int], None] = os._exit, pause: float = WATCH
):
    # The kernel hands an orphan to another process: then the number differs.
    while os.getppid() == parent:
        time.sleep(pause)
    leave(1)
