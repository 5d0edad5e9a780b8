"""Two processes with two devices each compute and save the same as one with one."""

import json
import os
import signal
import socket
import time
import types

import jax
import numpy as np
import pytest
from support import host_pairs, workdirs
from support.helpers import BLOCKS, build
from support.runs import restored

from rsmatch_jax.errors import RequestError, RunFailed
from rsmatch_jax.runtime import hosts, parallel
from rsmatch_jax.runtime.cluster import Group

RSMATCH = {  # long: it is stopped
    **host_pairs.COMMON,
    "method.rsmatch.individual_models": False,
    "method.rsmatch.detector_loss": "queue+nnpu",
    "method.rsmatch.routing": "statistics",  # of which both compute the same
    "train.num_steps": 1000,
    "input.randaugment_ops": 1,  # compiles faster
}


def test_signal_to_one_stops_both_at_the_same_step(tmp_path):
    """Resident input, RSMatch, begun from FixMatch's weights: two processes save the
    state that one would compute."""
    workdirs.make(tmp_path / "source", **BLOCKS, **{"method.name": "fixmatch"})
    keys = {**RSMATCH, "model.init_from": str(tmp_path / "source")}
    folder = tmp_path / "pair"
    processes = host_pairs.start(folder, keys, tmp_path)
    host_pairs.wait_for("step 6/1000", tmp_path / "0", processes)
    processes[1].send_signal(signal.SIGTERM)
    assert host_pairs.codes(processes) == [75, 75], (tmp_path / "1").read_text()
    first, second = ((tmp_path / str(i)).read_text() for i in range(2))
    assert "step 2/1000" not in second  # only process 0 prints lines
    result = json.loads((folder / "result.json").read_text())
    step = result["steps"]
    assert result["status"] == "stopped"
    assert "begins from step 7, EMA weights of classifier (encoder, real)" in first
    assert f"stopped at step {step}, which is saved" in first
    by_plan = list(range(4, step, 4))
    names = os.listdir(folder / "checkpoints")
    assert sorted(map(int, names)) == [*by_plan, step]

    host_pairs.alone(tmp_path / "one", keys, host_pairs.StopAfter(4))
    like = build(**RSMATCH)[2].init_state()
    host_pairs.assert_alike(folder, tmp_path / "one", 4, like)
    assert restored(folder, step, like).fingerprint == result["fingerprint"]


def test_rows_are_dealt_to_the_devices_of_their_process():
    client, parts = jax.local_devices()[0].client, []
    for process in range(3):  # which calls itself 0
        numbers = [(p - process) % 3 for p in (0, 0, 1, 1, 2, 2)]
        devices = [
            types.SimpleNamespace(process_index=n, client=client) for n in numbers
        ]
        rows = parallel.own_rows(12, devices)
        assert list(rows) == sorted(rows)
        assert set(rows % 6) == {2 * process, 2 * process + 1}
        parts.append(rows)
    assert sorted(np.concatenate(parts)) == list(range(12))
    alone = parallel.own_rows(8, jax.local_devices())
    np.testing.assert_array_equal(alone, np.arange(8))


def test_nobody_at_the_coordinator():
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    begin = time.monotonic()
    with pytest.raises(RunFailed, match=f"{address}.*process 1 of 2 could not connect"):
        hosts.start(Group("by flags", address, 2, 1), seconds=1)
    assert time.monotonic() - begin < 30
    assert hosts.num_processes() == 1


def test_port_of_the_coordinator_is_taken():
    with socket.create_server(("", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RequestError, match=f"{address}.*choose another"):
            hosts.start(Group("by flags", address, 2, 0), seconds=1)


def test_process_alone_waits_for_nobody(tmp_path):
    hosts.start(None)
    assert hosts.is_primary() and hosts.num_processes() == 1
    assert hosts.agreed("a", lambda: 3) == hosts.on_primary("b", lambda: 3) == 3
    hosts.require_equal("c", "x", "")
    hosts.require_shared(str(tmp_path / "nowhere"))
    hosts.barrier("d")
    assert hosts.leave(2) == 2


def test_what_xla_raises_for_a_lost_process_is_named(monkeypatch):
    monkeypatch.setattr(hosts.distributed.global_state, "num_processes", 2)
    error = jax.errors.JaxRuntimeError
    words = "process 0 of 2 has lost another one.*same command on all"
    with pytest.raises(RunFailed, match=words), hosts.losses_named():
        raise error("UNKNOWN: Gloo all-reduce failed: Connection closed by peer")
    with pytest.raises(error), hosts.losses_named():
        raise error("RESOURCE_EXHAUSTED: Out of memory")
