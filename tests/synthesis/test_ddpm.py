"""Tests the ddpm command from end to end, and its parts."""

import dataclasses
import json
import os
import shutil
from argparse import Namespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from generate_helpers import failing_at
from tiny_diffusion import TINY

from rsmatch_jax.data import sources
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.errors import RequestError, RunFailed
from rsmatch_jax.runs import checkpoint
from rsmatch_jax.synthesis.ddpm import __main__ as ddpm
from rsmatch_jax.synthesis.ddpm import denoiser, diffusion, pool
from rsmatch_jax.synthesis.ddpm import settings as ddpm_settings


def flags(**settings):
    """Returns TINY with changes, as flags."""
    values = dataclasses.asdict(dataclasses.replace(TINY, **settings))
    return [f"--{k}={v}" for k, v in values.items() if k not in ("seed", "flip")]


FLAGS = flags()
SHORT = flags(steps=6, learning_rate=1e-3)


@pytest.mark.parametrize("levels", [17, 256])
def test_pictures_are_rounded_to_the_scans_levels(levels):
    values = np.arange(levels)
    images = 2 * values / (levels - 1) - 1
    want = arrays.grey_levels_to_uint8(values) if levels == 17 else values
    for shift in (-0.49, 0, 0.49):
        got = pool.to_uint8(images + 2 * shift / (levels - 1), levels)
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(pool.to_uint8(np.array([-3, 3]), levels), [0, 255])


def fake_sampler(rounds, requests):
    """Replaces make_sampler: call i returns flat pictures of the levels rounds[i].

    requests: list, gets (key, labels) of every call.
    """
    calls = iter(rounds)

    def draw(params, key, labels, tick, **further):
        requests.append((key, labels.tolist()))
        values = np.asarray(next(calls), np.float32) / 8 - 1
        return np.broadcast_to(values[:, None, None, None], (len(values), 8, 8, 1))

    return lambda settings, shape, num_classes, devices, guidance: draw


def two_classes():
    """Returns two pictures, the first one a flat 9."""
    images = np.array(arrays.digits("train").images[:2])
    images[0] = arrays.grey_levels_to_uint8(np.array(9))
    return arrays.ImageArrays("two", images, np.arange(2, dtype=np.int32), ("0", "1"))


def test_duplicates_are_drawn_anew(monkeypatch, tmp_path):
    # Needed: 0 0 1 1. First round: 3 twice, 9 is a real scan. Second round: 0 1.
    requests = []
    levels = [[3, 3, 9, 5], [3, 6, 3, 3], [4] * 4]
    monkeypatch.setattr(diffusion, "make_sampler", fake_sampler(levels, requests))
    result, dropped, _ = pool.draw_pool(TINY, {}, two_classes(), 17, [], str(tmp_path))
    assert dropped == 3
    np.testing.assert_array_equal(result.labels, [0, 0, 1, 1])
    want = arrays.grey_levels_to_uint8(np.array([3, 4, 5, 6]))
    np.testing.assert_array_equal(result.images[:, 0, 0, 0], want)
    assert [labels for _, labels in requests] == [[0, 0, 1, 1], [0, 1, 0, 1], [0] * 4]
    keys = [jax.random.key_data(key).tolist() for key, _ in requests]
    assert all(key not in keys[:i] for i, key in enumerate(keys))


@pytest.mark.parametrize("conditions", [None, {"second": np.arange(4)}])
def test_too_few_different_pictures_end_the_run(monkeypatch, tmp_path, conditions):
    """The second class has none at all."""
    same = [[3] * 4] * pool.MAX_ROUNDS
    monkeypatch.setattr(diffusion, "make_sampler", fake_sampler(same, []))
    with pytest.raises(RunFailed, match="lower --guidance"):
        pool.draw_pool(TINY, {}, two_classes(), 17, [], str(tmp_path), conditions)


