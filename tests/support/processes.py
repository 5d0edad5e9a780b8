"""Processes that tests start."""

import signal


def with_default_signals():
    """For Popen's preexec_fn: restores the handlers of SIGINT and SIGHUP.

    A background job of a shell starts with SIGINT ignored, one under nohup with SIGHUP
    ignored, and a run respects both.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
