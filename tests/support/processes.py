"""Processes that tests start."""

import signal


def with_default_signals():
    """For Popen's preexec_fn: a job in the background of a shell starts with Ctrl-C
    ignored, one under nohup with the hangup ignored, and a run respects both."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
