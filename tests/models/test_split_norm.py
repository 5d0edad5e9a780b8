"""Norms of real and of synthetic rows: each against BatchNorm on its rows alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.helpers import assert_bit_equal, batches, build, leaves, train

from rsmatch_jax.methods.base import StepInputs
from rsmatch_jax.models import networks
from rsmatch_jax.models.norm import BatchNorm

OPTIONS = {"use_running_average": False, "momentum": 0.9, "slope": 0.1}
MASKS = {
    "some": [0, 1, 1, 0, 0, 1, 0, 1],
    "one": [0, 0, 0, 1, 0, 0, 0, 0],
    "none": [0] * 8,
    "all": [1] * 8,
    "a device": [1, 1, 0, 0, 0, 0, 0, 1],
}


def example(dtype=jnp.float32):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(8, 4, 4, 3)) * [0.5, 2, 1] + [-0.3, 3, 0]
    params = {"scale": [0.7, -1.2, 1.0], "bias": [0.1, -0.4, 0.0]}
    params |= {"synthetic_scale": [1.4, 0.3, -1], "synthetic_bias": [-0.2, 0.5, 0.1]}
    stats = {"mean": rng.normal(size=3), "var": rng.uniform(0.5, 2, size=3)}
    values = params, stats, x, rng.normal(size=x.shape)
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), values, is_leaf=_is_list)


def _is_list(x):
    return isinstance(x, list)


def derivatives(module, params, stats, x, weights, *mask):
    """dL/d(params, x), y and the new running statistics."""

    def loss(params, x):
        variables = {"params": params, "batch_stats": stats}
        y, new = module.apply(variables, x, *mask, mutable=["batch_stats"])
        return jnp.sum(y * weights), (y, new["batch_stats"])

    (_, (y, new)), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)
    return grads, y, new


def assert_close(results, expected, tolerance):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, tolerance, tolerance),
        results,
        expected,
    )


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("mask", MASKS)
def test_each_kind_is_normalised_alone(mask, unbiased):
    """In float64, which leaves no room for chance."""
    synthetic = np.array(MASKS[mask], bool)
    with jax.enable_x64(True):
        params, stats, x, weights = example(jnp.float64)
        options = {**OPTIONS, "dtype": jnp.float64, "unbiased": unbiased}
        module = BatchNorm(**options, split=True)
        (by_params, by_x), y, new = derivatives(
            module, params, stats, x, weights, jnp.asarray(synthetic)
        )
        for kind, prefix in ((~synthetic, ""), (synthetic, "synthetic_")):
            names = {name: f"{prefix}{name}" for name in ("scale", "bias")}
            if not kind.any():
                for name in names.values():
                    np.testing.assert_array_equal(by_params[name], 0)
                if not prefix:
                    assert_bit_equal(new, stats)
                continue
            (alone, alone_x), alone_y, alone_new = derivatives(
                BatchNorm(**options),
                {name: params[there] for name, there in names.items()},
                stats,
                x[kind],
                weights[kind],
            )
            assert_close((by_x[kind], y[kind]), (alone_x, alone_y), 1e-12)
            assert_close({n: by_params[m] for n, m in names.items()}, alone, 1e-12)
            if not prefix:
                assert_close(new, alone_new, 1e-12)


@pytest.mark.parametrize("mask", MASKS)
def test_four_devices_are_one(mask):
    """Also where a device has no row of a kind."""
    synthetic = jnp.array(MASKS[mask], bool)
    params, stats, x, weights = example()
    module = functools.partial(BatchNorm, **OPTIONS, split=True)
    one = derivatives(module(), params, stats, x, weights, synthetic)
    parts = [a.reshape(4, 2, *a.shape[1:]) for a in (x, weights, synthetic)]
    run = functools.partial(derivatives, module(axis_name="batch"), params, stats)
    (by_params, by_x), y, new = jax.pmap(
        run, axis_name="batch", devices=jax.devices()[:4]
    )(*parts)
    by_params = jax.tree.map(lambda g: g.sum(0), by_params)
    results = (by_params, by_x.reshape(x.shape)), y.reshape(x.shape)
    assert_close(results, one[:2], 1e-5)
    assert_close(jax.tree.map(lambda s: s[3], new), one[2], 1e-6)


@pytest.mark.parametrize("name", ["wrn_10_1", "resnet18"])
def test_a_network_without_synthetic_rows_is_the_plain_one(name):
    plain, split = (
        networks.make(name, {"real": 3}, split_bn=flag) for flag in (False, True)
    )
    images = jax.random.normal(jax.random.key(1), (6, 32, 32, 3))
    variables, twice = (
        jax.jit(n.init)(jax.random.key(0), images) for n in (plain, split)
    )
    assert_bit_equal(twice[1], variables[1])
    params, both = leaves(variables[0]), leaves(twice[0])
    added = both.keys() - params.keys()
    norms = {path for path in params if "'scale'" in path}
    assert len(added) == 2 * len(norms) > 0
    assert all("synthetic_" in path for path in added)
    assert_bit_equal({path: both[path] for path in params}, params)
    none = jnp.zeros(6, bool)
    expected, stats = plain.apply(*variables, images, True)
    got, new = split.apply(*twice, images, True, synthetic=none)
    assert_close((got, new), (expected, stats), 1e-4)
    assert_bit_equal(
        split.apply(*twice, images, False), plain.apply(*variables, images, False)
    )
    # Every norm hears of the synthetic rows: the real ones are as if they were alone.
    some = jnp.array([0, 1, 0, 0, 1, 0], bool)
    got, new = split.apply(*twice, images, True, synthetic=some)
    expected, stats = plain.apply(*variables, images[~some], True)
    assert_close(
        (got.logits["real"][~some], new), (expected.logits["real"], stats), 1e-4
    )


@pytest.mark.parametrize("weak_forward", ["cat", "separate"])
def test_rows_that_rsmatch_routes_synthetic(weak_forward):
    """By truth: the unlabelled images in each view; labelled rows are real."""
    routing = {"method.rsmatch.routing": "oracle", "train.weak_forward": weak_forward}
    _, _, exp = build(**routing, **{"model.split_bn": True, "model.sync_bn": False})
    state = exp.init_state()
    truth = np.arange(8) % 3 == 0
    batch = dataclasses.replace(next(batches(exp, 1)), synthetic=jnp.asarray(truth))
    seen = []

    def apply(params, stats, images, train, **options):
        seen.append([(len(images), np.asarray(x).tolist()) for x in options.values()])
        return exp.nets["classifier"].apply(params, stats, images, train, **options)

    nets = {**exp.nets, "classifier": exp.nets["classifier"]._replace(apply=apply)}
    batch = jax.tree.map(jnp.asarray, batch)
    inputs = StepInputs(
        nets, state.stats, state.extra, batch, state.key, state.step, None
    )
    exp.method.loss(state.params, inputs)
    views = truth.tolist()
    expected = [[(20, [False] * 4 + 2 * views)]]
    if weak_forward == "separate":
        expected = [[(12, [False] * 4 + views)], [(8, views)]]
    assert seen == expected


def test_a_step_on_four_devices_is_one():
    """A coin's verdicts move the synthetic norms, and the step is the same."""
    keys = {"model.split_bn": True, "method.rsmatch.routing": "random"}
    keys, states = {**keys, "method.threshold": 0.1}, []
    for devices in (1, 4):
        _, _, exp = build(devices, **keys)
        state, metrics = train(exp, batches(exp, 2))
        assert 0 < metrics[-1]["routed_synthetic"] < 1
        states.append(leaves(state))
    one, four = states
    first = leaves(exp.init_state())
    (moved,) = (p for p in one if "synthetic_scale" in p and ".params" in p)
    assert np.abs(one[moved] - first[moved]).max() > 0
    for path in one:
        np.testing.assert_allclose(four[path], one[path], 1e-4, 1e-5, err_msg=path)
