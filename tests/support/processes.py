"""Processes that tests start."""

import signal


def with_default_signals():
    """For Popen's preexec_fn: restores the handlers of SIGINT and SIGHUP.

    A background job of a shell starts with SIGINT ignored, one under nohup with SIGHUP
    ignored, and a run respects both.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def alive(pid):
    """Whether a process runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
