"""Compares the diffusion model with formulas: process, training, drawing."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.trees import moved
from tiny_diffusion import TINY, assert_one_equals_four

from rsmatch_jax.data.stores import arrays
from rsmatch_jax.runtime import parallel
from rsmatch_jax.synthesis.ddpm import denoiser, diffusion


def test_schedule_is_the_papers_cosine():
    got = diffusion.alpha_bars()
    assert got.shape == (1001,)
    assert got.dtype == np.float32

    def f(t):
        return np.cos((t / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2

    levels = np.arange(1000)  # only the last one reaches the bound on beta
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
    for signal, want in ((0.64, 0.8 * image + 0.6 * noise), (1.0, image)):
        got = diffusion.ddim_step(noisy, noise, jnp.float32(0.36), jnp.float32(signal))
        np.testing.assert_allclose(got, want, atol=1e-5)
    # The predicted image is (0.9 - 0.8 * -1.5) / 0.6 = 3.5. It is clipped to 1, and the
    # noise is then (0.9 - 0.6) / 0.8.
    clipped = diffusion.ddim_step(jnp.full(1, 0.9), jnp.full(1, -1.5), 0.36, 0.64)
    np.testing.assert_allclose(clipped, 0.8 + 0.6 * 0.3 / 0.8, rtol=1e-5)


def test_dropped_labels_become_the_extra_class():
    labels = jnp.arange(20_000, dtype=jnp.int32) % 10
    got = np.asarray(diffusion.drop_labels(jax.random.key(0), labels, 0.1, 10))
    dropped = got == 10
    assert 0.09 < dropped.mean() < 0.11
    np.testing.assert_array_equal(got[~dropped], np.asarray(labels)[~dropped])
    for rate, want in ((0.0, labels), (1.0, jnp.full_like(labels, 10))):
        got = diffusion.drop_labels(jax.random.key(0), labels, rate, 10)
        np.testing.assert_array_equal(got, want)


def test_mirrored_images_are_about_half():
    images = jnp.arange(400 * 3 * 2, dtype=jnp.uint8).reshape(400, 1, 3, 2)
    got = np.asarray(diffusion.flip_some(jax.random.key(0), images))
    same = (got == np.asarray(images)).all((1, 2, 3))
    mirrored = (got == np.asarray(images)[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert 0.4 < mirrored.mean() < 0.6


def test_learning_rate_rises_then_falls():
    # Adam's update for a gradient that never changes is the learning rate.
    settings = dataclasses.replace(TINY, learning_rate=0.5, warmup_steps=5, steps=25)
    tx = denoiser.optimizer(settings)
    params, gradient = jnp.zeros(()), jnp.ones(())
    state, got = tx.init(params), []
    for _ in range(25):
        update, state = tx.update(gradient, state, params)
        got.append(-float(update))
    t = np.arange(20)
    falling = 0.5 * (1 + np.cos(np.pi * t / 20)) / 2
    np.testing.assert_allclose(got, [*np.arange(5) / 10, *falling], atol=1e-5)


def test_large_gradients_are_clipped():
    def update(first, clip):
        tx = denoiser.optimizer(dataclasses.replace(TINY, gradient_clip=clip))
        state = tx.init(jnp.zeros(2))
        _, state = tx.update(first * jnp.array([0.6, 0.8]), state)
        return tx.update(jnp.array([0.1, 0.2]), state)[0]

    np.testing.assert_allclose(update(50, 1.0), update(1, 0.0), rtol=1e-5)
    assert abs(update(50, 0.0) - update(1, 0.0)).max() > 1e-3


FULL = dataclasses.replace(
    TINY, steps=6, batch_size=8, dropout=0.3, flip=True, gradient_clip=1.0
)


def mapped_step(settings, num_devices):
    """Returns (step, its arguments) for weights without zeros."""
    data = arrays.fake("train")
    devices = jax.local_devices()[:num_devices]
    tx = optax.sgd(1.0)
    state = denoiser.init_state(settings, 10, data.images.shape[1:], tx)
    start = moved(jax.device_get(state.params), size=0.05)
    state = parallel.replicate(state.replace(params=start), devices)
    inputs = parallel.replicate((jax.random.key(3), data.images, data.labels), devices)
    step = denoiser.make_train_step(settings, 10, tx)
    step = parallel.map_resident_step(step, 3, devices)
    return step, (state, *inputs, parallel.ranks(devices))


def one_step(settings, num_devices):
    """Returns (gradient, loss)."""
    step, arguments = mapped_step(settings, num_devices)
    start = jax.device_get(arguments[0].params)
    state, loss = step(*arguments)
    end = jax.device_get(state.params)
    return jax.tree.map(lambda a, b: a - b, start, end), float(loss)


def test_one_device_equals_four(shallow):
    assert_one_equals_four(functools.partial(one_step, FULL))


def test_drawing_on_one_device_equals_four(shallow):
    settings, labels = dataclasses.replace(FULL, guidance=1.0), np.arange(6)
    net, devices = diffusion.network(settings, 8, 10), jax.local_devices()
    key = jax.random.key(0, impl="rbg")
    numbers = jnp.asarray(labels)
    first = net.init(key, jnp.zeros((6, 8, 8, 3)), numbers, numbers)
    params = moved(first, size=0.02)
    one, four = (
        diffusion.make_sampler(settings, (8, 8, 3), 10, devices[:n])(
            params, jax.random.key(1), labels.astype(np.int32)
        )
        for n in (1, 4)  # the six pictures are no multiple of four
    )
    assert one.shape == (6, 8, 8, 3)
    np.testing.assert_allclose(one, four, atol=1e-4)


def test_bfloat16_is_for_activations_alone(shallow):
    half = dataclasses.replace(FULL, dtype="bfloat16")
    step, arguments = mapped_step(half, 1)
    before, (after, loss) = arguments[0], jax.eval_shape(step, *arguments)
    assert loss.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(before.params)} == {jnp.dtype("float32")}
    assert [x.dtype for x in jax.tree.leaves(after)] == [
        x.dtype for x in jax.tree.leaves(before)
    ]

    nets = [diffusion.network(settings, 8, 10) for settings in (FULL, half)]
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    labels = jnp.arange(4)
    inputs = images, 100 * labels, labels
    exact = jax.jit(nets[0].apply)(before.params, *inputs)
    apply = functools.partial(nets[1].apply, capture_intermediates=True)
    rounded, seen = jax.jit(apply)(before.params, *inputs)
    assert rounded.dtype == jnp.float32
    assert not np.array_equal(rounded, exact)
    np.testing.assert_allclose(rounded, exact, atol=0.03 * jnp.abs(exact).max())
    blocks = ("encode", "decode", "middle", "attention", "stem")
    seen = seen["intermediates"]
    names = [name for name in seen if name.startswith(blocks)]
    assert len(names) == 8
    for name in names:
        assert seen[name]["__call__"][0].dtype == jnp.bfloat16, name


class Scale:
    """A network of one weight, quick to compile: noise is `scale` times image."""

    def lazy_init(self, key, images, times, labels):
        return {"scale": jax.random.normal(key, ())}

    def apply(self, params, images, times, labels, keys):
        assert keys.shape == images.shape[:1]
        return params["scale"] * images


def test_training_learns(shallow, tmp_path):
    data, devices = arrays.digits("train"), jax.local_devices()[:1]
    state, losses = denoiser.train(TINY, data, devices, str(tmp_path), 100)
    losses = np.asarray(losses)
    assert losses.shape == (60,)
    assert losses[0] == pytest.approx(1, abs=0.1)  # predicts 0 of unit noise
    assert losses[-10:].mean() < 0.6
    # The averaged weights learnt too: pure noise is nearly all noise.
    apply = jax.jit(diffusion.network(TINY, 8, 10).apply)
    noise = jax.random.normal(jax.random.key(0), (64, 8, 8, 1))
    times = jnp.full((64,), 900)
    guess = apply(jax.device_get(state.ema), noise, times, jnp.arange(64) % 11)
    assert jnp.mean((guess - noise) ** 2) < 0.6


def test_training_mirrors_images_if_asked(monkeypatch):
    monkeypatch.setattr(diffusion, "network", lambda *args: Scale())
    plain = one_step(dataclasses.replace(FULL, flip=False), 1)[1]
    assert one_step(FULL, 1)[1] != plain


def test_dropout_is_for_training(shallow):
    inputs = jnp.ones((4, 8, 8, 3)), jnp.arange(4), jnp.arange(4)
    with_dropout = diffusion.network(FULL, 8, 10)
    without = diffusion.network(dataclasses.replace(FULL, dropout=0.0), 8, 10)
    params = moved(with_dropout.lazy_init(jax.random.key(0, impl="rbg"), *inputs))
    keys = jax.random.split(jax.random.key(1), 4)
    drawn = with_dropout.apply(params, *inputs)
    np.testing.assert_array_equal(drawn, without.apply(params, *inputs))
    trained = with_dropout.apply(params, *inputs, keys)
    assert (jnp.abs(trained - drawn).max(axis=(1, 2, 3)) > 1e-3).all()


def test_every_step_has_its_own_batch(monkeypatch, tmp_path):
    monkeypatch.setattr(diffusion, "network", lambda *args: Scale())
    still = dataclasses.replace(TINY, learning_rate=1e-12, steps=4)
    data, devices = arrays.digits("train"), jax.local_devices()
    _, losses = denoiser.train(still, data, devices, str(tmp_path), 9)
    assert len(set(losses)) == 4


def test_drawing_with_a_perfect_predictor_finds_its_images(monkeypatch):
    # Class c is a flat picture of grey MEANS[c]; with no label, the net says MEANS[2].
    # Guidance 3 must then end at 4 * MEANS[c] - 3 * MEANS[2].
    means = jnp.array([0.1, -0.2, 0.05])
    signals = jnp.asarray(diffusion.alpha_bars())

    class Oracle:
        def apply(self, params, noisy, times, labels):
            signal = signals[times][:, None, None, None]
            clean = means[labels][:, None, None, None]
            return (noisy - jnp.sqrt(signal) * clean) / jnp.sqrt(1 - signal)

    monkeypatch.setattr(diffusion, "network", lambda *args: Oracle())
    settings = dataclasses.replace(TINY, guidance=3.0, sampling_steps=10)
    draw = diffusion.make_sampler(settings, (4, 4, 1), 2, jax.local_devices())
    ticks = []
    labels = np.array([0, 1, 1], np.int32)
    got = draw({}, jax.random.key(0), labels, lambda: ticks.append(1))
    want = np.array([0.4 - 0.15, -0.8 - 0.15, -0.8 - 0.15])[:, None, None, None]
    np.testing.assert_allclose(got, np.broadcast_to(want, got.shape), atol=1e-4)
    assert len(ticks) == 10
