"""Atomic writes where the disk is full."""

import errno

import pytest

from rsmatch_jax import files


def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_bytes(str(path), b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            files.write_bytes(str(path), b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    files.write_bytes(str(path), b"new")
    assert path.read_bytes() == b"new"
