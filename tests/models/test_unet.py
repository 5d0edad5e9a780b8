"""The U-Net of the diffusion model against formulas."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.trees import moved

from rsmatch_jax.models import unet
from rsmatch_jax.synthesis.ddpm import diffusion
from rsmatch_jax.synthesis.ddpm import settings as ddpm_settings


def test_time_features_are_sinusoids():
    got = unet.time_features(jnp.array([0, 7, 1000]), 8)
    angles = np.array([0, 7, 1000])[:, None] * 10_000.0 ** (-np.arange(4) / 4)
    want = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "multipliers", "attention"),
    [
        (8, (1, 2), ()),
        (16, (1, 2, 2), (16, 8)),
        (24, (1, 2, 2, 2), (12,)),
        (32, (1, 2, 2, 2), (16, 8)),
        (64, (1, 2, 3, 4), (16, 8)),
    ],
)
def test_unet_by_image_size(size, multipliers, attention):
    settings = dataclasses.replace(ddpm_settings.SMALL, width=8, blocks=2)
    net = diffusion.network(settings, size, num_classes=3)
    images, labels = jnp.zeros((4, size, size, 3)), jnp.zeros((4,), jnp.int32)
    out, params = jax.eval_shape(
        net.init_with_output, jax.random.key(0), images, labels, labels
    )
    assert out.shape == images.shape
    assert out.dtype == jnp.float32
    params = params["params"]
    assert params["label"]["embedding"].shape == (3 + 1, 4 * 8)
    channels = [8 * m for m in multipliers]
    for i, width in enumerate(channels):
        for j in range(2):
            kernel = params[f"encode_{i}_{j}"]["conv_1"]["kernel"]
            assert kernel.shape == (3, 3, width, width)
            attends = f"attention_encode_{i}_{j}" in params
            assert attends == (size >> i in attention)
    assert f"encode_{len(channels)}_0" not in params
    assert ("attention_middle" in params) == bool(attention)


def test_parameters_of_the_presets():
    def count(settings, shape):
        net = diffusion.network(settings, shape[0], 10)
        images, labels = jnp.zeros((1, *shape)), jnp.zeros((1,), jnp.int32)
        params = jax.eval_shape(net.init, jax.random.key(0), images, labels, labels)
        return sum(p.size for p in jax.tree.leaves(params))

    assert count(ddpm_settings.SMALL, (8, 8, 1)) == 442_017
    # DDPM's for CIFAR-10 has 35.7 million, attention at 16 px alone.
    assert count(ddpm_settings.COLOUR, (32, 32, 3)) == 32_278_275


def test_unet_starts_at_zero_and_heeds_time_and_class():
    net = unet.UNet(num_classes=3, width=8)
    images = jnp.tile(jax.random.normal(jax.random.key(0), (1, 8, 8, 1)), (4, 1, 1, 1))
    times, labels = jnp.array([1, 1, 500, 1]), jnp.array([0, 3, 0, 0])
    params = jax.jit(net.init)(jax.random.key(1, impl="rbg"), images, times, labels)
    apply = jax.jit(net.apply)
    np.testing.assert_array_equal(apply(params, images, times, labels), 0)

    # Once the zero kernels move, time and class both matter.
    out = apply(moved(params, seed=2), images, times, labels)
    assert jnp.abs(out[0] - out[1]).max() > 1e-3
    assert jnp.abs(out[0] - out[2]).max() > 1e-3
    np.testing.assert_allclose(out[0], out[3], atol=1e-5)


def test_attention_is_its_formula():
    net = unet.Attention()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 3, 128)).astype(np.float32)
    on_device = jnp.asarray(x)
    params = net.init(jax.random.key(0), on_device)
    np.testing.assert_array_equal(net.apply(params, on_device), x)  # zero at first
    params = moved(params)
    p = jax.tree.map(np.asarray, params["params"])

    groups = x.reshape(2, 9, 8, 16)
    mean = groups.mean((1, 3), keepdims=True)
    scaled = (groups - mean) / np.sqrt(groups.var((1, 3), keepdims=True) + 1e-6)
    h = scaled.reshape(2, 9, 128) * p["norm"]["scale"] + p["norm"]["bias"]
    h = h @ p["query_key_value"]["kernel"] + p["query_key_value"]["bias"]
    # 128 channels are two heads of 64: [query, key or value, image, head, pixel, 64].
    query, key, value = h.reshape(2, 9, 3, 2, 64).transpose(2, 0, 3, 1, 4)
    weights = np.exp(query @ key.swapaxes(2, 3) / 8)
    weights /= weights.sum(3, keepdims=True)
    want = (weights @ value).transpose(0, 2, 1, 3).reshape(2, 9, 128)
    want = x + (want @ p["out"]["kernel"] + p["out"]["bias"]).reshape(x.shape)
    np.testing.assert_allclose(net.apply(params, on_device), want, atol=1e-4)


def test_dropout_follows_from_each_rows_key():
    x = jnp.ones((6, 20, 20, 4))
    keys = jax.random.split(jax.random.key(0), 6)
    got = np.asarray(unet.drop(x, keys, 0.25, "here"))
    assert set(np.unique(got)) == {np.float32(0), np.float32(1 / 0.75)}
    assert 0.73 < (got > 0).mean() < 0.77
    alone = unet.drop(x[4:5], keys[4:5], 0.25, "here")
    np.testing.assert_array_equal(alone[0], got[4])
    assert not np.array_equal(got[0], got[1])
    assert not np.array_equal(got, unet.drop(x, keys, 0.25, "there"))
