"""The generate command with a model of numpy: requests, resuming, the written pool."""

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from rsmatch_jax.data import import_images, rs_ssl, sources
from rsmatch_jax.errors import RunFailed
from rsmatch_jax.synthesis import (
    drawing,
    durable,
    generate,
    pipelines,
    pool_folder,
    prompt_file,
    staging,
)
from rsmatch_jax.synthesis.prompt_file import Prompt

CLASSES = ("cat", "dog", "owl")
COUNT = 12
# Prompts: one is dropped, one is drawn as prompt 0 is, and one of another class too.
FLAGGED, TWIN, OTHER = 5, 9, 4
SEED_7 = 4858828716256582319


def draw(prompts, seeds):
    """Noise by seed; the flagged prompt has no picture, twins have equal ones."""
    assert len(prompts) == len(seeds)
    return [
        None
        if text.startswith("flagged")
        else np.random.default_rng(0 if text.startswith("twin") else seed).integers(
            0, 256, (16, 16, 3), dtype=np.uint8
        )
        for text, seed in zip(prompts, seeds, strict=True)
    ]


@pytest.fixture
def model(monkeypatch):
    """The numpy model in the place of all others. Gives the list of drawn seeds."""
    drawn = []

    def logged(prompts, seeds):
        drawn.extend(seeds)
        return draw(prompts, seeds)

    drawer = drawing.Drawer(logged, 16, {"safety_checker": True}, {"numpy": "2"})
    monkeypatch.setattr(pipelines, "require", lambda generator: None)
    monkeypatch.setattr(drawing, "choose_device", lambda device: device or "cpu")
    monkeypatch.setattr(drawing, "load", lambda generator, device: drawer)
    return drawn


def write_prompts(path, dataset="pets", classes=CLASSES, count=COUNT):
    text = {FLAGGED: "flagged", TWIN: "twin", OTHER: "twin", 0: "twin"}
    lines = [prompt_file.header_line(dataset, classes, {"seed": 3})]
    for i in range(count):
        prompt = Prompt(i % len(classes), f"{text.get(i, 'a')} {i}")
        lines.append(prompt_file.prompt_line(prompt))
    path.write_text("".join(lines))
    return str(path)


@pytest.fixture
def request_of(tmp_path):
    """Flags of a run into tmp_path/pool."""
    prompts = write_prompts(tmp_path / "prompts.jsonl")

    def flags(generator="sd14", *more):
        return [
            f"--prompts={prompts}",
            f"--generator={generator}",
            f"--out={tmp_path}/pool",
            "--size=8",
            "--batch_size=5",
            *more,
        ]

    return flags


def tree(folder, without=()):
    """{path below folder: content}."""
    found = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if f not in without]
        for name in names:
            path = os.path.join(parent, name)
            with open(path, "rb") as f:
                found[os.path.relpath(path, folder)] = f.read()
    return found


def load(folder, tmp_path):
    return sources.load_pool(str(folder), cache_dir=str(tmp_path / "cache"))


