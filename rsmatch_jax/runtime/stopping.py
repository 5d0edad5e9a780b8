"""SIGTERM, SIGINT (Ctrl-C) and SIGHUP: the first asks for a stop after the step under
way, the second ends the process at once.

Python's own handlers run between two of its instructions, which may be a minute away
while XLA compiles, and JAX drops an exception that one raises in a callback. So the
signals are read by a thread (signal.set_wakeup_fd), and handlers do nothing.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

from rsmatch_jax.errors import STOPPED

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
AT_ONCE = 1  # exit code where something was not saved
# One signal may come twice: to all of a group, and passed on by who started us.
ECHO = 1.0  # seconds


class Stop:
    """Whether the run was asked to stop. As long as nothing is to be saved, the first
    signal ends the process, whatever is under way."""

    def __init__(self):
        self._asked = threading.Event()
        self._since = 0.0
        self._lock = threading.Lock()
        self._leave: Callable[[], None] | None = lambda: None

    def due(self) -> bool:
        """True from the first signal on."""
        return self._asked.is_set()

    def to_save(self) -> contextlib.AbstractContextManager[None]:
        """Within the block whoever asks `due` ends the run, not the signal."""
        return self._leaving(None)

    def nothing_to_save(
        self, leave: Callable[[], None]
    ) -> contextlib.AbstractContextManager[None]:
        """Within the block a signal ends the process after a call of `leave`."""
        return self._leaving(leave)

    def ask(self, name: str):
        """What the thread does with a signal. name: such as SIGTERM."""
        with self._lock:
            now = time.monotonic()
            if self._asked.is_set() and now - self._since < ECHO:
                return
            if self._asked.is_set():
                _tell(f"{name} again: ended at once; what was saved before is sound")
                os._exit(AT_ONCE)
            self._asked.set()
            self._since = now
            if self._leave is not None:
                with contextlib.suppress(Exception):  # last words, as on a full disk
                    self._leave()
                    sys.stdout.flush()
                _tell(f"{name}: stopped; nothing new was to be saved")
                os._exit(STOPPED)
            _tell(f"{name}: stopping after this step; once more ends it at once")

    @contextlib.contextmanager
    def _leaving(self, leave: Callable[[], None] | None) -> Iterator[None]:
        with self._lock:  # while `ask` leaves, nobody comes past here any more
            before, self._leave = self._leave, leave
        try:
            yield
        finally:
            with self._lock:
                self._leave = before


@contextlib.contextmanager
def on_signals() -> Iterator[Stop]:
    """Lets signals ask for a stop within the block. For the main thread.

    One that is ignored stays so, as SIGINT in a job that a shell runs in the background
    and SIGHUP under nohup.
    """
    stop = Stop()
    numbers = [n for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    wakeup_before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    before = {n: signal.signal(n, lambda *_: None) for n in numbers}
    reader = threading.Thread(target=_read, args=(read_end, stop), daemon=True)
    reader.start()
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup_before)
        os.close(write_end)  # the reader sees the end
        reader.join()


def _read(descriptor: int, stop: Stop):
    with open(descriptor, "rb", buffering=0) as file:
        while number := file.read(1):
            if number[0] in SIGNALS:
                stop.ask(signal.Signals(number[0]).name)


def _tell(text: str):
    # Unbuffered: the main thread may hold the lock of sys.stderr.
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())
