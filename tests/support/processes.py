"""Processes that tests start, and the disks they fill."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def with_default_signals():
    """For Popen's preexec_fn: restores the handlers of SIGINT and SIGHUP.

    A background job of a shell starts with SIGINT ignored, one under nohup with SIGHUP
    ignored, and a run respects both.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def launch(config, folder, keys, log, *flags, xla_flags="", **options):
    """Starts launch.py with these config keys; it writes to the end of `log`."""
    argv = [sys.executable, "launch.py", f"--config=configs/{config}.py"]
    argv += [f"--workdir={folder}", *flags]
    argv += [f"--config.{key}={value}" for key, value in keys.items()]
    environ = {
        **os.environ,
        "XLA_FLAGS": xla_flags,
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
    }
    with open(log, "a") as file:
        streams = {"stdout": file, "stderr": subprocess.STDOUT}
        return subprocess.Popen(argv, cwd=ROOT, env=environ, **streams, **options)


def program(text, *argv, before=with_default_signals, **options):
    """Starts a Python program, whose output the test reads."""
    argv = [sys.executable, "-c", text, *argv]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(argv, cwd=ROOT, preexec_fn=before, **streams, **options)


def shell(command):
    """Runs a command in a shell, to its end."""
    streams = {"capture_output": True, "text": True}
    return subprocess.run(command, shell=True, cwd=ROOT, **streams)


@contextlib.contextmanager
def full_stdout():
    """Within it stdout is a file on a full disk."""
    full = open("/dev/full", "w")  # noqa: SIM115 (closing it fails)
    try:
        with contextlib.redirect_stdout(full):
            yield
    finally:
        with contextlib.suppress(OSError):
            full.close()


def alive(pid):
    """Whether a process runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def small_disk(folder, size):
    """A tmpfs of `size` (5m, 120k) at a new folder.

    Skips the test if mounting is not allowed.
    """
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.call(mount, stderr=subprocess.DEVNULL):
        pytest.skip("mounting is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