def test_command_makes_a_pool(tmp_path, capsys):
    out = os.path.join(tmp_path, "pool")
    argv = ["--dataset=digits", f"--out={out}", *FLAGS]
    assert ddpm.main(argv) == 0
    printed = capsys.readouterr().out
    assert "training 60/60 steps" in printed
    assert "drawing 6/6 DDIM steps" in printed
    assert "0 s left" in printed

    saved = arrays.load(out)
    assert saved.images.shape == (20, 8, 8, 1)
    np.testing.assert_array_equal(saved.counts(), 2)
    assert saved.class_names == arrays.digits("test").class_names
    assert saved.generator_names == ("ddpm",)
    np.testing.assert_array_equal(saved.generators, 0)
    levels = arrays.grey_levels_to_uint8(np.arange(17))
    assert np.isin(saved.images, levels).all()
    meta = arrays.load_meta(out)
    assert meta["command"].endswith(" ".join(argv))
    assert meta["settings"] == dataclasses.asdict(TINY)
    assert meta["versions"]["jax"] == jax.__version__
    assert "CC BY 4.0" in meta["source"]

    assert ddpm.main(argv) == 2  # a pool is there already
    assert out in capsys.readouterr().err

    # The same seed gives the same pool; another one gives other weights, batches and
    # pictures.
    data, devices = arrays.digits("train"), jax.local_devices()

    def train_and_draw(settings, state=None):
        folder = tmp_path / str(settings.seed)
        trained, losses = denoiser.train(settings, data, devices, str(folder), 100)
        weights = (state or trained).ema
        drawn, *_ = pool.draw_pool(settings, weights, data, 17, devices, str(folder))
        return trained, losses, drawn.images

    state, losses, again = train_and_draw(TINY)
    np.testing.assert_array_equal(again, saved.images)
    _, other_losses, redrawn = train_and_draw(dataclasses.replace(TINY, seed=1), state)
    assert other_losses != losses
    assert not np.array_equal(redrawn, saved.images)


def test_a_kept_model_draws_tfds_and_array_pools(tmp_path, capsys):
    out, model = str(tmp_path / "My Pool"), tmp_path / "model"
    common = ["--dataset=fake", f"--model_dir={model}", "--flip", *SHORT]
    assert ddpm.main([f"--out={out}", *common]) == 0, capsys.readouterr().err
    assert f"20 pictures of 10 classes in {out}" in capsys.readouterr().out
    loaded = sources.load_pool(out, cache_dir=str(tmp_path / "cache"))
    assert loaded.images.shape == (20, 8, 8, 3)
    assert loaded.images.dtype == np.uint8
    assert loaded.class_names == arrays.fake("train").class_names
    np.testing.assert_array_equal(loaded.labels, np.repeat(np.arange(10), 2))
    assert loaded.generator_names == ("ddpm",)
    np.testing.assert_array_equal(loaded.generators, 0)
    assert ".staging" not in os.listdir(out)
    with open(os.path.join(out, "pool.json")) as f:
        report = json.load(f)
    made = report["generators"]["ddpm"]
    assert made["images"] == 20
    assert made["how"]["command"].endswith(" ".join(SHORT))
    assert made["how"]["settings"]["flip"] is True
    assert made["how"]["settings"]["steps"] == 6
    assert report["exact_duplicates_dropped"] == 0
    assert "fake" in report["source"]
    assert "fake" in report["licence"]

    assert ddpm.main([f"--out={out}", *common]) == 2
    assert "holds a pool already" in capsys.readouterr().err

    other = [f"--out={tmp_path}/other", *common, "--format=arrays"]
    assert ddpm.main([*other, "--steps=7"]) == 2
    printed = capsys.readouterr().err
    assert f"--model_dir={model}" in printed
    assert "steps: 6 there, 7 here" in printed
    assert ddpm.main([*other, "--guidance=0.5"]) == 0
    assert "training: 6 of 6 steps are done already" in capsys.readouterr().out
    redrawn = arrays.load(str(tmp_path / "other")).images
    assert redrawn.shape == loaded.images.shape
    assert not np.array_equal(redrawn, loaded.images)


def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path, capsys, monkeypatch):
    def argv(name):
        options = ["--dataset=fake", "--format=arrays", "--save_every=2", *SHORT]
        return [f"--out={tmp_path}/{name}", *options]

    assert ddpm.main(argv("complete")) == 0
    stop = {"error": KeyboardInterrupt}
    with failing_at(monkeypatch, 3, checkpoint.Checkpoints, "save", **stop):
        assert ddpm.main(argv("parts")) == 75
    assert "the same command goes on" in capsys.readouterr().err
    with failing_at(monkeypatch, 2, pool, "to_uint8", **stop):  # of two chunks
        assert ddpm.main(argv("parts")) == 75
    assert "training: 4 of 6 steps are done already" in capsys.readouterr().out
    staging = tmp_path / "parts" / ".staging"
    assert os.listdir(staging / "drawn") == ["000000.npy"]

    # Other training is refused with the name of what differs.
    assert ddpm.main([*argv("parts"), "--width=16"]) == 2
    assert "width: 8 there, 16 here" in capsys.readouterr().err

    with failing_at(monkeypatch, 2, pool, "to_uint8", **stop):
        assert ddpm.main(argv("parts")) == 0  # draws the second chunk alone
    printed = capsys.readouterr().out
    assert "training: 6 of 6 steps are done already" in printed
    assert "drawing 6/6 DDIM steps" in printed
    folders = [f"{tmp_path}/{name}" for name in ("complete", "parts")]
    images = [arrays.load(folder).images for folder in folders]
    np.testing.assert_array_equal(*images)
    losses = [arrays.load_meta(folder)["final_loss"] for folder in folders]
    assert losses[0] == losses[1]
    assert not staging.exists()


