"""A small parent and a child that is aborted, stopped, killed or orphaned."""

import functools
import os
import signal
import time

import pytest
from support.processes import ROOT, alive, program

from rsmatch_jax.runtime import stopping

PARENT = """
import os, sys
from rsmatch_jax.runtime import supervisor
code = supervisor.supervise([sys.executable, *sys.argv[1:]], "process 1 of 2")
assert "jax" not in sys.modules and "numpy" not in sys.modules
sys.exit(code)
"""
CHILD = """
import os, signal, sys, time
sys.path.insert(0, {root!r})
from rsmatch_jax.runtime import supervisor
assert supervisor.is_child()
supervisor.obey()
{body}
"""
WAIT = "print(os.getpid(), flush=True)\nwhile True:\n    time.sleep(0.05)"
STOPS = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n" + WAIT
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + WAIT


@pytest.fixture
def start(tmp_path):
    """start(body): starts the parent of a child with this body."""
    parents = []

    def begin(body, **options):
        child = tmp_path / "child.py"
        child.write_text(CHILD.format(root=str(ROOT), body=body))
        options["start_new_session"] = True
        parents.append(program(PARENT, str(child), "an argument", **options))
        return parents[-1]

    yield begin
    for parent in parents:
        parent.kill()
        parent.wait()


def gone(pid):
    """Whether a process ends within ten seconds."""
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not alive(pid)


@pytest.mark.parametrize("code", [0, 1, 2, 75])
def test_exit_codes_pass_through(start, code):
    parent = start(f"print(sys.argv[1:], flush=True)\nos._exit({code})")
    assert parent.communicate(timeout=30) == ("['an argument']\n", "")
    assert parent.returncode == code


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("os.abort()", ["SIGABRT", "another process of the run does not answer"]),
        ("os.kill(os.getpid(), 9)", ["SIGKILL", "memory is short"]),
        ("os.kill(os.getpid(), 11)", ["SIGSEGV"]),
        ("os.kill(os.getpid(), 15)", ["SIGTERM"]),  # not from the parent
        ("sys.exit(9)", ["exit code 9"]),
        ("supervisor.tell('waiting')\nos.abort()", ["SIGABRT", "while waiting"]),
        ("supervisor.tell('waiting')\nsupervisor.tell('')\nos.abort()", ["SIGABRT"]),
    ],
)
def test_abort_is_explained(start, body, words):
    parent = start(body)
    _, err = parent.communicate(timeout=30)
    assert parent.returncode == 1
    assert "error: process 1 of 2 ended with" in err
    assert "same command on all hosts goes on from the last checkpoint" in err
    for word in words:
        assert word in err
    assert ("while" in err) == ("while" in words[-1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_reach_the_child_as_sigterm(start, number):
    parent = start(STOPS)
    child = int(parent.stdout.readline())
    os.killpg(parent.pid, number)  # as a terminal does
    assert parent.wait(30) == 75
    assert parent.stderr.read() == ""
    assert gone(child)


def test_ignored_signal_stays_ignored(start):
    """As SIGHUP under nohup."""
    ignore = functools.partial(signal.signal, signal.SIGHUP, signal.SIG_IGN)
    parent = start(STOPS, before=ignore)
    parent.stdout.readline()
    parent.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert parent.poll() is None
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(30) == 75


def test_second_signal_kills(start):
    parent = start(DEAF)
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGINT)
    time.sleep(0.2)
    parent.send_signal(signal.SIGINT)  # the same signal, from another sender
    time.sleep(stopping.ECHO + 0.2)
    assert parent.poll() is None
    parent.send_signal(signal.SIGINT)
    assert parent.wait(30) == 1
    assert "killed by a second signal" in parent.stderr.read()
    assert gone(child)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_child_ends_with_its_parent_before_anything_can_be_saved(start, number):
    parent = start(WAIT)
    child = int(parent.stdout.readline())
    parent.send_signal(number)
    assert parent.wait(30) == (75 if number == signal.SIGTERM else -signal.SIGKILL)
    stopped = "stopped before its first step" in parent.stderr.read()
    assert stopped == (number == signal.SIGTERM)
    assert gone(child)
