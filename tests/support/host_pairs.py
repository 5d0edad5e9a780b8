"""Runs of two processes with two CPU devices each, on this machine."""

import socket
import time

import jax
import numpy as np
import pytest
from support import processes, xla_flags
from support.helpers import BLOCKS, SMALL, config, leaves
from support.runs import lines, saved_state

from rsmatch_jax.engine import stages
from rsmatch_jax.runtime.stopping import Stop

COMMON = {
    **SMALL,
    **BLOCKS,
    "eval.every_steps": 1000,
    "checkpoint.every_steps": 4,
    "checkpoint.keep": 1000,
    "log.every_steps": 2,
    "method.threshold": 0.15,
}


def start(folder, keys, logs, *, second=None):
    """Starts the parents of two processes; each writes into logs/<number>.

    second: the workdir and the keys of process 1, if they differ.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags, pair = [f"--coordinator={address}", "--num_processes=2"], []
    options = {"xla_flags": xla_flags.with_devices(2)}
    for i, run in enumerate([(folder, keys), second or (folder, keys)]):
        log = logs / str(i)
        log.unlink(missing_ok=True)
        more = [*flags, f"--process_id={i}"]
        pair.append(processes.launch("common", *run, log, *more, **options))
    return pair


def wait_for(words, path, pair, seconds=200):
    deadline = time.monotonic() + seconds
    while words not in path.read_text():
        assert time.monotonic() < deadline, path.read_text()
        assert all(p.poll() is None for p in pair), path.read_text()
        time.sleep(0.1)


def codes(pair, seconds=200):
    try:
        return [p.wait(seconds) for p in pair]
    finally:
        for p in pair:
            p.kill()


class StopAfter(Stop):
    """Due from a call on; a run calls it after each step and batch of an evaluation."""

    def __init__(self, calls):
        super().__init__()
        self.left = calls

    def due(self):
        self.left -= 1
        return self.left <= 0


def alone(folder, keys, stop=None):
    """Trains the same run in this process, on one device."""
    devices = jax.local_devices()[:1]
    return stages.run(config(**keys), str(folder), devices=devices, stop=stop)


def assert_alike(folder, other, step, like):
    """States and metrics are equal except for rounding; the queue to the bit."""
    a, b = (leaves(saved_state(f, step, like)) for f in (folder, other))
    assert a.keys() == b.keys()
    for path in a:
        if "queue" in path or not np.issubdtype(a[path].dtype, np.floating):
            np.testing.assert_array_equal(a[path], b[path], err_msg=path)
        else:
            np.testing.assert_allclose(a[path], b[path], atol=1e-5, err_msg=path)
    assert any("queue" in path for path in a) == ("queue" in like.extra)
    logged = [[x for x in lines(f) if x["step"] <= step] for f in (folder, other)]
    assert logged[0]
    for line, same in zip(*logged, strict=True):
        values, names = jax.tree.flatten(line)
        expected, same_names = jax.tree.flatten(same)
        assert names == same_names
        assert values == pytest.approx(expected, abs=1e-5), names
