"""SIGTERM to one of several processes stops all of them after the same step.

JAX has such a function (reached_preemption_sync_point), but Orbax calls it with other
step numbers, and two callers break its count.
"""

import contextlib
import math
import signal
import threading
from collections.abc import Callable, Iterator

import jax

from rsmatch_jax.runtime import hosts

POLL = 0.5  # seconds between two checks whether another process got a signal
_KEY = "rsmatch_jax/stop"


class Stop:
    """`stopping.Stop` for several processes, which call `due` equally often.

    After a signal each process publishes its number of calls and waits for the numbers
    of the others. All stop at the first call that none of them has made yet.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._calls, self._last = 0, math.inf
        self._signalled, self._ended = False, threading.Event()

    def due(self) -> bool:
        """Returns True from one call on, the same call on every process."""
        with self._lock:
            self._calls += 1
            return self._calls >= self._last

    def to_save(self) -> contextlib.AbstractContextManager[None]:
        """Does nothing; as in `stopping.Stop`."""
        return contextlib.nullcontext()

    def nothing_to_save(
        self, leave: Callable[[], None]
    ) -> contextlib.AbstractContextManager[None]:
        """Does nothing: all processes stop together, after the next dispatch."""
        del leave
        return contextlib.nullcontext()

    def request(self):
        """Requests a stop; a signal handler may call it."""
        self._signalled = True

    def agree(self):
        """Waits until `end` for a signal to any process, then fixes when to stop."""
        while not self._ended.wait(POLL):
            try:
                if self._signalled:
                    hosts.client().key_value_set(_KEY, "", allow_overwrite=True)
                hosts.client().key_value_try_get(_KEY)
            except jax.errors.JaxRuntimeError:  # no process got a signal
                continue
            with self._lock:
                self._publish()
                numbers = range(hosts.num_processes())
                calls = [int(hosts.get(f"{_KEY}/{p}")) for p in numbers]
                self._last = max(calls) + 1
            return

    def end(self):
        """Ends `agree`; `due` is not called any more."""
        self._ended.set()
        # A process that gets a signal now would wait for this one's number.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._publish()

    def _publish(self):
        key = f"{_KEY}/{hosts.index()}"
        hosts.client().key_value_set(key, str(self._calls), allow_overwrite=True)


@contextlib.contextmanager
def on_signals() -> Iterator[Stop]:
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