def test_a_pool_of_two_generators(tmp_path, model, request_of, capsys):
    assert generate.main(request_of("sd14")) == 0
    said = capsys.readouterr().out
    assert "drawing sd14 12/12 pictures" in said
    assert "10 of sd14 (12 of 12 prompts drawn), 1 exact duplicates dropped" in said
    assert "1 dropped by the safety checker" in said
    assert model == [generate.seed_of(0, "sd14", i) for i in range(COUNT)]
    before = load(tmp_path / "pool", tmp_path)

    # Twins are equal across generators as well: of the second, all are dropped.
    assert generate.main(request_of("glide", "--guidance=2")) == 0
    pool = load(tmp_path / "pool", tmp_path)
    assert pool.class_names == CLASSES
    assert pool.generator_names == ("sd14", "glide")
    assert pool.images.shape == (10 + 8, 8, 8, 3)
    sd14 = pool.generators == 0
    np.testing.assert_array_equal(pool.images[sd14], before.images)
    want = [i for i in range(COUNT) if i not in (FLAGGED, TWIN)]
    np.testing.assert_array_equal(pool.labels[sd14], [i % 3 for i in want])
    # What was drawn for prompt 7, brought to size by means of blocks.
    (drawn,) = draw(["a"], [generate.seed_of(0, "sd14", 7)])
    means = drawn.reshape(8, 2, 8, 2, 3).astype(float).mean((1, 3))
    assert np.abs(pool.images[sd14][want.index(7)] - means).max() <= 1

    report = json.loads((tmp_path / "pool" / "pool.json").read_text())
    one, two = report["generators"]["sd14"], report["generators"]["glide"]
    assert (one["images"], one["exact_duplicates_dropped"]) == (10, 1)
    assert (two["images"], two["exact_duplicates_dropped"]) == (8, 3)
    assert one["dropped"] == two["dropped"] == {"safety checker": 1}
    assert one["settings"]["weights"] == pipelines.SD14.revision
    assert one["settings"]["guidance"] == 7.5
    assert two["settings"]["guidance"] == 2
    assert one["prompts"]["drawn"] == one["prompts"]["count"] == COUNT
    assert one["prompts"]["header"]["seed"] == 3
    assert one["environments"] == [{"numpy": "2"}]
    assert report["resize"] == {"kernel": staging.KERNEL, "size": 8}
    assert report["exact_duplicates"] == 4
    assert report["same_pixels_in_two_classes"] == 1
    assert report["licence"]["glide"] == "MIT"
    assert "2112.10752" in report["source"]["sd14"]

    # Training takes equal parts of the generators.
    split = rs_ssl.make_split(
        np.repeat(np.arange(3), 8),
        3,
        labels_per_class=2,
        ratio=0.5,
        pool_labels=pool.labels,
        pool_generators=pool.generators,
    )
    chosen = split.unlabeled_synthetic
    counts = Counter(zip(pool.labels[chosen], pool.generators[chosen], strict=True))
    assert set(counts.values()) == {2}
    assert len(counts) == 6


def test_a_finished_pool_is_left_as_it_is(tmp_path, model, request_of, capsys):
    assert generate.main(request_of()) == 0
    before = tree(tmp_path / "pool")
    model.clear()
    capsys.readouterr()
    assert generate.main(request_of()) == 0
    assert "is finished: 11 pictures of sd14, 1 dropped" in capsys.readouterr().out
    assert model == []
    assert tree(tmp_path / "pool") == before


def test_the_pool_is_a_function_of_the_staging(
    tmp_path, model, request_of, monkeypatch
):
    """Interrupted in the second batch and gone on with, or written again: equal."""
    assert generate.main(request_of()) == 0
    whole = tree(tmp_path / "pool", without=[".staging"])
    assert sorted(name.split("-")[0] for name in whole) == [
        "LICENSE",
        "dataset_info.json",
        "features.json",
        "generator.labels.txt",
        "label.labels.txt",
        "pets_pool",
        "pool.json",
    ]
    for name in whole:
        os.remove(tmp_path / "pool" / name)
    assert generate.main(request_of()) == 0
    assert tree(tmp_path / "pool", without=[".staging"]) == whole
    shutil.rmtree(tmp_path / "pool")

    real, calls = staging.Part.stage, []

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*args, **kwargs)

    monkeypatch.setattr(staging.Part, "stage", interrupted)
    model.clear()
    assert generate.main(request_of()) == 1
    assert not os.path.exists(tmp_path / "pool" / "dataset_info.json")
    assert generate.main(request_of()) == 0
    assert Counter(Counter(model).values()) == {1: 7, 2: 5}
    assert tree(tmp_path / "pool", without=[".staging"]) == whole


