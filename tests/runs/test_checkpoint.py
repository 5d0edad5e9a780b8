"""A checkpoint comes back to the bit, or is refused."""

import contextlib
import errno
import itertools
import os
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from support import runs
from support.helpers import assert_bit_equal

from rsmatch_jax.errors import NotNow, RunFailed
from rsmatch_jax.runs import checkpoint_folder, fingerprint
from rsmatch_jax.runs.checkpoint import Checkpoints
from rsmatch_jax.runs.checkpoint_folder import ASIDE


def state(seed=0, width=300):
    """A tree with the kinds of leaves of a TrainState; large enough for chunks."""
    rng = np.random.default_rng(seed)
    return {
        "key": jax.random.key(seed),
        "kernel": jnp.asarray(rng.normal(size=(width, 7)), jnp.float32),
        "queue": jnp.asarray(rng.integers(0, 256, (5, 9, 3)), jnp.uint8),
        "ready": jnp.asarray(rng.random(11) < 0.5),
        "step": jnp.int32(seed),
    }


def opened(folder, keep=3):
    return contextlib.closing(Checkpoints(str(folder), keep))


@pytest.fixture
def saved(tmp_path):
    """States 1, 2 and 3 of a run."""
    with opened(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state(step), {"of": step})
    return tmp_path


def newest(folder):
    lines = []
    with opened(folder) as checkpoints:
        restored = checkpoints.restore_newest(state(), lines.append)
    return restored, " ".join(lines)


def files(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(paths, key=lambda path: path.stat().st_size)


def truncate(folder):
    for path in files(folder / "state"):
        os.truncate(path, path.stat().st_size // 2)


def remove_largest(folder):
    files(folder / "state")[-1].unlink()


def remove_meta(folder):
    shutil.rmtree(folder / "meta")


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def another_model(folder):
    other = folder.parent.parent / "other"
    with opened(other) as checkpoints:
        checkpoints.save(3, state(3, width=299), {"of": 3})
    shutil.rmtree(folder)
    shutil.copytree(other / "checkpoints" / "3", folder)


def garbage_meta(folder):
    for path in files(folder / "meta"):
        path.write_text("[1]")


def another_meta(folder):
    for path in files(folder / "meta"):
        path.write_text(path.read_text().replace('"of": 3', '"of": 4'))


DAMAGES = [truncate, remove_largest, remove_meta, empty, another_model, garbage_meta]
DAMAGES += [another_meta]


def test_newest_comes_back_to_the_bit(saved):
    restored, lines = newest(saved)
    assert (restored.step, restored.meta, lines) == (3, {"of": 3}, "")
    assert_bit_equal(restored.state, state(3))
    assert restored.fingerprint == fingerprint.text(fingerprint.of_leaves(state(3)))


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_damaged_newest_is_moved_aside(saved, damage):
    damage(saved / "checkpoints" / "3")
    before = {p.name: p.read_bytes() for p in files(saved / "checkpoints" / "3")}
    restored, lines = newest(saved)
    assert restored.step == 2
    assert_bit_equal(restored.state, state(2))
    assert "checkpoints/3 is damaged" in lines and "going back to step 2" in lines
    assert ("meta is not what was saved" in lines) == (damage is another_meta)
    assert restored.meta == {"of": 2}
    aside = saved / ASIDE / "3"
    assert {p.name: p.read_bytes() for p in files(aside)} == before
    with opened(saved) as checkpoints:  # and the run goes on
        checkpoints.save(3, state(3), {"of": 3})
    assert newest(saved)[0].step == 3
    damage(saved / "checkpoints" / "3")
    assert newest(saved)[0].step == 2
    assert sorted(os.listdir(saved / ASIDE)) == ["3", "3.2"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "Input/output error"),
        PermissionError(errno.EACCES, "Permission denied"),
        MemoryError(),
        ValueError("FAILED_PRECONDITION: reading [OS error 116: ESTALE Stale handle]"),
        RuntimeError("RESOURCE_EXHAUSTED: out of memory"),
    ],
    ids=repr,
)
def test_what_cannot_be_read_now_is_no_damage(saved, monkeypatch, error):
    """The run does not go back to an older step, and nothing is moved."""
    restore = ocp.CheckpointManager.restore

    def busy(manager, step, **options):
        if step == 3:
            raise error
        return restore(manager, step, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "restore", busy)
        with pytest.raises(NotNow, match="/3 cannot be read now: .*start again"):
            newest(saved)
    assert not (saved / ASIDE).exists()
    assert newest(saved)[0].step == 3


