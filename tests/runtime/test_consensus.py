"""Several processes stop at the same call, which none of them has made yet."""

import threading

import jax
import pytest

from rsmatch_jax.runtime import consensus, hosts


class Store:
    """The key-value store of the runtime, for threads instead of processes."""

    def __init__(self):
        self.values, self.changed = {}, threading.Condition()

    def key_value_set(self, key, value, allow_overwrite=False):
        with self.changed:
            assert allow_overwrite or key not in self.values
            self.values[key] = value
            self.changed.notify_all()

    def key_value_try_get(self, key):
        if key not in self.values:
            raise jax.errors.JaxRuntimeError("NOT_FOUND")
        return self.values[key]

    def blocking_key_value_get(self, key, milliseconds):
        with self.changed:
            assert self.changed.wait_for(lambda: key in self.values, timeout=20)
        return self.values[key]


@pytest.fixture(autouse=True)
def store(monkeypatch):
    store = Store()
    monkeypatch.setattr(consensus, "POLL", 0.01)
    monkeypatch.setattr(hosts, "client", lambda: store)


@pytest.mark.parametrize("signalled", [[0], [2], [0, 1, 2]])
def test_all_stop_at_the_first_time_to_come(signalled, monkeypatch):
    monkeypatch.setattr(hosts, "num_processes", lambda: 3)
    monkeypatch.setattr(hosts, "index", lambda: int(threading.current_thread().name))
    stops = [consensus.Stop() for _ in range(3)]
    for stop, times in zip(stops, (4, 7, 5), strict=True):
        assert not any(stop.due() for _ in range(times))
    threads = [
        threading.Thread(target=stop.agree, name=str(i)) for i, stop in enumerate(stops)
    ]
    for thread in threads:
        thread.start()
    assert not stops[0].due()  # the fifth call; there was no signal
    for i in signalled:
        stops[i].request()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    for stop, times in zip(stops, (5, 7, 5), strict=True):
        answers = [stop.due() for _ in range(times + 1, 11)]
        assert answers == [n >= 8 for n in range(times + 1, 11)]


def test_ends_without_a_signal():
    before = threading.active_count()
    with consensus.on_signals() as stop:
        assert not stop.due()
    assert threading.active_count() == before


def test_nobody_waits_for_one_that_has_ended(monkeypatch):
    monkeypatch.setattr(hosts, "num_processes", lambda: 2)
    monkeypatch.setattr(hosts, "index", lambda: 1)
    with consensus.on_signals() as ended:
        assert not ended.due()
    monkeypatch.setattr(hosts, "index", lambda: 0)
    stop = consensus.Stop()
    stop.request()
    thread = threading.Thread(target=stop.agree)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert stop.due() is False and stop.due() is True
