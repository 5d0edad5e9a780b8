"""Exit codes and messages of a command that ends early."""

import os
import signal

import pytest

from rsmatch_jax.errors import (
    RequestError,
    RunFailed,
    Unfinished,
    exit_code,
    with_flags,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        *((RequestError("bad"), 2), (RunFailed("sad"), 1), (KeyError("x"), 1)),
        (Unfinished("2 are left"), 75),
    ],
)
def test_codes(error, code, capsys):
    def command():
        raise error

    assert exit_code(command, "start again") == code
    message = capsys.readouterr().err
    assert (message == "2 are left; start again\n") == (code == 75)
    assert ("Traceback" in message) == isinstance(error, KeyError)


@pytest.mark.parametrize(
    ("number", "resumable", "code"),
    [
        *((signal.SIGINT, False, 1), (signal.SIGINT, True, 75)),
        *((signal.SIGTERM, True, 75), (signal.SIGHUP, True, 75)),
    ],
)
def test_signals(number, resumable, code, capsys, request):
    before = signal.getsignal(signal.SIGTERM)
    # A job in the background of a shell starts with Ctrl-C ignored.
    set_handler(request, signal.SIGINT, signal.default_int_handler)
    set_handler(request, signal.SIGHUP, signal.SIG_DFL)

    def command():
        os.kill(os.getpid(), number)

    assert exit_code(command, "start again", resumable=resumable) == code
    assert capsys.readouterr().err == "\ninterrupted; start again\n"
    assert signal.getsignal(signal.SIGTERM) == before
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


def test_ignored_signals_stay_ignored(request):
    """As SIGHUP under nohup."""
    set_handler(request, signal.SIGHUP, signal.SIG_IGN)

    def command():
        os.kill(os.getpid(), signal.SIGHUP)

    assert exit_code(command, "start again", resumable=True) == 0


def set_handler(request, number, handler):
    old = signal.signal(number, handler)
    request.addfinalizer(lambda: signal.signal(number, old))


def test_keys_in_the_words_of_a_command():
    """Paths and longer keys stay as they are."""
    flags = {"test": "--test", "labeled": "--labeled"}
    for message, answer in {
        "data.test=x: pass --config.data.labeled=y": "--test=x: pass --labeled=y",
        "/srv/data.test/a and data.test/b": "/srv/data.test/a and data.test/b",
        "my.data.test": "my.data.test",
        "(data.test), data.test_share=2": "(--test), data.test_share=2",
    }.items():
        assert with_flags(message, flags) == answer
