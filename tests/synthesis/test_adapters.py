"""Tests the adapters that let the diffusion model take a difficulty: the mathematics of
low rank, fine-tuning, and drawing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.trees import flat, moved
from tiny_diffusion import TINY, assert_one_equals_four

from rsmatch_jax.data.stores import arrays
from rsmatch_jax.models import unet
from rsmatch_jax.runtime import parallel
from rsmatch_jax.synthesis.ddpm import adapters, denoiser, diffusion
from rsmatch_jax.synthesis.ddpm.settings import Tuning

SMALL = dataclasses.replace(TINY, steps=6, batch_size=8, flip=True)
TUNING = Tuning(rank=3, tuning_steps=4, difficulty_dropout=0.3)


def networks(settings=SMALL):
    """Returns (net, its parameters without zeros, new adapters)."""
    net = diffusion.network(settings, 8, 10)
    inputs = jnp.ones((2, 8, 8, 3)), jnp.arange(2), jnp.arange(2)
    base = moved(jax.device_get(net.init(jax.random.key(0, impl="rbg"), *inputs)))
    return net, base, adapters.init(settings, 3, base, 10)


def test_new_adapters_change_nothing(shallow):
    net, base, new = networks()
    images = jax.random.normal(jax.random.key(1), (6, 8, 8, 3))
    times, labels = jnp.arange(6) * 150, jnp.array([0, 3, 9, 10, 2, 5])
    want = jax.jit(net.apply)(base, images, times, labels)
    apply, tuned = jax.jit(net.apply), adapters.merge(base, new)
    for level in (diffusion.HIDDEN, 0.0, 0.7):
        got = apply(tuned, images, times, labels, None, jnp.full(6, level))
        np.testing.assert_array_equal(got, want)
    other = adapters.merge(base, moved(jax.device_get(new)))
    got = apply(other, images, times, labels, None, jnp.full(6, 0.7))
    assert (jnp.abs(got - want).max((1, 2, 3)) > 1e-3).all()


def test_dense_layers_alone_change_by_a_product_of_low_rank(shallow):
    _, base, new = networks()
    new = moved(jax.device_get(new))
    before, after = flat(base["params"]), flat(adapters.merge(base, new)["params"])
    changed = {k for k in before if not np.array_equal(before[k], after[k])}
    blocks = ("encode_0_0", "middle_0", "middle_1", "decode_0_0")
    spots = ("encode_0_0", "middle", "decode_0_0")
    assert changed == {
        "time_0/kernel",
        "time_1/kernel",
        *(f"{block}/condition/kernel" for block in blocks),
        *(f"attention_{spot}/query_key_value/kernel" for spot in spots),
        *(f"attention_{spot}/out/kernel" for spot in spots),
    }
    assert changed == set(new["low_rank"])
    for path, pair in new["low_rank"].items():
        a, b = (np.asarray(pair[name], np.float64) for name in "ab")
        change = after[path].astype(np.float64) - before[path]
        np.testing.assert_allclose(change, np.einsum("ir,ro->io", a, b), atol=1e-5)
        assert np.linalg.matrix_rank(change, tol=1e-3) == 3
    assert set(after) - set(before) == {
        f"difficulty/{layer}/{leaf}"
        for layer in ("hidden_0", "hidden_1", "out")
        for leaf in ("kernel", "bias")
    }


def test_first_changes_have_the_variance_of_lora():
    base = {"params": {"layer": {"kernel": np.zeros((400, 30), np.float32)}}}
    pair = adapters.init(SMALL, 20, base, 10)["low_rank"]["layer/kernel"]
    assert pair["a"].std() == pytest.approx(1 / 20, rel=0.05)
    assert pair["b"].shape == (20, 30)
    assert not pair["b"].any()


def test_the_embedding_is_an_mlp_of_class_and_difficulty():
    net = unet.Difficulty(4, 8)
    labels = jnp.array([0, 3, 4, 1])  # 4 is no label
    levels = jnp.array([0.0, 0.8, 0.3, -1.0])
    params = moved(net.init(jax.random.key(0), labels, levels))
    weights = jax.tree.map(lambda x: np.asarray(x, np.float64), params["params"])
    h = np.concatenate([np.eye(5)[[0, 3, 4, 1], :4], levels[:, None]], axis=1)
    for layer in ("hidden_0", "hidden_1"):
        h = h @ weights[layer]["kernel"] + weights[layer]["bias"]
        h = h / (1 + np.exp(-h))
    want = h @ weights["out"]["kernel"] + weights["out"]["bias"]
    want[3] = 0  # hidden
    np.testing.assert_allclose(net.apply(params, labels, levels), want, atol=1e-5)


def tune_step(num_devices, chances=None):
    """Returns (the change of the adapters by one step of SGD, loss)."""
    data, devices = arrays.fake("train"), jax.local_devices()[:num_devices]
    _, base, new = networks()
    tx, start = optax.sgd(1.0), moved(jax.device_get(new), size=0.05)
    state = denoiser.State(jnp.zeros((), jnp.int32), start, start, tx.init(start))
    scores = np.linspace(0, 1, len(data.labels)).astype(np.float32)
    if chances is None:
        chances = np.full(len(scores), 1 / len(scores))
    totals = np.cumsum(chances).astype(np.float32)
    inputs = jax.random.key(3), data.images, data.labels, scores, totals, base
    state = parallel.replicate(state, devices)
    inputs = parallel.replicate(inputs, devices)
    step = adapters.make_train_step(SMALL, TUNING, 10, tx)
    step = parallel.map_resident_step(step, 6, devices)
    state, loss = step(state, *inputs, parallel.ranks(devices))
    end = jax.device_get(state.params)
    return jax.tree.map(lambda a, b: a - b, start, end), float(loss)


def test_fine_tuning_on_one_device_equals_four(shallow):
    assert_one_equals_four(tune_step)


def test_images_are_chosen_by_their_chances(monkeypatch):
    """The step gets noise of the chosen images; a spy notes which they are."""
    seen, data = [], arrays.fake("train")
    chances = np.zeros(len(data.labels))
    chances[[3, 50, 639]] = 0.2, 0.5, 0.3
    key_of = {data.images[i].tobytes(): i for i in (3, 50, 639)}

    def spy(settings, keys, clean, labels, num_classes):
        seen.extend(key_of[np.asarray(image).tobytes()] for image in clean)
        return jnp.zeros(clean.shape), jnp.zeros(clean.shape), labels, labels, keys

    class Levels:
        def apply(self, params, noisy, times, labels, keys, levels):
            hidden.extend(np.asarray(levels).tolist())
            return noisy

    hidden = []
    monkeypatch.setattr(denoiser, "noised", spy)
    monkeypatch.setattr(diffusion, "network", lambda *args: Levels())
    monkeypatch.setattr(adapters, "merge", lambda base, new: {})
    monkeypatch.setattr(parallel, "local_rows", lambda rows: rows)
    monkeypatch.setattr(denoiser, "update", lambda s, tx, state, f: (state, f({})))
    big = dataclasses.replace(SMALL, batch_size=4000)
    step = adapters.make_train_step(big, TUNING, 10, optax.sgd(1.0))
    scores = np.linspace(0, 1, 640).astype(np.float32)
    totals = jnp.asarray(np.cumsum(chances), jnp.float32)
    zero = jnp.zeros((), jnp.int32)
    state = denoiser.State(zero, {}, {}, {})
    images, labels = jnp.asarray(data.images), jnp.asarray(data.labels)
    step(state, jax.random.key(0), images, labels, jnp.asarray(scores), totals, {})
    shares = [np.mean(np.array(seen) == i) for i in (3, 50, 639)]
    np.testing.assert_allclose(shares, [0.2, 0.5, 0.3], atol=0.03)
    hidden, seen = np.array(hidden), np.array(seen)
    dropped = hidden == diffusion.HIDDEN
    assert dropped.mean() == pytest.approx(0.3, abs=0.03)
    np.testing.assert_array_equal(hidden[~dropped], scores[seen[~dropped]])


class Table:
    """A network that predicts noise by the label's row in a table, times the image,
    plus the noise level, plus the difficulty if it is shown; the last row is that of no
    label."""

    values = np.array([0.3, 0.1, 0.5, 0.2])

    def apply(self, params, noisy, times, labels, keys=None, levels=None):
        assert keys is None
        rows = jnp.asarray(self.values, jnp.float32)[labels] + times / 5000
        if levels is not None:
            rows += jnp.where(levels < 0, 0.0, 0.1 * levels * (labels + 1))
        return rows[:, None, None, None] * noisy


@pytest.mark.parametrize("num_devices", [1, 4])
@pytest.mark.parametrize(
    ("is_mixed", "guidance"), [(False, 0.7), (True, 0.7), (True, None)]
)
def test_drawing_is_guided_by_class_and_by_difficulty(
    monkeypatch, num_devices, is_mixed, guidance
):
    """Between two classes by the mean of two predictions; guidance: of the difficulty,
    None without one."""
    monkeypatch.setattr(diffusion, "network", lambda *args: Table())
    settings = dataclasses.replace(TINY, guidance=1.5, sampling_steps=7)
    devices = jax.local_devices()[:num_devices]
    options = () if guidance is None else (guidance,)
    draw = diffusion.make_sampler(settings, (4, 4, 1), 3, devices, *options)
    labels, seconds = np.array([[0, 1, 2, 2, 0], [1, 2, 0, 1, 2]], np.int32)
    levels, key = np.array([0, 0.2, 0.5, 0.9, 1], np.float32), jax.random.key(4)
    more = {"second_labels": seconds} if is_mixed else {}
    more |= {} if guidance is None else {"difficulty": levels}
    got = draw({}, key, labels, **more)

    def predict(x, now, row, level):
        return (Table.values[row] + now / 5000 + 0.1 * level * (row + 1))[
            :, None, None, None
        ] * x

    # DDIM by hand, float64; clipping as the sampler does.
    x = np.asarray(jax.random.normal(key, (5, 4, 4, 1)), float)
    signals = diffusion.alpha_bars().astype(float)
    times = np.rint(np.linspace(1000, 0, 8)).astype(int)
    pairs = [labels, seconds] if is_mixed else [labels]
    for now, after in zip(times[:-1], times[1:], strict=True):
        plain = np.mean([predict(x, now, row, 0) for row in pairs], axis=0)
        full = np.mean([predict(x, now, row, levels) for row in pairs], axis=0)
        nothing = predict(x, now, np.full(5, 3), 0)
        noise = 2.5 * plain - 1.5 * nothing
        if guidance is not None:
            noise += (1 + guidance) * (full - plain)
        clean = (x - np.sqrt(1 - signals[now]) * noise) / np.sqrt(signals[now])
        clean = np.clip(clean, -1, 1)
        noise = (x - np.sqrt(signals[now]) * clean) / np.sqrt(1 - signals[now])
        x = np.sqrt(signals[after]) * clean + np.sqrt(1 - signals[after]) * noise
    assert np.mean(np.abs(x) < 0.9) > 0.2  # not all is clipped
    np.testing.assert_allclose(got, x, atol=1e-4)
