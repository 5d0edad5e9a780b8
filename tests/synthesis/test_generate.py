"""Tests the generate command with a model of numpy: flags, settings, the pool."""

import dataclasses
import json
import os
from collections import Counter

import numpy as np
import pytest
from generate_helpers import (
    CLASSES,
    COUNT,
    FLAGGED,
    TWIN,
    draw,
    load,
    tree,
    write_prompts,
)

from rsmatch_jax.data import rs_ssl
from rsmatch_jax.errors import RunFailed
from rsmatch_jax.synthesis.generate import __main__ as generate
from rsmatch_jax.synthesis.generate import batches, drawing, pipelines

SEED_7 = 4858828716256582319


def test_a_pool_of_two_generators(tmp_path, model, request_of, capsys):
    assert generate.main(request_of("sd14")) == 0
    printed = capsys.readouterr().out
    assert "drawing sd14 12/12 pictures" in printed
    assert (
        "10 of sd14, 1 exact duplicates dropped, 1 dropped: safety checker" in printed
    )
    assert "at least 3 a class" in printed
    assert model == [generate.seed_of(0, "sd14", i) for i in range(COUNT)]
    before = load(tmp_path / "pool", tmp_path)

    # Twins are equal across generators too: all of the second generator are dropped.
    assert generate.main(request_of("glide", "--guidance=2")) == 0
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

    # Training takes equal parts of the generators.
    train = dataclasses.replace(pool, labels=np.repeat(np.arange(3), 8))
    split = rs_ssl.make_split(train, pool, labels_per_class=2, ratio=0.5)
    chosen = split.unlabeled_synthetic
    counts = Counter(zip(pool.labels[chosen], pool.generators[chosen], strict=True))
    assert set(counts.values()) == {2}
    assert len(counts) == 6


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
    other = write_prompts(tmp_path / "fewer.jsonl", count=COUNT - 3)
    assert generate.main(request_of("sd14", f"--prompts={other}")) == 2
    printed = capsys.readouterr().err
    assert f"prompts: {COUNT} of digest " in printed
    assert f" there, {COUNT - 3} of digest " in printed
    assert tree(tmp_path / "pool") == before
    assert generate.main(request_of("sd14", f"--prompts={other}", "--name=b")) == 0
    assert load(tmp_path / "pool", tmp_path).generator_names == ("sd14", "b")


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
    printed = capsys.readouterr().err
    assert "16 pixels a side, the new ones have 20" in printed


def wrap_native(choose, sizes):
    def chosen(generator, **flags):
        result = choose(generator, **flags)
        return dataclasses.replace(result, native_size=sizes[generator])

    return chosen


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
    printed = capsys.readouterr().err
    assert f"needs {absent}: {line}" in printed
    assert not os.path.exists(tmp_path / "pool")


def test_a_model_that_brings_code_is_refused(tmp_path, request_of, capsys):
    folder = tmp_path / "model" / "unet"
    folder.mkdir(parents=True)
    (folder / "my_unet.py").write_text("raise SystemExit(7)\n")
    for flags in ((tmp_path / "model",), ("sd14", f"--model_dir={tmp_path}/model")):
        assert generate.main(request_of(*flags)) == 2
        assert "unet/my_unet.py: a model with code" in capsys.readouterr().err
    assert not (tmp_path / "pool").exists()


def test_all_dropped(tmp_path, model, request_of, capsys, monkeypatch):
    drawer = drawing.Drawer(lambda p, s: [drawing.SAFETY] * len(p), 16, {}, {})
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


def test_pictures_without_numbers_are_dropped(
    tmp_path, model, request_of, monkeypatch, capsys
):
    def some(prompts, seeds):
        return [drawing.NO_NUMBERS, *draw(prompts[1:], seeds[1:])]

    drawer = drawing.Drawer(some, 16, {}, {})
    monkeypatch.setattr(drawing, "load", lambda generator, device: drawer)
    assert generate.main(request_of()) == 0
    assert "3 dropped: no numbers (NaN)" in capsys.readouterr().out
    none = drawing.Drawer(lambda p, s: [drawing.NO_NUMBERS] * len(p), 16, {}, {})
    monkeypatch.setattr(drawing, "load", lambda generator, device: none)
    assert generate.main(request_of("glide")) == 1
    assert "--device=cpu" in capsys.readouterr().err


def test_pictures_of_nothing():
    nothing = drawing._to_uint8(np.full((4, 4, 3), np.nan, np.float32), 4)
    assert nothing == drawing.NO_NUMBERS
    with pytest.raises(RunFailed, match="no colour picture of the 8 pixels"):
        drawing._to_uint8(np.zeros((4, 4, 3), np.float32), 8)
    image = np.array([[[0.0, 0.5, 1.0]]], np.float32)
    np.testing.assert_array_equal(drawing._to_uint8(image, 1), [[[0, 128, 255]]])
