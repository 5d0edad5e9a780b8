"""Runs of two processes: one is killed, or does not belong to the other; and they
finish a run that one process began."""

import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from support import host_pairs
from support.helpers import build
from support.processes import alive

from rsmatch_jax.runs import workdir
from rsmatch_jax.runs.checkpoint import Checkpoints

pytestmark = pytest.mark.slow
KEYS = {
    **host_pairs.COMMON,
    "method.name": "fixmatch",
    "train.num_steps": 60,
    "eval.every_steps": 30,
    "checkpoint.every_steps": 5,
    "checkpoint.keep": 2,
    "log.every_steps": 5,
}
TFDATA = {
    **host_pairs.COMMON,
    "method.name": "fixmatch",
    "input.mode": "tfdata",
    "train.num_steps": 6,
    "checkpoint.every_steps": 3,
}
GO_ON = "The same command on all hosts goes on from the last checkpoint"
SECONDS = 90  # until the others must have ended
DIFFERENT = "config: not the same on process 0 and process 1"


def child_of(parent):
    done = subprocess.run(
        ["pgrep", "-P", str(parent.pid)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    processes = host_pairs.start(folder / "run", KEYS, folder)
    assert host_pairs.codes(processes) == [0, 0]
    return workdir.read_result(str(folder / "run"))


@pytest.mark.parametrize(
    ("victim", "whose"),
    [(1, "child"), (1, "parent"), (0, "child"), (0, "parent")],
)
def test_killed_process_ends_the_others(victim, whose, undisturbed, tmp_path, survived):
    """Soon, with a message and exit code 1; the same command then finishes the run."""
    folder = tmp_path / "run"
    processes = host_pairs.start(folder, KEYS, tmp_path)
    host_pairs.wait_for("step 20/60", tmp_path / "0", processes)
    children = [child_of(p) for p in processes]
    begin = time.monotonic()
    pid = children[victim] if whose == "child" else processes[victim].pid
    os.kill(pid, signal.SIGKILL)
    ended = host_pairs.codes(processes)
    seconds = time.monotonic() - begin
    print(f"{whose} of process {victim} killed: all ended after {seconds:.1f} s")
    assert seconds < SECONDS
    other = 1 - victim
    assert ended[other] == 1
    message = (tmp_path / str(other)).read_text()
    assert f"error: process {other} of 2 " in message and GO_ON in message
    if whose == "child":
        assert ended[victim] == 1
        assert "SIGKILL" in (tmp_path / str(victim)).read_text()
    time.sleep(2)  # until an orphan has noticed that it is one
    assert not any(alive(pid) for pid in children)
    saved = Checkpoints(str(folder), keep=None).latest()
    assert 15 <= saved < 60
    processes = host_pairs.start(folder, KEYS, tmp_path)
    assert host_pairs.codes(processes) == [0, 0], (tmp_path / "0").read_text()
    assert f"resumed at step {saved}" in (tmp_path / "0").read_text()
    result = workdir.read_result(str(folder))
    for key in ("fingerprint", "test_accuracy", "steps", "status"):
        assert result[key] == undisturbed[key]
    survived("a process of two killed")


def assert_refused(processes, logs, words):
    assert host_pairs.codes(processes) == [2, 2]
    for i in range(2):
        message = (logs / str(i)).read_text()
        assert "error: " in message and words in message
        assert "Traceback" not in message and "stack trace" not in message


@pytest.mark.parametrize(
    ("name", "keys", "words"),
    [
        ("run", {"optim.momentum": 0.8}, DIFFERENT),
        ("run", {"data.labels_per_class": 1000}, DIFFERENT),
        ("other", {}, "must lie on a file system that all machines share"),
    ],
)
def test_processes_that_do_not_belong_together(name, keys, words, tmp_path):
    second = (tmp_path / name, {**KEYS, **keys})
    processes = host_pairs.start(tmp_path / "run", KEYS, tmp_path, second=second)
    assert_refused(processes, tmp_path, words)


def test_mistake_that_process_0_alone_can_see(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "letter").write_text("dear")
    processes = host_pairs.start(folder, KEYS, tmp_path)
    assert_refused(processes, tmp_path, "is not empty and holds no run")
    assert os.listdir(folder) == ["letter"]


def test_two_finish_what_one_began(tmp_path):
    """tf.data, each process with its rows; with an evaluation over all devices."""
    one, pair = tmp_path / "one", tmp_path / "pair"
    begun = host_pairs.alone(one, TFDATA, host_pairs.StopAfter(2))
    assert begun["steps"] == 2
    shutil.copytree(one, pair)
    processes = host_pairs.start(pair, TFDATA, tmp_path)
    assert host_pairs.codes(processes) == [0, 0], (tmp_path / "0").read_text()
    assert "resumed at step 2" in (tmp_path / "0").read_text()
    result, other = workdir.read_result(str(pair)), host_pairs.alone(one, TFDATA)
    assert result["status"] == other["status"] == "finished"
    host_pairs.assert_alike(pair, one, 6, build(**TFDATA)[2].init_state())
    assert sorted(os.listdir(pair)) == sorted(os.listdir(one))
    confusions = [np.load(folder / "confusion.npy") for folder in (pair, one)]
    np.testing.assert_array_equal(*confusions)
