"""`ordering`: the same numbers, the first network's memory free for the second."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.helpers import BLOCKS, batches, build

from rsmatch_jax.methods import backward_first
from rsmatch_jax.runtime import compilation


def test_value_gradient_and_images():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(8, 4)), jnp.float32)
    images = jnp.asarray(rng.integers(0, 256, (8, 2)), jnp.uint8)
    params = {"w": jnp.asarray(rng.normal(size=4), jnp.float32)}

    def first(p):
        y = x @ p["w"]
        return jnp.mean(y**2), y

    def total(p):
        value, y, same = backward_first.differentiated_first(first, p, images)
        # y is a constant; the parameters may be used once more.
        return 3 * value + jnp.sum(p["w"] ** 3) + jnp.sum(y), (y, same)

    (value, (y, same)), grads = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    w = np.asarray(params["w"], np.float64)
    data = np.asarray(x, np.float64)
    np.testing.assert_allclose(y, data @ w, rtol=1e-5)
    np.testing.assert_array_equal(same, images)
    expected = 3 * np.mean((data @ w) ** 2) + np.sum(w**3) + np.sum(data @ w)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    gradient = 3 * 2 * data.T @ (data @ w) / len(data) + 3 * w**2
    np.testing.assert_allclose(grads["w"], gradient, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_images_stay_whole_when_the_gradient_is_not_finite(bad):
    images = jnp.arange(6, dtype=jnp.uint8)
    _, _, same = jax.jit(
        lambda p: backward_first.differentiated_first(
            lambda q: (q * bad, ()), p, {"images": images}
        )
    )(jnp.float32(1.0))
    np.testing.assert_array_equal(same["images"], images)


def test_the_detector_adds_no_activations_to_those_of_the_classifier():
    """Both networks are alike: RSMatch's step needs little more than FixMatch's, where
    one program for both losses needs twice as much."""
    temporary = {}
    for name in ("fixmatch", "rsmatch"):
        keys = {"train.batch_size": 32, "train.unlabeled_ratio": 7}
        _, _, exp = build(**keys, **BLOCKS, **{"method.name": name})
        lowered = exp.train_step().lower(
            exp.state_shapes(packed=True),
            jax.tree.map(lambda x: x[None], next(batches(exp, 1))),
        )
        analysis = compilation.compiled(lowered, "cpu").memory_analysis()
        temporary[name] = analysis.temp_size_in_bytes
    assert temporary["rsmatch"] < 1.25 * temporary["fixmatch"]
