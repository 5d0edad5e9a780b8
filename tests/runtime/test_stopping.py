"""Signals to processes, and runs that have to stop."""

import json
import signal
import subprocess
import sys
import textwrap
import time

import jax
import pytest
from support.helpers import TINY, config
from support.processes import with_default_signals

from rsmatch_jax import files, train
from rsmatch_jax.runs import workdir
from rsmatch_jax.runs.checkpoint import Checkpoints
from rsmatch_jax.runtime.stopping import Stop

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


def start(how, after="pass", before=""):
    text = textwrap.dedent(PROGRAM).format(how=how, after=after, before=before)
    process = subprocess.Popen(
        [sys.executable, "-c", text],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=with_default_signals,
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_first_signal_requests_a_stop_only(number):
    process = start("with stop.to_save():")
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "due\nend\n")
    assert f"{number.name}: stopping after this step" in err


def test_second_signal_ends_the_process_at_once():
    process = start("with stop.to_save():", "time.sleep(60)")
    process.terminate()
    assert process.stdout.readline() == "due\n"
    time.sleep(1.1)
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, "")
    assert "SIGTERM again: ended at once" in err


def test_one_signal_that_comes_twice_is_one():
    """A scheduler signals a group of processes, and a parent passes it on."""
    process = start("with stop.to_save():", "time.sleep(0.5)")
    process.terminate()
    assert process.stdout.readline() == "due\n"
    process.terminate()
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "end\n")


@pytest.mark.parametrize(
    ("how", "output"),
    [
        ("if True:", ""),  # before anything was begun
        ("with stop.nothing_to_save(lambda: say('leaving')):", "leaving\n"),
        (
            "with stop.to_save(), stop.nothing_to_save(lambda: say('leaving')):",
            "leaving\n",
        ),
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
    process = start(
        "with stop.to_save():",
        before="signal.signal(signal.SIGINT, signal.SIG_IGN)",
    )
    process.send_signal(signal.SIGINT)
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "SIGINT" not in err


# Runs

KEYS = {
    **TINY,
    "method.name": "fixmatch",
    "method.threshold": 0.15,
    "input.randaugment_ops": 0,
    "train.num_steps": 5,
    "eval.every_steps": 2,
    "checkpoint.every_steps": 3,
    "log.every_steps": 4,
}


class After(Stop):
    """Due from the nth call on; a run calls it after each step, after each batch of an
    evaluation and at its end."""

    def __init__(self, times):
        super().__init__()
        self.left = times

    def due(self):
        self.left -= 1
        return self.left < 0


def run(folder, stop=None):
    return train.run(
        config(**KEYS), str(folder), devices=jax.local_devices()[:1], stop=stop
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return run(folder), (folder / workdir.METRICS_FILE).read_bytes()


# Called after step 1 (0), after step 2 (1), in its evaluation (2 to 7), after that (8),
# after step 3 (9), in the evaluation of the last step (20 to 25), after that (26).
@pytest.mark.parametrize("times", [0, 3, 8, 22])
def test_stopped_run_ends_like_an_undisturbed_one(tmp_path, undisturbed, times):
    whole, metrics = undisturbed
    stopped = run(tmp_path, After(times))
    if times < 26:
        assert stopped["status"] == "stopped"
        assert stopped["steps"] < 5 or times == 22
        assert workdir.read_result(str(tmp_path))["status"] == "stopped"
    checkpoints = Checkpoints(str(tmp_path), keep=None)
    assert checkpoints.latest() == stopped["steps"]
    checkpoints.close()
    result = run(tmp_path)
    assert result["status"] == "finished"
    assert (tmp_path / workdir.METRICS_FILE).read_bytes() == metrics
    changing = {"seconds", "images_per_second"}
    assert {k: v for k, v in result.items() if k not in changing} == {
        k: v for k, v in files.plain(whole).items() if k not in changing
    }
    last = json.loads(metrics.splitlines()[-1])
    assert last["step"] == 5 and "eval/test_accuracy" in last
