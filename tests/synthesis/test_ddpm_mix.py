"""Tests pictures between two classes: the choice of pairs, and the pool.

test_adapters.py has the formula.
"""

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
from generate_helpers import failing_at
from test_ddpm import SHORT, fake_sampler, two_classes
from tiny_diffusion import TINY

from rsmatch_jax.data.stores import arrays
from rsmatch_jax.synthesis.ddpm import __main__ as ddpm
from rsmatch_jax.synthesis.ddpm import diffusion, pool
from rsmatch_jax.synthesis.look import __main__ as look


@pytest.mark.parametrize("per_class", [2, 9, 31])
def test_pairs_are_even_and_by_the_seed(per_class):
    settings, data = dataclasses.replace(TINY, per_class=per_class), arrays.fake("test")
    labels = pool.all_labels(settings, data)
    np.testing.assert_array_equal(labels, np.arange(10 * per_class) // per_class)
    seconds = pool.second_labels(settings, data)
    assert seconds.dtype == np.int32
    assert (seconds != labels).all()
    counts = Counter(zip(labels.tolist(), seconds.tolist(), strict=True))
    low = per_class // 9
    for a in range(10):
        numbers = [counts[a, b] for b in range(10) if b != a]
        assert set(numbers) <= {low, low + 1}
    np.testing.assert_array_equal(seconds, pool.second_labels(settings, data))
    other = pool.second_labels(dataclasses.replace(settings, seed=1), data)
    assert not np.array_equal(seconds, other)


def test_each_other_class_is_as_likely():
    settings = dataclasses.replace(TINY, per_class=1)
    data, counts = arrays.fake("test"), np.zeros((10, 10))
    for seed in range(900):
        seeded = dataclasses.replace(settings, seed=seed)
        counts[np.arange(10), pool.second_labels(seeded, data)] += 1
    expected = 100 * (1 - np.eye(10))
    assert np.abs(counts - expected).max() < 4.5 * 10  # ten is the deviation


def test_a_dropped_picture_keeps_its_second_class(monkeypatch, tmp_path):
    # Of 0 0 1 1 the second picture equals the first, the third is a scan.
    seen, levels = [], [[3, 3, 9, 5], [4, 6, 4, 6]]
    sampler = fake_sampler(levels, [])

    def make(*args):
        draw = sampler(*args)

        def noted(params, key, labels, tick, marks):
            seen.append(marks.tolist())
            return draw(params, key, labels, tick)

        return noted

    monkeypatch.setattr(diffusion, "make_sampler", make)
    marks = {"marks": np.array([10, 11, 12, 13])}
    arguments = TINY, {}, two_classes(), 17, [], str(tmp_path), marks
    result, dropped, columns = pool.draw_pool(*arguments)
    assert dropped == 2
    assert seen == [[10, 11, 12, 13], [11, 12, 11, 12]]
    want = arrays.grey_levels_to_uint8(np.array([3, 4, 5, 6]))
    np.testing.assert_array_equal(result.images[:, 0, 0, 0], want)
    np.testing.assert_array_equal(columns["marks"], [10, 11, 13, 12])


def test_one_model_draws_plain_and_mixed_pools(tmp_path, capsys, monkeypatch):
    def argv(name, *more):
        common = ["--dataset=fake", f"--model_dir={tmp_path}/model", *SHORT]
        return [f"--out={tmp_path}/{name}", *common, *more]

    array_form = "--format=arrays"
    assert ddpm.main(argv("plain", array_form)) == 0
    capsys.readouterr()
    stop = {"error": KeyboardInterrupt}
    with failing_at(monkeypatch, 2, pool, "to_uint8", **stop):  # of two chunks
        assert ddpm.main(argv("mixed", "--mix", array_form)) == 75
    assert "training: 6 of 6 steps are done already" in capsys.readouterr().out
    with failing_at(monkeypatch, 2, pool, "to_uint8", **stop):
        assert ddpm.main(argv("mixed", "--mix", array_form)) == 0
    assert ddpm.main(argv("again", "--mix", array_form)) == 0
    assert ddpm.main(argv("tfds", "--mix")) == 0

    plain, mixed, again = (
        arrays.load(str(tmp_path / n)) for n in ("plain", "mixed", "again")
    )
    np.testing.assert_array_equal(mixed.labels, plain.labels)
    np.testing.assert_array_equal(mixed.images, again.images)
    assert not np.array_equal(mixed.images, plain.images)
    assert not (tmp_path / "plain" / "second_labels.npy").exists()
    assert "mix" not in arrays.load_meta(str(tmp_path / "plain"))["settings"]
    assert arrays.load_meta(str(tmp_path / "mixed"))["settings"]["mix"] is True
    seconds = np.load(tmp_path / "mixed" / "second_labels.npy")
    want = pool.second_labels(TINY, arrays.fake("train"))
    np.testing.assert_array_equal(seconds, want)
    report = json.loads((tmp_path / "tfds" / "pool.json").read_text())
    assert report["pictures"] == {"second_labels": want.tolist()}

    for name in ("mixed", "tfds"):
        cache, out = f"--cache_dir={tmp_path}/cache", f"--out={tmp_path}/look"
        argv = [str(tmp_path / name), "--real=fake", "--sample=100", cache, out]
        assert look.main(argv) == 0
        text = capsys.readouterr().out
        assert "20 of 20 pairs of a class and a second one, 1 to 1 a pair" in text
        figures = json.loads((tmp_path / "look" / look.JSON).read_text())
        pairs = np.zeros((10, 10), int)
        pairs[mixed.labels, want] = 1
        assert figures["conditions"]["pairs"] == pairs.tolist()


def test_pictures_drawn_plain_are_not_taken_for_mixed_ones(
    tmp_path, monkeypatch, capsys
):
    argv = ["--dataset=fake", "--format=arrays", f"--out={tmp_path}/p", *SHORT]
    with failing_at(monkeypatch, 2, pool, "to_uint8", error=KeyboardInterrupt):
        assert ddpm.main(argv) == 75
    assert ddpm.main([*argv, "--mix"]) == 0
    assert ddpm.main([*argv, "--mix", f"--out={tmp_path}/q"]) == 0
    a, b = (arrays.load(str(tmp_path / name)).images for name in "pq")
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("flag", ["--mix", "--difficulty=0.5"])
def test_one_class_cannot_be_mixed_or_difficult(flag, tmp_path, capsys):
    data = arrays.ImageArrays(
        "one", np.zeros((4, 8, 8, 1), np.uint8), np.zeros(4, np.int32), ("only",)
    )
    for split in ("train", "test"):
        arrays.save(str(tmp_path / "one" / split), data)
    argv = [f"--dataset={tmp_path}/one", f"--out={tmp_path}/pool", "--format=arrays"]
    assert ddpm.main([*argv, flag]) == 2
    message = capsys.readouterr().err
    assert flag.split("=")[0] in message
    assert "only" in message if flag == "--mix" else "the smallest one of 4" in message
    assert not (tmp_path / "pool").exists()
