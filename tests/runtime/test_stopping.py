"""Signals to processes, and runs that have to stop."""

import contextlib
import json
import signal
import textwrap
import time

import pytest
from support import processes, runs
from support.host_pairs import StopAfter, alone

from rsmatch_jax import files
from rsmatch_jax.runs import workdir
from rsmatch_jax.runs.checkpoint import Checkpoints
from rsmatch_jax.runtime import stopping

PROGRAM = """
import signal, sys, time
{before}
from rsmatch_jax.runtime import stopping

def say(text):
    print(text, flush=True)

with stopping.on_signals() as stop:
    {how}
        say("ready")
        for _ in range(200):
            time.sleep(0.05)
            if stop.due():
                say("due")
                break
        {after}
say("end")
"""
LEAVING = "with stop.at_signal(lambda: say('leaving')):"


def start(how="with stop.at_signal(None):", after="pass", before=""):
    text = textwrap.dedent(PROGRAM).format(how=how, after=after, before=before)
    process = processes.program(text)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_first_signal_requests_a_stop_only(number):
    process = start()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "due\nend\n")
    assert f"{number.name}: stopping after this step" in err


@pytest.mark.parametrize(
    ("seconds", "code", "output"), [(0, 0, "end\n"), (stopping.ECHO + 0.1, 1, "")]
)
def test_second_signal_ends_the_process_at_once(seconds, code, output):
    """One signal may come twice: a scheduler signals a group of processes, and a parent
    passes it on."""
    process = start(after=f"time.sleep({0.5 + 60 * code})")
    process.terminate()
    assert process.stdout.readline() == "due\n"
    time.sleep(seconds)
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (code, output)
    assert ("SIGTERM again: ended at once" in err) == bool(code)


@pytest.mark.parametrize(
    ("how", "output"),
    [
        ("if True:", ""),  # before anything was begun
        (LEAVING, "leaving\n"),
        (LEAVING.replace("with", "with stop.at_signal(None),"), "leaving\n"),
    ],
)
def test_signal_ends_the_process_if_nothing_is_to_be_saved(how, output):
    """Also during a long call of C code in the main thread, here a sleep."""
    busy = "import ctypes; ctypes.PyDLL(None).usleep"
    process = start(how, before=busy)
    process.terminate()
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (75, output)


def test_ignored_signals_stay_so():
    process = start(before="signal.signal(signal.SIGINT, signal.SIG_IGN)")
    process.send_signal(signal.SIGINT)
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "SIGINT" not in err


# Runs

KEYS = {
    **runs.KEYS,
    "method.name": "fixmatch",
    "train.num_steps": 5,
    "checkpoint.every_steps": 3,
    "log.every_steps": 4,
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return alone(folder, KEYS), (folder / workdir.METRICS_FILE).read_bytes()


# `due` is called after step 1 (1), after step 2 (2), in its evaluation (3 to 8), after
# that (9), after step 3 (10), in the evaluation of the last step (21 to 26).
@pytest.mark.parametrize("calls", [1, 4, 9, 23])
def test_stopped_run_ends_like_an_undisturbed_one(tmp_path, undisturbed, calls):
    whole, metrics = undisturbed
    stopped = alone(tmp_path, KEYS, StopAfter(calls))
    assert stopped["status"] == "stopped"
    assert stopped["steps"] < 5 or calls == 23
    assert workdir.read_result(str(tmp_path))["status"] == "stopped"
    with contextlib.closing(Checkpoints(str(tmp_path), keep=None)) as checkpoints:
        assert checkpoints.latest() == stopped["steps"]
    result = alone(tmp_path, KEYS)
    assert result["status"] == "finished"
    assert (tmp_path / workdir.METRICS_FILE).read_bytes() == metrics
    assert runs.timeless(result) == runs.timeless(files.plain(whole))
    last = json.loads(metrics.splitlines()[-1])
    assert last["step"] == 5 and "eval/test_accuracy" in last
