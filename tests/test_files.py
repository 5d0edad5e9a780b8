"""Atomic writes where the disk is full."""

import errno
import json
import os

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


def test_names_that_are_no_utf_8(tmp_path):
    """JSON gives them back, a text shows their bytes."""
    name = os.fsdecode(b"caf\xe9")
    path = str(tmp_path / "a.json")
    files.write_json(path, {"workdir": name})
    with open(path, encoding="utf-8") as f:
        assert json.load(f) == files.read_json(path) == {"workdir": name}
    with files.writing(path) as f:
        f.write(f"{name} ü")
    assert (tmp_path / "a.json").read_bytes() == "caf\\udce9 ü".encode()
