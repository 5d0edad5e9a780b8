"""Stops the generate command: kills, full disks, other processes, damage."""

import errno
import os
import shutil
import subprocess
from collections import Counter

import numpy as np
import pytest
from generate_helpers import failing_at, load, tree, write_prompts
from support.processes import small_disk

from rsmatch_jax import files
from rsmatch_jax.synthesis import checks
from rsmatch_jax.synthesis.generate import batches, pool_folder

FULL = "free some space if the disk is full"


@pytest.fixture
def pool(tmp_path, model):
    """Returns the folder that the commands fill."""
    return tmp_path / "pool"


def written(pool):
    return tree(pool, without=[".staging"])


def test_the_pool_is_a_function_of_the_staging(pool, run):
    run()
    complete = written(pool)
    assert sorted(name.split("-")[0] for name in complete) == [
        "LICENSE",
        "dataset_info.json",
        "features.json",
        "generator.labels.txt",
        "label.labels.txt",
        "pets_pool",
        "pool.json",
    ]
    (shard,) = pool.glob("*.tfrecord-*")
    os.truncate(shard, shard.stat().st_size - 7)
    for generator in ("sd14", "glide"):
        printed = run(generator, code=2)
        assert shard.name in printed
        assert "delete" in printed
    for absent in (["dataset_info.json"], complete):
        for name in absent:
            os.remove(pool / name)
        run()
        assert written(pool) == complete


def test_a_kill_while_writing_leaves_the_old_pool_or_the_new(
    tmp_path, pool, run, monkeypatch
):
    run("sd14")
    old = load(pool, tmp_path)
    shutil.copytree(pool, tmp_path / "copy")
    run("glide")
    new, complete = load(pool, tmp_path), written(pool)
    assert old.generator_names != new.generator_names

    def is_visible(*args):  # in the pool, not among the staged files
        return ".staging" not in args[-1]

    seen, ended = [], False
    while not ended:
        shutil.rmtree(pool)
        shutil.copytree(tmp_path / "copy", pool)
        limit, names = len(seen) + 1, ("replace", "remove")
        assert limit < 20
        with failing_at(monkeypatch, limit, pool_folder.os, *names, counts=is_visible):
            run("glide")
            ended = True
        loaded = load(pool, tmp_path)
        is_old = len(loaded.labels) == len(old.labels)
        np.testing.assert_array_equal(loaded.images, (old if is_old else new).images)
        seen.append(is_old)
        run("glide")
        assert written(pool) == complete
    # Shard, five small files: old; then the description, the old shard: new.
    assert seen == [True] * 7 + [False] * 2


def test_a_full_disk_exits_1_and_goes_on(tmp_path, pool, model, run, monkeypatch):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "file")
    # The first writes are the header and a batch.
    with failing_at(monkeypatch, 3, files, "write_bytes", error=full):
        assert FULL in run(code=1)
    assert len(batches.Part(str(pool), "sd14").entries) == 5
    run()
    assert Counter(model).most_common(8)[-1][1] == 1, "the first batch is not redrawn"
    assert len(load(pool, tmp_path).labels) == 10


def test_a_full_disk_while_writing_keeps_the_old_pool(
    tmp_path, pool, model, run, monkeypatch
):
    run()
    before = written(pool)
    tf_write = checks.tfds_writer()
    full = tf_write.tf.errors.ResourceExhaustedError(None, None, "No space left")
    with failing_at(monkeypatch, 1, tf_write, "_write_splits", error=full):
        assert FULL in run("glide", code=1)
    assert written(pool) == before
    model.clear()
    run("glide")
    assert model == []
    assert load(pool, tmp_path).generator_names == ("sd14", "glide")


def test_a_disk_that_really_is_full(tmp_path, pool, model, run):
    with small_disk(pool, "120k"):
        prompts = write_prompts(tmp_path / "many.jsonl", count=90)
        flags = ("sd14", prompts, "--size=16")
        assert FULL in run(*flags, code=1)
        staged = batches.Part(str(pool), "sd14").entries
        assert 5 <= len(staged) < 90
        subprocess.run(["mount", "-o", "remount,size=4m", str(pool)], check=True)
        model.clear()
        run(*flags)
        assert len(model) == 90 - len(staged)
        assert len(load(pool, tmp_path).labels) == 88


def test_two_processes_on_one_pool(pool, run):
    with checks.locked(batches.folder_of(str(pool)), ""):  # as another process would
        assert "another process" in run(code=2)
    run()


def test_a_generator_whose_folder_is_deleted_leaves_the_pool(tmp_path, pool, run):
    run("sd14")
    alone = tree(pool)
    run("glide")
    shutil.rmtree(pool / ".staging/generators/glide")
    run("sd14")
    assert tree(pool) == alone
    shutil.rmtree(pool / ".staging/generators/sd14")
    run("glide")
    assert load(pool, tmp_path).generator_names == ("glide",)
