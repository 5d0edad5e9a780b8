"""SIGTERM to one of several processes stops all of them after the same step.

JAX has such a function (reached_preemption_sync_point), but Orbax calls it with other
step numbers, and two callers break its count.
"""

import contextlib
import math
import signal
import threading
from collections.abc import Callable, Generator

import jax

from rsmatch_jax.runtime import hosts, stopping

POLL = 0.5  # seconds between two checks whether another process got a signal
_SIGNAL = f"{hosts.KEY}/signal"  # is in the shared store once a process got one
_CALLS = "calls of due"


class Stop(stopping.Stop):
    """The Stop of several processes, which call `due` equally often.

    After a signal each publishes how often it has called `due`. All stop at the first
    call that none of them has made yet.
    """

    def __init__(self):
        super().__init__()
        self._calls, self._last = 0, math.inf
        self._signalled, self._ended = False, threading.Event()

    def due(self) -> bool:
        """Returns True from one call on, the same call on every process."""
        with self._lock:
            self._calls += 1
            return self._calls >= self._last

    @contextlib.contextmanager
    def at_signal(
        self,
        leave: Callable[[], object] | None,
        after: Callable[[], str] = lambda: "",
    ) -> Generator[None]:
        """Does nothing: all processes stop together, after the next dispatch."""
        del leave, after
        yield

    def request(self, name: str = "SIGTERM"):
        """Requests a stop; a signal handler may call it."""
        self._signalled = True

    def agree(self):
        """Waits until `end` for a signal to any process, then fixes when to stop."""
        while not self._ended.wait(POLL):
            try:
                if self._signalled:
                    hosts.client().key_value_set(_SIGNAL, "", allow_overwrite=True)
                hosts.client().key_value_try_get(_SIGNAL)
            except jax.errors.JaxRuntimeError:  # no process got a signal
                continue
            with self._lock:
                self._publish()
                self._last = max(map(int, hosts.published(_CALLS))) + 1
            return

    def end(self):
        """Ends `agree`; `due` is not called any more."""
        self._ended.set()
        # A process that gets a signal now would wait for this one's number.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._publish()

    def _publish(self):
        hosts.publish(_CALLS, str(self._calls), overwrite=True)


@contextlib.contextmanager
def on_signals() -> Generator[Stop]:
    """Yields a Stop for SIGTERM in the main thread, after `hosts.start`."""
    stop = Stop()
    before = signal.signal(signal.SIGTERM, lambda *_: stop.request())
    thread = threading.Thread(target=stop.agree, daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        stop.end()
        thread.join(10 * POLL)  # it never ends if it waits for a dead process
        signal.signal(signal.SIGTERM, before)
