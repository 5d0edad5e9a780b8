"""The parent of one of several processes of a run. It never imports JAX.

When a process dies, JAX aborts the others from C++, where no Python code can explain it
or choose the exit code. So a small parent passes signals on and explains an abort.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from rsmatch_jax.errors import STOPPED, handled_by
from rsmatch_jax.runtime import child, stopping
from rsmatch_jax.runtime.stopping import ECHO, SIGNALS

MARK = "RSMATCH_JAX_PARENT"  # in the child's environment: PID:FILE_DESCRIPTOR
EXPLAINED = (0, 1, 2, STOPPED)  # exit codes for which the child prints a message
ANSWER = 5.0  # seconds after a signal until the parent says what it waits for
WATCH = 1.0  # seconds between two checks whether the parent lives
GO_ON = "The same command on all hosts goes on from the last checkpoint"
REASONS = {
    signal.SIGABRT: " (JAX does that if another process of the run does not answer any "
    "more; the message of that process says why)",
    signal.SIGKILL: " (the system does that if memory is short)",
}


def is_child() -> bool:
    """Whether this process was started by `supervise`."""
    return MARK in os.environ


def tell(word: str):
    """Tells the parent what this child is doing, for its message after an abort."""
    if is_child():
        os.write(int(os.environ[MARK].split(":")[1]), f"{word}\n".encode())


def supervise(command: Sequence[str], name: str) -> int:
    """Runs a command as a child and returns its exit code. For the main thread.

    SIGNALS reach the child as SIGTERM; a second one kills it. The codes EXPLAINED pass
    through; any other becomes 1 with a message about this process, `name`.
    """
    stop, (read_end, write_end) = _Stop(), os.pipe()
    with handled_by(stop, SIGNALS), os.fdopen(read_end, "rb", buffering=0) as lines:
        mark = {MARK: f"{os.getpid()}:{write_end}"}
        stop.process = process = subprocess.Popen(
            command,
            env=child.environ_with_package(mark),
            stdin=subprocess.DEVNULL,
            pass_fds=(write_end,),
            # A terminal's Ctrl-C reaches the child once, through this process.
            start_new_session=True,
        )
        os.close(write_end)
        if stop.signals:  # a signal came before there was a child
            process.terminate()
        code = process.wait()
        os.set_blocking(read_end, False)  # the child's children may hold the other end
        last = (lines.read(2**16) or b"").decode().splitlines()[-1:]
    if code in EXPLAINED:
        return code
    sys.stdout.flush()
    if stop.signals > 1:
        sys.stderr.write(f"error: {name} was killed by a second signal. {GO_ON}\n")
        return 1
    if code == -signal.SIGTERM and stop.signals:
        sys.stderr.write(f"\n{name} was stopped before its first step. {GO_ON}\n")
        return STOPPED
    ending = f"exit code {code}"
    if code < 0:
        number = signal.Signals(-code)
        ending = number.name + REASONS.get(number, "")
    at = f" while {last[0]}" if last and last[0] else ""
    sys.stderr.write(f"error: {name} ended with {ending}{at}. {GO_ON}\n")
    return 1


def obey():
    """Lets this child end when its parent does, and ignore Ctrl-C. Call it first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = int(os.environ[MARK].split(":")[0])
    watch = threading.Thread(target=_end_with, args=(parent,), daemon=True)
    watch.start()


class _Stop:
    """Passes the signals of the parent on to the child."""

    def __init__(self):
        self.signals, self._since = 0, 0.0
        self.process: subprocess.Popen | None = None

    def __call__(self, number: int, frame: object):
        del number, frame
        now = time.monotonic()
        if self.signals and now - self._since < ECHO:
            return
        self.signals, self._since = self.signals + 1, now
        if self.signals == 1:
            answer = threading.Timer(ANSWER, self._answer)
            answer.daemon = True
            answer.start()
        if self.process is not None and self.signals == 1:
            self.process.terminate()
        elif self.process is not None:
            self.process.kill()

    def _answer(self):
        if self.process is not None and self.process.returncode is None:
            text = (
                "stopping with the other processes, after the compilation or the steps"
            )
            stopping.write(f"{text} under way; a second signal ends this one at once")


def _end_with(parent: int):
    # The kernel gives an orphan another parent, with another number.
    while os.getppid() == parent:
        time.sleep(WATCH)
    os._exit(1)