def test_where_none_is_good_none_is_touched(saved):
    for step in ("1", "2", "3"):
        truncate(saved / "checkpoints" / step)
    with pytest.raises(RunFailed, match=r"/3 is damaged.*/1 is damaged.*--overwrite"):
        newest(saved)
    assert sorted(os.listdir(saved / "checkpoints")) == ["1", "2", "3"]
    assert not (saved / ASIDE).exists()


def test_every_changed_bit_is_seen(saved, monkeypatch):
    """No file format would notice a value that changed."""
    read = Checkpoints._read

    def flipped(self, step, **items):
        content = read(self, step, **items)
        if step == 3:
            queue = content["state"]["queue"]
            content["state"]["queue"] = queue.at[2, 4, 1].set(queue[2, 4, 1] ^ 1)
        return content

    monkeypatch.setattr(Checkpoints, "_read", flipped)
    restored, lines = newest(saved)
    assert restored.step == 2
    assert "queue is not what was saved" in lines


def test_fingerprint_tells_bits_and_places_apart():
    def text(x):
        return fingerprint.text(fingerprint.of_leaves({"x": x}))

    values = np.arange(8, dtype=np.float32)
    original = text(jnp.asarray(values))
    assert text(jnp.asarray(values[::-1].copy())) != original
    for word, bit in itertools.product(range(8), range(32)):
        changed = values.view(np.uint32).copy()
        changed[word] ^= np.uint32(1) << np.uint32(bit)
        assert text(jnp.asarray(changed.view(np.float32))) != original
    # A sum of words would miss signs that flip in pairs and values that swap.
    assert text(jnp.zeros(4)) != text(-jnp.zeros(4))
    assert text(jnp.asarray(-values)) != original
    assert text(jnp.asarray([1.0, -1.0])) != text(jnp.asarray([-1.0, 1.0]))

    # MurmurHash3's finaliser in Python's integers.
    def mixed(h):
        h = (h ^ h >> 16) * 0x85EBCA6B % 2**32
        h = (h ^ h >> 13) * 0xC2B2AE35 % 2**32
        return h ^ h >> 16

    words = enumerate(values.view(np.uint32).tolist())
    expected = sum(mixed(w ^ i * 0x9E3779B9 % 2**32) for i, w in words)
    [got] = fingerprint.of_leaves({"x": jnp.asarray(values)})
    assert int(got) == expected % 2**32


def test_saving_a_step_again_replaces_it(saved):
    with opened(saved) as checkpoints:
        checkpoints.save(3, state(7), {"of": 7})
        checkpoints.save(4, state(4), {"of": 4})
    assert sorted(os.listdir(saved / "checkpoints")) == ["2", "3", "4"]
    again = runs.restored(saved, 3, state())
    assert again.meta == {"of": 7}
    assert_bit_equal(again.state, state(7))


@pytest.mark.parametrize("new_is_complete", [False, True])
def test_killed_while_it_replaces_a_step(saved, new_is_complete):
    folder = saved / "checkpoints"
    before = folder / ("3" + checkpoint_folder._BEFORE)
    os.rename(folder / "3", before)
    if new_is_complete:
        shutil.copytree(before, folder / "3")
    restored, lines = newest(saved)
    assert (restored.step, lines) == (3, "")
    assert sorted(os.listdir(folder)) == ["1", "2", "3"]


def test_best_and_newest_checkpoints_are_kept(tmp_path):
    with opened(tmp_path, keep=1) as checkpoints:
        for step, best in [(1, 1), (2, 2), (3, 2), (4, 2), (5, 2)]:
            checkpoints.save(step, {"x": jnp.zeros(2)}, {}, best)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["2", "5"]


def full(*args, **kwargs):
    raise OSError(28, "No space left on device")


FULL = r"step 4 could not.*No space.*that of step 3"


@pytest.mark.parametrize("in_background", [False, True])
def test_failed_save_is_reported_and_deletes_nothing(saved, monkeypatch, in_background):
    """With the new one, the oldest good one would be deleted."""
    with opened(saved) as checkpoints:
        if in_background:
            monkeypatch.setattr(ocp.AsyncCheckpointer, "_save_step_metadata", full)
        else:
            monkeypatch.setattr(checkpoints._manager, "save", full)
        with pytest.raises(RunFailed, match=FULL):
            checkpoints.save(4, state(4), {})
            while in_background:
                checkpoints.require_written()
                time.sleep(0.01)
        monkeypatch.undo()
    names = os.listdir(saved / "checkpoints")
    assert sorted(name for name in names if name.isdigit()) == ["1", "2", "3"]
    assert newest(saved)[0].step == 3
