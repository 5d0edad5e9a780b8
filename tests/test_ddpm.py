"""The diffusion model against formulas, and its command from end to end."""

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsmatch_jax.data import arrays
from rsmatch_jax.models import unet
from rsmatch_jax.synthesis import ddpm, diffusion

# One set of shapes for all tests: compiling is what costs time here.
TINY = diffusion.Settings(
    per_class=2,
    steps=60,
    batch_size=32,
    learning_rate=1e-2,
    width=8,
    ema_decay=0.9,
    sampling_steps=3,
    sampling_batch=12,
)
FLAGS = [
    f"--{name}={value}"
    for name, value in dataclasses.asdict(TINY).items()
    if name != "seed"
]


def digits(n=64):
    data = arrays.digits("train")
    return dataclasses.replace(data, images=data.images[:n], labels=data.labels[:n])


def test_schedule_is_the_papers_cosine():
    got = diffusion.alpha_bars(1000)
    assert got.shape == (1001,)
    assert got.dtype == np.float32

    def f(t):
        return np.cos((t / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2

    levels = np.arange(1000)  # the last one alone meets the bound on beta
    np.testing.assert_allclose(got[:1000], f(levels) / f(0), rtol=1e-5)
    assert got[1000] == pytest.approx(got[999] * 0.001, rel=1e-5)


def test_noise_keeps_signal_and_noise_shares():
    rng = np.random.default_rng(0)
    images, noise = rng.normal(size=(2, 3, 4, 4, 1)).astype(np.float32)
    signal = np.array([1.0, 0.36, 0.0], np.float32)
    got = diffusion.add_noise(images, noise, jnp.asarray(signal))
    want = [images[0], 0.6 * images[1] + 0.8 * noise[1], noise[2]]
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_ddim_step_moves_along_the_same_noise_and_ends_at_the_image():
    rng = np.random.default_rng(1)
    image = rng.uniform(-1, 1, (2, 4, 4, 1)).astype(np.float32)
    noise = rng.normal(size=image.shape).astype(np.float32)
    noisy = 0.6 * image + 0.8 * noise
    between = diffusion.ddim_step(noisy, noise, jnp.float32(0.36), jnp.float32(0.64))
    np.testing.assert_allclose(between, 0.8 * image + 0.6 * noise, atol=1e-5)
    end = diffusion.ddim_step(noisy, noise, jnp.float32(0.36), jnp.float32(1.0))
    np.testing.assert_allclose(end, image, atol=1e-5)


def test_ddim_step_keeps_the_image_in_range():
    # The prediction says image (0.9 - 0.8 * -1.5) / 0.6 = 3.5: cut to 1, and the noise
    # that leaves is (0.9 - 0.6) / 0.8.
    got = diffusion.ddim_step(
        jnp.full((1, 1), 0.9), jnp.full((1, 1), -1.5), 0.36, jnp.float32(0.64)
    )
    np.testing.assert_allclose(got, 0.8 + 0.6 * 0.3 / 0.8, rtol=1e-5)


def test_guidance_moves_away_from_the_unlabelled_prediction():
    labelled, unlabelled = jnp.array([1.0, 2.0]), jnp.array([0.5, 3.0])
    got = diffusion.guide(labelled, unlabelled, 3.0)
    np.testing.assert_allclose(got, [4 - 1.5, 8 - 9])
    np.testing.assert_array_equal(diffusion.guide(labelled, unlabelled, 0.0), labelled)


def test_drawing_with_a_perfect_predictor_finds_its_images(monkeypatch):
    # Class c is a flat picture of grey MEANS[c]; with no label, the net says MEANS[2].
    # Guidance 3 must then end at 4 * MEANS[c] - 3 * MEANS[2].
    means = jnp.array([0.1, -0.2, 0.05])
    signals = jnp.asarray(diffusion.alpha_bars())

    class Oracle:
        def __init__(self, num_classes, width):
            assert num_classes == 2

        def apply(self, params, noisy, times, labels):
            signal = signals[times][:, None, None, None]
            clean = means[labels][:, None, None, None]
            return (noisy - jnp.sqrt(signal) * clean) / jnp.sqrt(1 - signal)

    monkeypatch.setattr(unet, "UNet", Oracle)
    settings = dataclasses.replace(TINY, guidance=3.0, sampling_steps=10)
    draw = diffusion.make_sampler(settings, (4, 4, 1), 2)
    ticks = []
    labels = np.array([0, 1, 1], np.int32)
    got = draw({}, jax.random.key(0), labels, lambda: ticks.append(1))
    want = np.array([0.4 - 0.15, -0.8 - 0.15, -0.8 - 0.15])[:, None, None, None]
    np.testing.assert_allclose(got, np.broadcast_to(want, got.shape), atol=1e-4)
    assert len(ticks) == 10


def test_dropped_labels_become_the_extra_class():
    labels = jnp.arange(20_000, dtype=jnp.int32) % 10
    got = np.asarray(diffusion.drop_labels(jax.random.key(0), labels, 0.1, 10))
    dropped = got == 10
    assert 0.09 < dropped.mean() < 0.11
    np.testing.assert_array_equal(got[~dropped], np.asarray(labels)[~dropped])
    for rate, want in ((0.0, labels), (1.0, jnp.full_like(labels, 10))):
        got = diffusion.drop_labels(jax.random.key(0), labels, rate, 10)
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("levels", [17, 256])
def test_pictures_are_rounded_to_the_scans_levels(levels):
    values = np.arange(levels)
    images = 2 * values / (levels - 1) - 1
    want = arrays.grey_levels_to_uint8(values) if levels == 17 else values
    for shift in (-0.49, 0, 0.49):
        got = ddpm.to_uint8(images + 2 * shift / (levels - 1), levels)
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(ddpm.to_uint8(np.array([-3, 3]), levels), [0, 255])


def test_time_features_are_sinusoids():
    got = unet.time_features(jnp.array([0, 7, 1000]), 8)
    angles = np.array([0, 7, 1000])[:, None] * 10_000.0 ** (-np.arange(4) / 4)
    want = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "multipliers"), [((8, 8, 1), (1, 2)), ((16, 32, 3), (1, 2, 3, 4))]
)
def test_unet_keeps_the_shape(shape, multipliers):
    net = unet.UNet(num_classes=3, width=8, multipliers=multipliers)
    images, labels = jnp.zeros((4, *shape)), jnp.zeros((4,), jnp.int32)
    out, params = jax.eval_shape(
        net.init_with_output, jax.random.key(0), images, labels, labels
    )
    assert out.shape == images.shape
    assert out.dtype == jnp.float32
    assert params["params"]["label"]["embedding"].shape == (3 + 1, 4 * 8)


