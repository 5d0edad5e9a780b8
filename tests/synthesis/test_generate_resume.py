"""Stops the generate command: kills, full disks, other processes, damage."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from generate_helpers import (
    CLASSES,
    draw,
    load,
    tree,
    write_prompts,
)
from support.processes import small_disk

from rsmatch_jax import files
from rsmatch_jax.data import import_images
from rsmatch_jax.synthesis import checks
from rsmatch_jax.synthesis.generate import __main__ as generate
from rsmatch_jax.synthesis.generate import batches, pool_folder


def test_the_pool_is_a_function_of_the_staging(tmp_path, model, request_of):
    assert generate.main(request_of()) == 0
    complete = tree(tmp_path / "pool", without=[".staging"])
    assert sorted(name.split("-")[0] for name in complete) == [
        "LICENSE",
        "dataset_info.json",
        "features.json",
        "generator.labels.txt",
        "label.labels.txt",
        "pets_pool",
        "pool.json",
    ]
    for name in complete:
        os.remove(tmp_path / "pool" / name)
    assert generate.main(request_of()) == 0
    assert tree(tmp_path / "pool", without=[".staging"]) == complete


def test_a_kill_while_writing_leaves_the_old_pool_or_the_new(
    tmp_path, model, request_of, monkeypatch
):
    pool = tmp_path / "pool"
    assert generate.main(request_of("sd14")) == 0
    old = load(pool, tmp_path)
    shutil.copytree(pool, tmp_path / "copy")
    assert generate.main(request_of("glide")) == 0
    new, complete = load(pool, tmp_path), tree(pool, without=[".staging"])
    assert old.generator_names != new.generator_names

    class Killed(BaseException):
        pass

    moves = []

    def until(limit, real):
        def call(*args):
            if ".staging" not in args[-1]:  # not the staged files themselves
                moves.append(args)
            if len(moves) > limit:
                raise Killed
            real(*args)

        return call

    seen = []
    for limit in range(20):
        shutil.rmtree(pool)
        shutil.copytree(tmp_path / "copy", pool)
        moves.clear()
        code = None
        with monkeypatch.context() as patched, contextlib.suppress(Killed):
            for name in ("replace", "remove"):
                call = until(limit, getattr(os, name))
                patched.setattr(pool_folder.os, name, call)
            code = generate.main(request_of("glide"))
        loaded = load(pool, tmp_path)
        is_old = len(loaded.labels) == len(old.labels)
        np.testing.assert_array_equal(loaded.images, (old if is_old else new).images)
        seen.append(is_old)
        assert generate.main(request_of("glide")) == 0
        assert tree(pool, without=[".staging"]) == complete
        if code == 0:
            break
    else:
        pytest.fail("it never came to an end")
    # Shard, five small files: old; then the description, the old shard: new.
    assert seen == [True] * 7 + [False] * 2


def test_a_full_disk_exits_1_and_goes_on(
    tmp_path, model, request_of, capsys, monkeypatch
):
    real, writes = files.write_bytes, []

    def full(path, *args, **kwargs):
        writes.append(path)
        if len(writes) == 3:  # after the header and a batch
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        real(path, *args, **kwargs)

    monkeypatch.setattr(files, "write_bytes", full)
    assert generate.main(request_of()) == 1
    printed = capsys.readouterr().err
    assert "free some space and start again" in printed
    assert "Traceback" not in printed
    assert len(batches.Part(str(tmp_path / "pool"), "sd14").entries) == 5
    monkeypatch.setattr(files, "write_bytes", real)
    assert generate.main(request_of()) == 0
    assert Counter(model).most_common(8)[-1][1] == 1, "the first batch is not redrawn"
    assert len(load(tmp_path / "pool", tmp_path).labels) == 10


def test_a_full_disk_while_writing_keeps_the_old_pool(
    tmp_path, model, request_of, capsys, monkeypatch
):
    assert generate.main(request_of()) == 0
    before = tree(tmp_path / "pool", without=[".staging"])
    tf_write = checks.tfds_writer()

    def full(*args):
        raise tf_write.tf.errors.ResourceExhaustedError(None, None, "No space left")

    with monkeypatch.context() as patched:
        patched.setattr(tf_write, "_write_splits", full)
        assert generate.main(request_of("glide")) == 1
    printed = capsys.readouterr().err
    assert "free some space and start again" in printed
    assert "Traceback" not in printed
    assert tree(tmp_path / "pool", without=[".staging"]) == before
    model.clear()
    assert generate.main(request_of("glide")) == 0
    assert model == []
    assert load(tmp_path / "pool", tmp_path).generator_names == ("sd14", "glide")


def test_a_disk_that_really_is_full(tmp_path, model, request_of, capsys):
    with small_disk(tmp_path / "pool", "120k") as disk:
        prompts = write_prompts(tmp_path / "many.jsonl", count=90)
        flags = request_of("sd14", f"--prompts={prompts}", "--size=16")
        assert generate.main(flags) == 1
        printed = capsys.readouterr().err
        assert "free some space and start again" in printed
        assert "Traceback" not in printed
        staged = batches.Part(str(disk), "sd14").entries
        assert 5 <= len(staged) < 90
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        model.clear()
        assert generate.main(flags) == 0
        assert len(model) == 90 - len(staged)
        assert len(load(disk, tmp_path).labels) == 88


def test_two_processes_on_one_pool(tmp_path, model, request_of, capsys):
    out = str(tmp_path / "pool")
    program = (
        "import sys; from rsmatch_jax.synthesis import checks\n"
        "with checks.locked(sys.argv[1], ''): print('in', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, batches.folder_of(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "in\n"
        before = tree(out)
        assert generate.main(request_of()) == 2
        assert "another process" in capsys.readouterr().err
        assert tree(out) == before
        other.kill()
    assert generate.main(request_of()) == 0


def test_a_truncated_shard_is_refused_and_mended(tmp_path, model, request_of, capsys):
    assert generate.main(request_of()) == 0
    complete = tree(tmp_path / "pool", without=[".staging"])
    (shard,) = (tmp_path / "pool").glob("*.tfrecord-*")
    os.truncate(shard, shard.stat().st_size - 7)
    before = tree(tmp_path / "pool")
    for generator in ("sd14", "glide"):
        assert generate.main(request_of(generator)) == 2
        printed = capsys.readouterr().err
        assert shard.name in printed
        assert "delete" in printed
        assert tree(tmp_path / "pool") == before
    os.remove(tmp_path / "pool" / "dataset_info.json")
    assert generate.main(request_of()) == 0
    assert tree(tmp_path / "pool", without=[".staging"]) == complete


def test_staging_of_an_earlier_version_is_refused(tmp_path, model, request_of, capsys):
    assert generate.main(request_of()) == 0
    (tmp_path / "pool/.staging/generators/sd14/journal.jsonl").write_text("{}\n")
    before = tree(tmp_path / "pool")
    assert generate.main(request_of()) == 2
    message = capsys.readouterr().err
    assert "written by an earlier version" in message
    assert f"delete {tmp_path}/pool to draw all of it anew" in message
    assert tree(tmp_path / "pool") == before
    assert len(load(tmp_path / "pool", tmp_path).labels) == 10


def test_a_generator_whose_folder_is_deleted_leaves_the_pool(
    tmp_path, model, request_of
):
    assert generate.main(request_of("sd14")) == 0
    alone = tree(tmp_path / "pool")
    assert generate.main(request_of("glide")) == 0
    shutil.rmtree(tmp_path / "pool/.staging/generators/glide")
    assert generate.main(request_of("sd14")) == 0
    assert tree(tmp_path / "pool") == alone
    shutil.rmtree(tmp_path / "pool/.staging/generators/sd14")
    assert generate.main(request_of("glide")) == 0
    pool = load(tmp_path / "pool", tmp_path)
    assert pool.generator_names == ("glide",)


def test_an_imported_pool_is_left_alone(tmp_path, model, request_of, capsys):
    source = tmp_path / "source"
    for name in CLASSES:
        (source / name).mkdir(parents=True)
        content, _ = batches.encode(draw(["a"], [len(name)])[0], 8)
        (source / name / "1.png").write_bytes(content)
    flags = ["--layout=folders", f"--source={source}", f"--out={tmp_path}/pool"]
    assert import_images.main([*flags, "--generator=x", "--size=8"]) == 0
    before = tree(tmp_path / "pool")
    assert generate.main(request_of()) == 2
    assert "was not made by this command" in capsys.readouterr().err
    assert tree(tmp_path / "pool") == before