def test_generate_and_ddpm_leave_the_work_of_one_another_alone(tmp_path, run, capsys):
    pool_folder = tmp_path / "pool"
    staged = pool_folder / ".staging" / "generators" / "sd14" / "header.json"
    staged.parent.mkdir(parents=True)
    staged.write_text("{}")
    argv = ["--dataset=fake", f"--out={pool_folder}", "--format=arrays", *SHORT]
    assert ddpm.main(argv) == 2
    answer = capsys.readouterr().err
    assert "work of `rsmatch generate`" in answer and f"{pool_folder}/.stag" in answer
    assert staged.read_text() == "{}"

    shutil.rmtree(staged.parents[1])
    (pool_folder / ".staging" / "drawing.json").write_text("{}")
    assert "work of `rsmatch ddpm`" in run(code=2)


def test_pictures_of_other_data_are_drawn_anew(tmp_path, monkeypatch):
    """The settings, the folder of the pool and the name of the dataset are the same."""
    data = arrays.fake("train")

    def argv(name, model):
        common = ["--dataset=fake", "--format=arrays", *SHORT]
        return [f"--out={tmp_path}/{name}", f"--model_dir={tmp_path}/{model}", *common]

    with failing_at(monkeypatch, 2, pool, "to_uint8", error=KeyboardInterrupt):
        assert ddpm.main(argv("parts", "first")) == 75
    assert os.listdir(tmp_path / "parts" / ".staging" / "drawn") == ["000000.npy"]
    changed = dataclasses.replace(data, images=255 - np.asarray(data.images))
    monkeypatch.setattr(sources, "load_real", lambda *_, **places: (changed, changed))
    assert ddpm.main(argv("parts", "second")) == 0
    assert ddpm.main(argv("alone", "second")) == 0
    images = [arrays.load(str(tmp_path / n)).images for n in ("parts", "alone")]
    np.testing.assert_array_equal(*images)


def test_presets_go_by_image_size():
    colour = ddpm_settings.settle(Namespace(width=64), 32, 5000)
    want = dataclasses.replace(ddpm_settings.COLOUR, width=64, per_class=5000)
    assert colour == want
    assert colour.steps >= 100_000
    assert ddpm_settings.settle(Namespace(), 8, 129) == ddpm_settings.Settings()
    assert ddpm_settings.settle(Namespace(per_class=0), 8, 129).per_class == 129


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 24, 3), (72, 72, 3)])
def test_images_that_do_not_fit_are_named(shape):
    data = dataclasses.replace(
        arrays.fake("train"), images=np.zeros((640, *shape), np.uint8)
    )
    argv = ["--dataset=name", "--out=pool"]
    with pytest.raises(RequestError, match=f"{shape[0]}x{shape[1]}.*rsmatch import"):
        ddpm_settings.check_data(data, ddpm_settings.parser("").parse_args(argv))


def test_the_source_is_described(tmp_path):
    info = {
        "name": "pets",
        "version": "2.0.0",
        "description": "Cats\nand dogs.",
        "citation": "@misc{pets}",
        "redistributionInfo": {"license": "CC0"},
    }
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    got = pool.origin(str(tmp_path), None)
    assert got["source"].endswith("on pets 2.0.0. Cats and dogs. @misc{pets}")
    assert got["licence"] == "CC0"


def test_a_diverging_run_exits_1(tmp_path, capsys, monkeypatch):
    def diverge(state, key, images, labels):
        loss = jnp.where(state.step < 7, 1.0, jnp.nan)
        return state.replace(step=state.step + 1), loss

    monkeypatch.setattr(denoiser, "make_train_step", lambda *args: diverge)
    assert ddpm.main(["--dataset=digits", f"--out={tmp_path}/pool", *FLAGS]) == 1
    printed = capsys.readouterr().err
    way_out = f"lower --learning_rate (0.01), delete {tmp_path}/pool/.staging and start"
    assert f"from training step 8 on; {way_out} again" in printed


def test_a_damaged_state_has_a_way_out(tmp_path):
    (tmp_path / "checkpoints" / "2").mkdir(parents=True)
    with pytest.raises(RunFailed, match=f"damaged.*or delete {tmp_path} and start"):
        denoiser.train(
            TINY, arrays.digits("train"), jax.local_devices(), str(tmp_path), 100
        )