def test_a_kill_while_writing_leaves_the_old_pool_or_the_new(
    tmp_path, model, request_of, monkeypatch
):
    pool = tmp_path / "pool"
    assert generate.main(request_of("sd14")) == 0
    old = load(pool, tmp_path)
    shutil.copytree(pool, tmp_path / "copy")
    assert generate.main(request_of("glide")) == 0
    new, whole = load(pool, tmp_path), tree(pool, without=[".staging"])
    assert old.generator_names != new.generator_names

    class Killed(BaseException):
        pass

    real = {name: getattr(os, name) for name in ("replace", "remove")}
    moves = []

    def until(limit):
        def wrap(name):
            def call(*args):
                moves.append(args)
                if staging.STAGING in args[-1]:  # the staged files themselves
                    moves.pop()
                if len(moves) > limit:
                    raise Killed
                real[name](*args)

            return call

        for name in real:
            monkeypatch.setattr(pool_folder.os, name, wrap(name))

    seen = []
    for limit in range(20):
        shutil.rmtree(pool)
        shutil.copytree(tmp_path / "copy", pool)
        moves.clear()
        until(limit)
        try:
            code = generate.main(request_of("glide"))
        except Killed:
            code = None
        monkeypatch.setattr(pool_folder.os, "replace", real["replace"])
        monkeypatch.setattr(pool_folder.os, "remove", real["remove"])
        found = load(pool, tmp_path)
        is_old = len(found.labels) == len(old.labels)
        np.testing.assert_array_equal(found.images, (old if is_old else new).images)
        seen.append(is_old)
        assert generate.main(request_of("glide")) == 0
        assert tree(pool, without=[".staging"]) == whole
        if code == 0:
            break
    else:
        pytest.fail("it never came to an end")
    # Shard, five small files: old; then the description, the old shard: new.
    assert seen == [True] * 7 + [False] * 2


def test_other_settings_are_refused(tmp_path, model, request_of, capsys):
    assert generate.main(request_of()) == 0
    before = tree(tmp_path / "pool")
    for flag, named in (
        ("--seed=1", "seed: 0 there, 1 here"),
        ("--guidance=2", "guidance: 7.5 there, 2.0 here"),
        ("--batch_size=4", "batch_size: 5 there, 4 here"),
        ("--device=cuda", "precision: float32 there, float16 here"),
        ("--size=16", "--size=8"),
    ):
        assert generate.main(request_of("sd14", flag)) == 2
        assert named in capsys.readouterr().err
    other = write_prompts(tmp_path / "more.jsonl", count=COUNT + 3)
    assert generate.main(request_of("sd14", f"--prompts={other}")) == 2
    assert "prompts: " in capsys.readouterr().err
    assert tree(tmp_path / "pool") == before
    assert generate.main(request_of("sd14", f"--prompts={other}", "--name=b")) == 0
    assert load(tmp_path / "pool", tmp_path).generator_names == ("sd14", "b")


def test_prompts_for_other_classes_are_refused(tmp_path, model, request_of, capsys):
    assert generate.main(request_of()) == 0
    before = tree(tmp_path / "pool")
    for dataset, classes in (("cars", CLASSES), ("pets", ("cat", "dog", "hen"))):
        other = write_prompts(tmp_path / "other.jsonl", dataset, classes)
        assert generate.main(request_of("glide", f"--prompts={other}")) == 2
        said = capsys.readouterr().err
        assert "is a pool for pets" in said
        assert classes[-1] in said
    assert tree(tmp_path / "pool") == before


def test_full_size(tmp_path, model, request_of, capsys, monkeypatch):
    flags = [f for f in request_of() if not f.startswith("--size")]
    assert generate.main([*flags, "--full_size", "--size=8"]) == 2
    assert generate.main([*flags, "--size=17"]) == 2
    assert "at most" in capsys.readouterr().err
    monkeypatch.setattr(
        pipelines, "choose", wrap_native(pipelines.choose, {"sd14": 16, "glide": 20})
    )
    assert generate.main([*flags, "--full_size"]) == 0
    pool = load(tmp_path / "pool", tmp_path)
    assert pool.images.shape[1:] == (16, 16, 3)
    (drawn,) = draw(["a"], [generate.seed_of(0, "sd14", 1)])
    np.testing.assert_array_equal(pool.images[1], drawn)
    report = json.loads((tmp_path / "pool" / "pool.json").read_text())
    assert report["resize"]["kernel"] is None
    capsys.readouterr()
    assert generate.main([*flags, "--full_size", "--generator=glide"]) == 2
    said = capsys.readouterr().err
    assert "16 pixels a side, asked for are 20" in said


