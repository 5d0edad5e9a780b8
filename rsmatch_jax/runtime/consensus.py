"""SIGTERM to one of several processes stops all of them after the same step.

JAX has an agreement of this kind (reached_preemption_sync_point), but Orbax asks it as
well, with numbers of its own, and then neither finds out.
"""

import contextlib
import math
import signal
import threading
from collections.abc import Callable, Iterator

import jax

from rsmatch_jax.runtime import hosts

POLL = 0.5  # seconds between two looks whether another process has had a signal
_KEY = "rsmatch_jax/stop"


class Stop:
    """`stopping.Stop` of several processes, each of which asks equally often.

    When one has had a signal, each says how often it has asked, and does not go on
    before it knows from the others which time to come is the first that none of them
    has passed: then all stop.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._asked, self._last = 0, math.inf
        self._signalled, self._ended = False, threading.Event()

    def due(self) -> bool:
        """From some time on always True, the same time on every process."""
        with self._lock:
            self._asked += 1
            return self._asked >= self._last

    def to_save(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def nothing_to_save(
        self, leave: Callable[[], None]
    ) -> contextlib.AbstractContextManager[None]:
        """No process can leave alone: all stop after the next dispatch."""
        del leave
        return contextlib.nullcontext()

    def ask(self):
        """What a signal does; may be called by a signal handler."""
        self._signalled = True

    def agree(self):
        """Waits for a signal to some process, and settles when to stop; until `end`."""
        while not self._ended.wait(POLL):
            try:
                if self._signalled:
                    hosts.client().key_value_set(_KEY, "", allow_overwrite=True)
                hosts.client().key_value_try_get(_KEY)
            except jax.errors.JaxRuntimeError:  # nobody has asked for it
                continue
            with self._lock:
                self._tell()
                numbers = range(hosts.num_processes())
                passed = [int(hosts.get(f"{_KEY}/{p}")) for p in numbers]
                self._last = max(passed) + 1
            return

    def end(self):
        """Ends `agree`, for who asks no more."""
        self._ended.set()
        # For others that have a signal now, and would wait for this one's number.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._tell()

    def _tell(self):
        key = f"{_KEY}/{hosts.index()}"
        hosts.client().key_value_set(key, str(self._asked), allow_overwrite=True)


@contextlib.contextmanager
def on_signals() -> Iterator[Stop]:
    """Lets SIGTERM ask for a stop within the block. For the main thread, after
    `hosts.start`."""
    stop = Stop()
    before = signal.signal(signal.SIGTERM, lambda *_: stop.ask())
    thread = threading.Thread(target=stop.agree, daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        stop.end()
        thread.join(10 * POLL)  # one that waits for a process that has gone ends never
        signal.signal(signal.SIGTERM, before)