def test_unet_starts_at_zero_and_heeds_time_and_class():
    net = unet.UNet(num_classes=3, width=8)
    images = jnp.tile(jax.random.normal(jax.random.key(0), (1, 8, 8, 1)), (4, 1, 1, 1))
    times, labels = jnp.array([1, 1, 500, 1]), jnp.array([0, 3, 0, 0])
    params = jax.jit(net.init)(jax.random.key(1, impl="rbg"), images, times, labels)
    apply = jax.jit(net.apply)
    np.testing.assert_array_equal(apply(params, images, times, labels), 0)

    # Once the zero kernels move, time and class both matter.
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(2)
    moved = [p + 0.1 * rng.normal(size=p.shape).astype(np.float32) for p in leaves]
    out = apply(jax.tree.unflatten(tree, moved), images, times, labels)
    assert jnp.abs(out[0] - out[1]).max() > 1e-3
    assert jnp.abs(out[0] - out[2]).max() > 1e-3
    np.testing.assert_allclose(out[0], out[3], atol=1e-5)


def test_training_learns():
    params, losses = diffusion.train(TINY, arrays.digits("train"))
    assert losses.shape == (60,)
    assert losses[0] == pytest.approx(1, abs=0.1)  # predicts 0 of unit noise
    assert losses[-10:].mean() < 0.6
    # The averaged weights learnt too: pure noise is nearly all noise.
    apply = jax.jit(unet.UNet(10, TINY.width).apply)
    noise = jax.random.normal(jax.random.key(0), (64, 8, 8, 1))
    times = jnp.full((64,), 900)
    error = jnp.mean((apply(params, noise, times, jnp.arange(64) % 11) - noise) ** 2)
    assert error < 0.6


def fake_sampler(rounds, asked):
    """make_sampler's stand-in: call i gives flat pictures of the levels rounds[i].

    asked: list, gets (key, labels) of every call.
    """
    calls = iter(rounds)

    def draw(params, key, labels, tick):
        asked.append((key, labels.tolist()))
        values = np.asarray(next(calls), np.float32) / 8 - 1
        return np.broadcast_to(values[:, None, None, None], (len(values), 8, 8, 1))

    return lambda settings, shape, num_classes: draw


def two_classes():
    return dataclasses.replace(
        digits(2), labels=np.arange(2, dtype=np.int32), class_names=("0", "1")
    )


