"""The update against its recursions, written out for one number."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import trees

from rsmatch_jax import optim


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.03), (2**18, 0.0282463), (2**19, 0.0231903), (2**20 - 1, 0.00585275)],
)
def test_cosine_at_known_points(step, rate):
    schedule = optim.cosine_7_16(0.03, 2**20)
    assert float(schedule(step)) == pytest.approx(rate, rel=1e-5)


def test_warm_up_is_linear_and_shifts_the_cosine():
    schedule = optim.cosine_7_16(0.1, 110, warmup_steps=10)
    assert float(schedule(5)) == pytest.approx(0.05)
    assert float(schedule(10)) == pytest.approx(0.1)
    expected = 0.1 * math.cos(math.pi * 7 / 16 * 0.5)
    assert float(schedule(60)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("nesterov", [True, False])
def test_five_steps_of_sgd(nesterov):
    """torch.optim.SGD: g + wd p; b = m b + g; p -= lr (g + m b), or lr b."""
    sgd = optim.SGD(0.1, 0.9, nesterov, 0.01)
    tx = optim.make({"net": sgd}, num_steps=50, warmup_steps=0)
    params = {"net": {"kernel": jnp.full((1, 1), 2.0), "bias": jnp.full((1,), 2.0)}}
    state = tx.init(params)
    expected, momentum = {"kernel": 2.0, "bias": 2.0}, {"kernel": 0.0, "bias": 0.0}
    for t, grad in enumerate([0.5, -1.0, 0.25, 2.0, 0.0]):
        grads = jax.tree.map(lambda p, g=grad: jnp.full_like(p, g), params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        rate = 0.1 * math.cos(math.pi * 7 / 16 * t / 50)
        for name, decay in (("kernel", 0.01), ("bias", 0.0)):
            g = grad + decay * expected[name]
            momentum[name] = 0.9 * momentum[name] + g
            step = g + 0.9 * momentum[name] if nesterov else momentum[name]
            expected[name] -= rate * step
            np.testing.assert_allclose(
                np.asarray(params["net"][name]).item(), expected[name], rtol=1e-5
            )


def test_each_network_has_its_options():
    tx = optim.make(
        {"a": optim.SGD(0.1, 0.0, False, 0.0), "b": optim.SGD(0.4, 0.0, False, 0.5)},
        num_steps=10,
        warmup_steps=0,
    )
    params = {n: {"kernel": jnp.ones((1, 1))} for n in "ab"}
    updates, _ = tx.update(params, tx.init(params), params)
    assert updates["a"]["kernel"].item() == pytest.approx(-0.1)
    assert updates["b"]["kernel"].item() == pytest.approx(-0.4 * 1.5)


def test_decay_acts_on_kernels_only():
    """WRN-28-2 with 10 classes: 1,463,984 parameters under weight decay."""
    params, _ = trees.shapes("wrn_28_2", {"real": 10})
    mask = optim.decayed(params)
    sizes = jax.tree.map(lambda p, m: p.size if m else 0, params, mask)
    assert sum(jax.tree.leaves(sizes)) == 1_463_984


def ema(old, new, step, **options):
    update = optim.ema_update({"w": old}, {"w": new}, jnp.int32(step), **options)
    return update["w"]


@pytest.mark.parametrize("decay", [0.999, 0.99, 0.9])
def test_shadow_weights(decay):
    """d s + (1 - d) p in float64, where 1 - d of a float32 d is off by 5e-5."""
    options = {"decay": decay, "warmup": False}
    s, p = np.random.default_rng(0).normal(size=(2, 100)).astype(np.float32)
    want = decay * s.astype(np.float64) + (1 - decay) * p.astype(np.float64)
    np.testing.assert_allclose(ema(s, p, 5, **options), want, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(ema(s, s, 5, **options), s, rtol=1.2e-7)
    new = ema(np.float32(0), np.float32(1), 5, **options)
    assert new == np.float32(1 - decay)


@pytest.mark.parametrize("step", [0, 1, 90, 8_990, 10**6])
def test_shadow_weights_warm_up(step):
    old, new = (ema(*x, step, decay=0.999, warmup=True) for x in ((1, 0), (0, 1)))
    want = min(0.999, (1 + step) / (10 + step))
    np.testing.assert_allclose((old, new), (want, 1 - want), rtol=2e-7)
