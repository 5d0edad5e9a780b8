"""Tests the generate command with a model of numpy: flags, settings, the pool."""

import dataclasses
import itertools
import json

import generate_helpers
import numpy as np
import pytest
from generate_helpers import (
    CLASSES,
    COUNT,
    FLAGGED,
    TWIN,
    draw,
    load,
    write_prompts,
)

from rsmatch_jax.errors import RunFailed
from rsmatch_jax.synthesis.generate import __main__ as generate
from rsmatch_jax.synthesis.generate import batches, drawing, pipelines


def test_a_pool_of_two_generators(tmp_path, model, run):
    printed = run("sd14")
    assert "drawing sd14 12/12 pictures" in printed
    assert (
        "10 of sd14, 1 exact duplicates dropped, 1 dropped: safety checker" in printed
    )
    assert "at least 3 a class" in printed
    assert model == [generate.seed_of(0, "sd14", i) for i in range(COUNT)]
    before = load(tmp_path / "pool", tmp_path)

    # Twins are equal across generators too: all of the second generator are dropped.
    run("glide", "--guidance=2")
    pool = load(tmp_path / "pool", tmp_path)
    assert pool.class_names == CLASSES
    assert pool.generator_names == ("sd14", "glide")
    assert pool.images.shape == (10 + 8, 8, 8, 3)
    sd14 = pool.generators == 0
    np.testing.assert_array_equal(pool.images[sd14], before.images)
    want = [i for i in range(COUNT) if i not in (FLAGGED, TWIN)]
    np.testing.assert_array_equal(pool.labels[sd14], [i % 3 for i in want])
    # The picture of prompt 7, reduced to the means of blocks.
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
    assert report["resize"] == {"kernel": batches.KERNEL, "size": 8}
    assert report["exact_duplicates"] == 4
    assert report["same_pixels_in_two_classes"] == 1
    assert report["licence"]["glide"] == "MIT"
    assert "2112.10752" in report["source"]["sd14"]


def test_other_settings_are_refused(tmp_path, model, run):
    run()
    for flag, named in (
        ("--seed=1", "seed: 0 there, 1 here"),
        ("--guidance=2", "guidance: 7.5 there, 2.0 here"),
        ("--batch_size=4", "batch_size: 5 there, 4 here"),
        ("--device=cuda", "precision: float32 there, float16 here"),
        ("--size=16", "--size=8"),
    ):
        assert named in run("sd14", flag, code=2)
    fewer = write_prompts(tmp_path / "fewer.jsonl", count=COUNT - 3)
    assert f"prompts: {COUNT} of digest " in run("sd14", fewer, code=2)
    run("sd14", fewer, "--name=b")
    assert load(tmp_path / "pool", tmp_path).generator_names == ("sd14", "b")


def test_full_size(tmp_path, model, capsys, monkeypatch):
    run = generate_helpers.runner(tmp_path, capsys)
    run("sd14", "--full_size", "--size=8", code=2)
    assert "17 is more than sd14 draws, 16" in run("sd14", "--size=17", code=2)
    choose, sizes = pipelines.choose, {"sd14": 16, "glide": 20}

    def with_size(generator, **flags):
        chosen = choose(generator, **flags)
        return dataclasses.replace(chosen, native_size=sizes[generator])

    monkeypatch.setattr(pipelines, "choose", with_size)
    run("sd14", "--full_size")
    pool = load(tmp_path / "pool", tmp_path)
    assert pool.images.shape[1:] == (16, 16, 3)
    (drawn,) = draw(["a"], [generate.seed_of(0, "sd14", 1)])
    np.testing.assert_array_equal(pool.images[1], drawn)
    report = json.loads((tmp_path / "pool" / "pool.json").read_text())
    assert report["resize"]["kernel"] is None
    printed = run("glide", "--full_size", code=2)
    assert "16 pixels a side, the new ones have 20" in printed


@pytest.mark.parametrize(
    ("generator", "absent", "line"),
    [
        ("sd14", "torch", "pip install -r requirements-synthesis.txt"),
        ("sdxl_lightning", "diffusers", "pip install -r requirements-synthesis.txt"),
        ("glide", "glide_text2im", "pip install git+https://github.com/openai/glide"),
    ],
)
def test_a_missing_package_is_named(
    tmp_path, run, monkeypatch, generator, absent, line
):
    def find_spec(name):
        return None if name == absent else object()

    monkeypatch.setattr(pipelines.importlib.util, "find_spec", find_spec)
    assert f"needs {absent}: {line}" in run(generator, code=2)
    assert not (tmp_path / "pool").exists()


def test_a_model_that_brings_code_is_refused(tmp_path, run):
    folder = tmp_path / "model" / "unet"
    folder.mkdir(parents=True)
    (folder / "my_unet.py").write_text("raise SystemExit(7)\n")
    for flags in ((tmp_path / "model",), ("sd14", f"--model_dir={tmp_path}/model")):
        assert "unet/my_unet.py: a model with code" in run(*flags, code=2)
    assert not (tmp_path / "pool").exists()


def test_seeds_differ_and_stay():
    every = itertools.product(range(3), "ab", range(50))
    seeds = {generate.seed_of(*each) for each in every}
    assert len(seeds) == 300
    assert all(0 <= seed < 2**63 for seed in seeds)
    # sha256 of "0\0sd14\07", by sha256sum: a pool must not change with a version.
    assert generate.seed_of(0, "sd14", 7) == 4858828716256582319


def test_pictures_that_are_no_numbers_or_unsafe(run, monkeypatch):
    def drops(reason):
        return lambda prompts, seeds: [reason] * len(prompts)

    def one_of_each_batch(prompts, seeds):
        return [drawing.NO_NUMBERS, *draw(prompts[1:], seeds[1:])]

    generate_helpers.install(monkeypatch, drops(drawing.SAFETY))
    assert "dropped all of them" in run("sd14", "--name=unsafe", code=1)
    generate_helpers.install(monkeypatch, one_of_each_batch)
    assert "3 dropped: no numbers (NaN)" in run()
    generate_helpers.install(monkeypatch, drops(drawing.NO_NUMBERS))
    assert "--device=cpu" in run("glide", code=1)


def test_pictures_of_nothing():
    nothing = drawing._to_uint8(np.full((4, 4, 3), np.nan, np.float32), 4)
    assert nothing == drawing.NO_NUMBERS
    with pytest.raises(RunFailed, match="no colour picture of the 8 pixels"):
        drawing._to_uint8(np.zeros((4, 4, 3), np.float32), 8)
    image = np.array([[[0.0, 0.5, 1.0]]], np.float32)
    np.testing.assert_array_equal(drawing._to_uint8(image, 1), [[[0, 128, 255]]])
