"""The first SIGTERM, Ctrl-C or SIGHUP stops a run after the step, a second at once.

A thread reads the signals, and the handlers do nothing: Python runs a handler between
two instructions, a minute late if XLA compiles, and JAX drops what it raises.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator

from rsmatch_jax.errors import STOPPED, handled_by

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
AT_ONCE = 1  # exit code if something was not saved
# One signal may come twice: from the terminal, and passed on by a parent.
ECHO = 1.0  # seconds


class Stop:
    """Whether a run has to stop."""

    def __init__(self):
        self._requested = threading.Event()
        self._since = 0.0
        self._lock = threading.Lock()
        self._leave: Callable[[], object] | None = lambda: None
        self._after: Callable[[], str] = lambda: "this step"

    def due(self) -> bool:
        """Returns True from the first signal on."""
        return self._requested.is_set()

    @contextlib.contextmanager
    def at_signal(
        self,
        leave: Callable[[], object] | None,
        after: Callable[[], str] = lambda: "this step",
    ) -> Generator[None]:
        """Within the block a signal calls `leave` and ends the process; None: there is
        something to save, and it only makes `due` true. after: says what the stop then
        waits for, called in the thread that reads the signals."""
        with self._lock:  # waits for ever while `request` ends the process
            before = self._leave, self._after
            self._leave, self._after = leave, after
        try:
            yield
        finally:
            with self._lock:
                self._leave, self._after = before

    def request(self, name: str):
        """Handles a signal, in the thread that reads them. name: such as SIGTERM."""
        with self._lock:
            now = time.monotonic()
            if self._requested.is_set():
                if now - self._since < ECHO:
                    return
                write(f"{name} again: ended at once; what was saved before is sound")
                os._exit(AT_ONCE)
            self._requested.set()
            self._since = now
            if self._leave is not None:
                with contextlib.suppress(Exception):  # such as a full disk
                    self._leave()
                    sys.stdout.flush()
                write(f"{name}: stopped; there was nothing new to save")
                os._exit(STOPPED)
            after = self._after()
            write(f"{name}: stopping after {after}; a second signal ends it at once")


@contextlib.contextmanager
def on_signals() -> Generator[Stop]:
    """Yields a Stop that SIGNALS request within the block. For the main thread."""
    stop = Stop()
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    wakeup_before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    reader = threading.Thread(target=_read, args=(read_end, stop), daemon=True)
    try:
        with handled_by(lambda *_: None, SIGNALS):
            reader.start()
            yield stop
    finally:
        signal.set_wakeup_fd(wakeup_before)
        os.close(write_end)  # the reader sees the end
        reader.join()


def _read(descriptor: int, stop: Stop):
    with open(descriptor, "rb", buffering=0) as file:
        while number := file.read(1):
            if number[0] in SIGNALS:
                stop.request(signal.Signals(number[0]).name)


def write(text: str):
    """Writes a line to stderr at once, from any thread or handler of a signal."""
    # Unbuffered: the main thread may hold the lock of sys.stderr.
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())