def wrap_native(choose, sizes):
    def chosen(generator, **flags):
        found = choose(generator, **flags)
        return dataclasses.replace(found, native_size=sizes[generator])

    return chosen


def test_a_full_disk_exits_1_and_goes_on(
    tmp_path, model, request_of, capsys, monkeypatch
):
    real, writes = durable.write, []

    def full(path, *args, **kwargs):
        writes.append(path)
        if len(writes) == 11:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        real(path, *args, **kwargs)

    monkeypatch.setattr(durable, "write", full)
    assert generate.main(request_of()) == 1
    said = capsys.readouterr().err
    assert "free some space and start again" in said
    assert "Traceback" not in said
    assert len(staging.Part(str(tmp_path / "pool"), "sd14").entries) == 5
    assert generate.main(request_of()) == 0
    assert Counter(model).most_common(8)[-1][1] == 1, "the first batch is not redrawn"
    assert len(load(tmp_path / "pool", tmp_path).labels) == 10


def test_a_full_disk_while_writing_keeps_the_old_pool(
    tmp_path, model, request_of, capsys, monkeypatch
):
    assert generate.main(request_of()) == 0
    before = tree(tmp_path / "pool", without=[".staging"])
    tf_write = pool_folder.load_writer()

    def full(*args):
        raise tf_write.tf.errors.ResourceExhaustedError(None, None, "No space left")

    with monkeypatch.context() as patched:
        patched.setattr(tf_write, "_write_splits", full)
        assert generate.main(request_of("glide")) == 1
    said = capsys.readouterr().err
    assert "free some space and start again" in said
    assert "Traceback" not in said
    assert tree(tmp_path / "pool", without=[".staging"]) == before
    model.clear()
    assert generate.main(request_of("glide")) == 0
    assert model == []
    assert load(tmp_path / "pool", tmp_path).generator_names == ("sd14", "glide")


