"""Runs of two processes with two CPU devices each, on this machine."""

import os
import pathlib
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from support import xla_flags
from support.helpers import SMALL, config, leaves
from support.runs import lines, saved_state

from rsmatch_jax.engine import stages
from rsmatch_jax.runtime.stopping import Stop

ROOT = pathlib.Path(__file__).parents[2]
COMMON = {
    **SMALL,
    "eval.every_steps": 1000,
    "checkpoint.every_steps": 4,
    "checkpoint.keep": 1000,
    "log.every_steps": 2,
    "method.threshold": 0.15,
}


def start_pair(folder, keys, logs, *, second=None):
    """Starts the parents of two processes; each writes into logs/<number>.

    second: the workdir and the keys of process 1, if they differ.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environ = {
        **os.environ,
        "XLA_FLAGS": xla_flags.with_devices(2),
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
    }
    processes, first = [], (folder, keys)
    for i, (folder, keys) in enumerate([first, second or first]):
        argv = [sys.executable, "launch.py", "--config=configs/common.py"]
        argv += [f"--config.{key}={value}" for key, value in keys.items()]
        argv += [f"--workdir={folder}", f"--coordinator={address}"]
        argv += ["--num_processes=2", f"--process_id={i}"]
        with open(logs / str(i), "w") as file:
            streams = {"stdout": file, "stderr": subprocess.STDOUT}
            processes.append(subprocess.Popen(argv, cwd=ROOT, env=environ, **streams))
    return processes


def wait_for(words, path, processes, seconds=200):
    deadline = time.monotonic() + seconds
    while words not in path.read_text():
        assert time.monotonic() < deadline, path.read_text()
        assert all(p.poll() is None for p in processes), path.read_text()
        time.sleep(0.1)


def codes(processes, seconds=200):
    try:
        return [p.wait(seconds) for p in processes]
    finally:
        for p in processes:
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
        assert line.keys() == same.keys()
        for name, value in line.items():
            assert value == pytest.approx(same[name], abs=1e-5), name
