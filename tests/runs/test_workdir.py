"""Where a command may write beside a run, and the lock of a run."""

import errno
import fcntl
import os

import pytest

from rsmatch_jax.errors import RequestError
from rsmatch_jax.runs import workdir


@pytest.fixture
def root(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "out").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("run/config.json", "among the files of the run"),
        ("run/config", "config.json is among the files of the run"),  # beside it
        ("run/result", "result.json is among the files of the run"),
        ("run/.lock", "among the files of the run"),
        ("run/checkpoints/7/model", "among the files of the run"),
        ("run/checkpoints_damaged/x", "among the files of the run"),
        ("run/events.out.x", "among the files of the run"),
        ("out/../run/data.json", "among the files of the run"),
        ("gone/model", "there is no folder .*gone"),
        ("out", "is no file name"),
        (None, "--out= is no file name"),
    ],
)
def test_places_where_no_file_may_be_are_refused(root, out, words):
    path = "" if out is None else f"{root}/{out}"
    with pytest.raises(RequestError, match=words):
        workdir.check_out(path, f"{root}/run", "", beside=(".json",))


def test_a_file_may_lie_in_the_workdir_beside_the_runs_own(root):
    workdir.check_out(f"{root}/run/model", f"{root}/run", "", beside=(".json", ".md"))
    assert not list((root / "run").iterdir())


def test_a_lock_is_seen_on_a_network_file_system(tmp_path, monkeypatch):
    """NFS locks a file for one process only if it is open to write: flock(2)."""
    flock = fcntl.flock

    def of_nfs(file, operation):
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", of_nfs)
    assert not workdir.is_locked(str(tmp_path))
    with workdir.locked(str(tmp_path)):
        assert workdir.is_locked(str(tmp_path))
    assert not workdir.is_locked(str(tmp_path))