def test_duplicates_are_drawn_anew(monkeypatch):
    data = two_classes()
    data.images[0] = arrays.grey_levels_to_uint8(np.array(9))  # a real scan, flat 9
    # Wanted 0 0 1 1. First round: 3 twice, 9 is a real scan. Second: wanted 0 1.
    asked = []
    levels = [[3, 3, 9, 5], [3, 6, 3, 3], [4] * 4]
    monkeypatch.setattr(diffusion, "make_sampler", fake_sampler(levels, asked))
    pool, dropped = ddpm.draw_pool(TINY, {}, data, 17)
    assert dropped == 3
    np.testing.assert_array_equal(pool.labels, [0, 0, 1, 1])
    want = arrays.grey_levels_to_uint8(np.array([3, 4, 5, 6]))
    np.testing.assert_array_equal(pool.images[:, 0, 0, 0], want)
    assert [labels for _, labels in asked] == [[0, 0, 1, 1], [0, 1, 0, 1], [0] * 4]
    keys = [jax.random.key_data(key).tolist() for key, _ in asked]
    assert all(key not in keys[:i] for i, key in enumerate(keys))


def test_too_few_different_pictures_end_the_run(monkeypatch):
    same = [[3] * 4] * ddpm.MAX_ROUNDS
    monkeypatch.setattr(diffusion, "make_sampler", fake_sampler(same, []))
    with pytest.raises(RuntimeError, match="lower --guidance"):
        ddpm.draw_pool(TINY, {}, two_classes(), 17)


def test_command_makes_a_pool(tmp_path, capsys):
    out = os.path.join(tmp_path, "pool")
    argv = ["--dataset=digits", f"--out={out}", *FLAGS]
    assert ddpm.main(argv) == 0
    said = capsys.readouterr().out
    assert "training 60/60 steps" in said
    assert "drawing 6/6 DDIM steps" in said
    assert "0 s left" in said

    pool = arrays.load(out)
    assert pool.images.shape == (20, 8, 8, 1)
    np.testing.assert_array_equal(pool.counts(), 2)
    assert pool.class_names == arrays.digits("test").class_names
    assert pool.generator_names == ("ddpm",)
    np.testing.assert_array_equal(pool.generators, 0)
    levels = arrays.grey_levels_to_uint8(np.arange(17))
    assert np.isin(pool.images, levels).all()
    meta = arrays.load_meta(out)
    assert meta["command"].endswith(" ".join(argv))
    assert meta["settings"] == dataclasses.asdict(TINY)
    assert meta["versions"]["jax"] == jax.__version__
    assert "CC BY 4.0" in meta["source"]

    assert ddpm.main(argv) == 2  # a pool is there already
    assert out in capsys.readouterr().err

    # The seed decides everything: the same again with it, other weights, batches and
    # pictures with another.
    data = arrays.digits("train")
    params, losses = diffusion.train(TINY, data)
    again, _ = ddpm.draw_pool(TINY, params, data, 17)
    np.testing.assert_array_equal(again.images, pool.images)
    other = dataclasses.replace(TINY, seed=1)
    redrawn, _ = ddpm.draw_pool(other, params, data, 17)
    assert not np.array_equal(redrawn.images, pool.images)
    assert not np.array_equal(diffusion.train(other, data)[1], losses)


@pytest.mark.parametrize(
    ("flag", "named"),
    [
        ("--steps=0", "--steps=0"),
        ("--steps=many", "--steps"),
        ("--per_class=-1", "--per_class=-1"),
        ("--guidance=nan", "--guidance=nan"),
        ("--label_dropout=1.5", "--label_dropout=1.5"),
        ("--sampling_steps=1001", "--sampling_steps=1001"),
        ("--learning_rate=0", "--learning_rate=0"),
        ("--width=6", "--width=6"),
        ("--dataset=mnist", "mnist"),
        ("--guidence=3", "--guidence=3"),
    ],
)
def test_bad_flags_exit_2(flag, named, tmp_path, capsys):
    argv = ["--dataset=digits", f"--out={tmp_path}/pool", flag]
    assert ddpm.main(argv) == 2
    said = capsys.readouterr().err
    assert named in said
    assert "Traceback" not in said
    assert not os.path.exists(f"{tmp_path}/pool")


def test_an_impossible_folder_exits_2(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert ddpm.main(["--dataset=digits", f"--out={tmp_path}/file"]) == 2
    assert "--out" in capsys.readouterr().err


def test_a_diverging_run_exits_1(tmp_path, capsys, monkeypatch):
    def diverge(state, key, images, labels):
        loss = jnp.where(state.step < 7, 1.0, jnp.nan)
        return state.replace(step=state.step + 1), loss

    monkeypatch.setattr(diffusion, "make_train_step", lambda *args: diverge)
    assert ddpm.main(["--dataset=digits", f"--out={tmp_path}/pool", *FLAGS]) == 1
    said = capsys.readouterr().err
    assert "from training step 7 on; lower --learning_rate" in said
