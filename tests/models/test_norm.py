"""BatchNorm with its activation against flax's, finite differences and one device."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rsmatch_jax.models.norm import BatchNorm

ACTIVATIONS = {
    1.0: lambda z: z,
    0.0: nn.relu,
    0.1: functools.partial(nn.leaky_relu, negative_slope=0.1),
}
SHAPES = ((8, 4, 4, 3), (8, 5, 3), (16, 3))
OPTIONS = {"use_running_average": False, "momentum": 0.9, "epsilon": 1e-3}


def example(shape, dtype):
    """Variables, images and the weights of a loss; numpy arrays of a dtype."""
    rng = np.random.default_rng(len(shape))
    x = rng.normal(size=shape) * [0.5, 2, 1] + [-0.3, 3, 0]
    params = {"scale": np.array([0.7, -1.2, 1.0]), "bias": np.array([0.1, -0.4, 0.0])}
    stats = {"mean": rng.normal(size=3), "var": rng.uniform(0.5, 2, size=3)}
    values = params, stats, x, rng.normal(size=shape)
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), values)


def derivatives(module, activation, params, stats, x, weights):
    """dL/d(params, x), y and the new running statistics."""

    def loss(params, x):
        variables = {"params": params, "batch_stats": stats}
        y, new = module.apply(variables, x, mutable=["batch_stats"])
        y = activation(y)
        return jnp.sum(y.astype(weights.dtype) * weights), (y, new)

    (_, (y, new)), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)
    return grads, y, new


def assert_close(results, expected, tolerance):
    def compare(a, b):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, tolerance, tolerance * np.abs(b).max())

    jax.tree.map(compare, results, expected)


@pytest.mark.parametrize("slope", ACTIVATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_flax_and_its_derivative(slope, shape):
    """In float64, flax's is exact enough to judge each lower precision."""
    ours = {"slope": slope, "unbiased": False}

    def run(dtype, image_dtype=None):
        params, stats, x, weights = example(shape, dtype)
        x = x.astype(image_dtype or dtype)
        options = {**OPTIONS, "dtype": x.dtype}
        theirs = nn.BatchNorm(**options), ACTIVATIONS[slope]
        return [
            derivatives(*module, params, stats, x, weights)
            for module in ((BatchNorm(**options, **ours), lambda y: y), theirs)
        ]

    with jax.enable_x64(True):
        wide, exact = run(jnp.float64)
        assert_close(wide, exact, 1e-12)
    single, flax = run(jnp.float32)
    assert_close(single, exact, 1e-6)
    half, flax_half = run(jnp.float32, jnp.bfloat16)
    for a, b in ((single, flax), (half, flax_half)):
        assert [v.dtype for v in jax.tree.leaves(a)] == [
            v.dtype for v in jax.tree.leaves(b)
        ]
    # 8 bits, rounded between norm and activation in flax's.
    assert_close(half, flax_half, 2**-7)


def test_finite_differences():
    with jax.enable_x64(True):
        params, stats, x, weights = example((4, 2, 2, 3), jnp.float64)
        module = BatchNorm(**OPTIONS, slope=0.1, dtype=jnp.float64)

        def loss(params, x):
            variables = {"params": params, "batch_stats": stats}
            y, _ = module.apply(variables, jnp.asarray(x), mutable=["batch_stats"])
            return jnp.sum(y * weights)

        check_grads(loss, (params, x), 1, ["rev"], 1e-7, 1e-7, 1e-6)
        # Nobody needs forward mode: an error, not a wrong number.
        with pytest.raises(TypeError, match="forward-mode"):
            jax.jvp(lambda x: loss(params, x), (x,), (x,))


@pytest.mark.parametrize("unbiased", [True, False])
def test_running_statistics_and_evaluation(unbiased):
    params, stats, x, _ = example((8, 4, 4, 3), jnp.float32)
    variables = {"params": params, "batch_stats": stats}
    module = BatchNorm(**OPTIONS, unbiased=unbiased)
    _, new = module.apply(variables, x, mutable=["batch_stats"])
    flat = np.asarray(x, np.float64).reshape(-1, 3)
    for name, value in (("mean", flat.mean(0)), ("var", flat.var(0, ddof=unbiased))):
        expected = 0.9 * np.asarray(stats[name]) + 0.1 * value
        np.testing.assert_allclose(new["batch_stats"][name], expected, 1e-6, 1e-6)
    options = {**OPTIONS, "use_running_average": True}
    y = BatchNorm(**options, slope=0.1).apply(variables, x)
    expected = ACTIVATIONS[0.1](nn.BatchNorm(**options).apply(variables, x))
    np.testing.assert_array_equal(y, expected)


def test_four_devices_are_one():
    """Per device, the gradient is that of the sum of all losses, as autodiff's is."""
    params, stats, x, weights = example((8, 4, 4, 3), jnp.float32)
    same = (lambda y: y,)
    one = derivatives(BatchNorm(**OPTIONS, slope=0.1), *same, params, stats, x, weights)
    parts = x.reshape(4, 2, *x.shape[1:]), weights.reshape(4, 2, *x.shape[1:])
    for module, rest in (
        (BatchNorm(**OPTIONS, slope=0.1, axis_name="batch"), same),
        (nn.BatchNorm(**OPTIONS, axis_name="batch"), (ACTIVATIONS[0.1],)),
    ):
        run = functools.partial(derivatives, module, *rest, params, stats)
        (by_params, by_x), y, new = jax.pmap(
            run, axis_name="batch", devices=jax.devices()[:4]
        )(*parts)
        by_params = jax.tree.map(lambda g: g.sum(0), by_params)
        results = (by_params, by_x.reshape(x.shape)), y.reshape(x.shape)
        assert_close(results, one[:2], 3e-6)
        if isinstance(module, BatchNorm):
            assert_close(jax.tree.map(lambda s: s[0], new), one[2], 1e-6)
