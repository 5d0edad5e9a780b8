"""Exceptions whose message is for the user: entry points print it, no traceback."""


class RequestError(ValueError):
    """A user's mistake: a key, path or value that cannot work.

    The message names the key, the value and the way out. Entry points print it
    without a traceback and exit with code 2.
    """


class RunFailed(RuntimeError):
    """A run cannot go on, for a reason that is no programming error. Exit code 1."""