def test_a_disk_that_really_is_full(tmp_path, model, request_of, capsys):
    disk = tmp_path / "pool"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=120k", "tmpfs", str(disk)]
    if (
        shutil.which("mount") is None
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("mounting is not allowed here")
    try:
        prompts = write_prompts(tmp_path / "many.jsonl", count=90)
        flags = request_of("sd14", f"--prompts={prompts}", "--size=16")
        assert generate.main(flags) == 1
        said = capsys.readouterr().err
        assert "free some space and start again" in said
        assert "Traceback" not in said
        staged = staging.Part(str(disk), "sd14").entries
        assert 5 <= len(staged) < 90
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        model.clear()
        assert generate.main(flags) == 0
        assert len(model) == 90 - len(staged)
        assert len(load(disk, tmp_path).labels) == 88
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_two_processes_on_one_pool(tmp_path, model, request_of, capsys):
    out = str(tmp_path / "pool")
    program = (
        "import sys; from rsmatch_jax.synthesis import staging\n"
        "with staging.locked(sys.argv[1]): print('in', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, out],
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
    whole = tree(tmp_path / "pool", without=[".staging"])
    (shard,) = (tmp_path / "pool").glob("*.tfrecord-*")
    os.truncate(shard, shard.stat().st_size - 7)
    before = tree(tmp_path / "pool")
    for generator in ("sd14", "glide"):
        assert generate.main(request_of(generator)) == 2
        said = capsys.readouterr().err
        assert shard.name in said
        assert "delete" in said
        assert tree(tmp_path / "pool") == before
    os.remove(tmp_path / "pool" / "dataset_info.json")
    assert generate.main(request_of()) == 0
    assert tree(tmp_path / "pool", without=[".staging"]) == whole


def test_an_imported_pool_is_left_alone(tmp_path, model, request_of, capsys):
    source = tmp_path / "source"
    for name in CLASSES:
        (source / name).mkdir(parents=True)
        content, _ = staging.encode(draw(["a"], [len(name)])[0], 8)
        (source / name / "1.png").write_bytes(content)
    flags = ["--layout=folders", f"--source={source}", f"--out={tmp_path}/pool"]
    assert import_images.main([*flags, "--generator=x", "--size=8"]) == 0
    before = tree(tmp_path / "pool")
    assert generate.main(request_of()) == 2
    assert "was not made by this command" in capsys.readouterr().err
    assert tree(tmp_path / "pool") == before


@pytest.mark.parametrize(
    ("generator", "flags", "named"),
    [
        ("sd15", [], "sd14, sdxl_lightning, glide"),
        ("sd15", [], "path of a diffusers model"),
        ("sd14", ["--size=0"], "--size=0"),
        ("sd14", ["--steps=0"], "--steps=0"),
        ("sd14", ["--guidance=nan"], "--guidance=nan"),
        ("sd14", ["--name=a/b"], "--name=a/b"),
        ("sd14", ["--model_dir=/nowhere"], "/nowhere"),
        ("sd14", ["--prompts=/nowhere"], "/nowhere"),
        ("sdxl_lightning", ["--steps=8"], "leave out --steps"),
        ("sdxl_lightning", ["--model_dir=."], "--unet=FILE"),
        ("sd14", ["--unet=x"], "--unet"),
        ("sd14", ["--sise=4"], "--sise"),
    ],
)
def test_wrong_requests_exit_2(tmp_path, request_of, capsys, generator, flags, named):
    assert generate.main(request_of(generator, *flags)) == 2
    said = capsys.readouterr().err
    assert named in said
    assert "Traceback" not in said
    assert not os.path.exists(tmp_path / "pool")


@pytest.mark.parametrize(
    ("generator", "absent", "line"),
    [
        ("sd14", "torch", "pip install -r requirements-synthesis.txt"),
        ("sdxl_lightning", "diffusers", "pip install -r requirements-synthesis.txt"),
        ("glide", "glide_text2im", "pip install git+https://github.com/openai/glide"),
    ],
)
def test_a_missing_package_is_named(
    tmp_path, request_of, capsys, monkeypatch, generator, absent, line
):
    def find_spec(name):
        return None if name == absent else object()

    monkeypatch.setattr(pipelines.importlib.util, "find_spec", find_spec)
    assert generate.main(request_of(generator)) == 2
    said = capsys.readouterr().err
    assert f"needs {absent}: {line}" in said
    assert not os.path.exists(tmp_path / "pool")


def test_all_dropped(tmp_path, model, request_of, capsys, monkeypatch):
    drawer = drawing.Drawer(lambda p, s: [None] * len(p), 16, {}, {})
    monkeypatch.setattr(drawing, "load", lambda generator, device: drawer)
    assert generate.main(request_of()) == 1
    assert "dropped all of them" in capsys.readouterr().err


def test_seeds_differ_and_stay():
    seeds = {
        generate.seed_of(s, g, i)
        for s in range(3)
        for g in ("a", "b")
        for i in range(50)
    }
    assert len(seeds) == 300
    assert all(0 <= seed < 2**63 for seed in seeds)
    # sha256 of "0\0sd14\07", by sha256sum: a pool must not change with a version.
    assert generate.seed_of(0, "sd14", 7) == SEED_7


def test_pictures_of_nothing_end_the_run():
    with pytest.raises(RunFailed, match="NaN"):
        drawing._to_uint8(np.full((4, 4, 3), np.nan, np.float32), 4, "a cat")
    with pytest.raises(RunFailed, match="no colour picture of the 8 pixels"):
        drawing._to_uint8(np.zeros((4, 4, 3), np.float32), 8, "a cat")
    image = np.array([[[0.0, 0.5, 1.0]]], np.float32)
    np.testing.assert_array_equal(drawing._to_uint8(image, 1, "x"), [[[0, 128, 255]]])
