"""The one exception that means "the request was wrong"."""


class RequestError(ValueError):
    """A user's mistake: a key, path or value that cannot work.

    The message names the key, the value and the way out. Entry points print it
    without a traceback and exit with code 2.
    """
