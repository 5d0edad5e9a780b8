"""Pseudo-labelling rules: repeated images, first steps, switches, fairness.

See test_methods.py for all rules against their formulas, over consecutive steps.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.helpers import config
from support.rule_oracles import DIMS, SETTINGS, STEPS, N, gathered_fairness
from support.table_networks import TAU, K, U, softmax

from rsmatch_jax.methods import base, rules
from rsmatch_jax.methods.freematch import fairness_loss
from rsmatch_jax.runtime import parallel


def run_rule(name, logits, indices, keys):
    """`select` step by step: a list of (labels, weights, buffers)."""
    rule = rules.make(name, config(**{"method.threshold": TAU, **SETTINGS, **keys}))

    @jax.jit
    def select(logits, indices, buffers):
        labels = jnp.zeros(1, jnp.int32)
        inputs = base.RuleInputs(logits, indices, logits[:1], labels, None)
        return rule.select(inputs, buffers)

    buffers, steps = rule.init(DIMS), []
    for rows in zip(logits, indices, strict=True):
        labels, weights, buffers = select(*rows, buffers)
        assert weights.dtype == np.float32
        steps.append((labels, weights, buffers))
    return steps


def random_steps(seed, scale=2.0):
    """Logits that favour few classes, and positions with repetitions."""
    rng = np.random.default_rng(seed)
    bias = np.linspace(0, 2, K, dtype=np.float32)
    logits = scale * rng.normal(size=(STEPS, U, K)).astype(np.float32) + bias
    return logits, rng.integers(0, N, (STEPS, U)).astype(np.int32)


def test_flexmatch_keeps_beta_while_one_class_holds_everything():
    """M_all = N: nobody selected at first, in the end all of one class."""
    everyone = np.arange(N, dtype=np.int32)
    sure = np.tile(np.float32(20) * np.eye(K, dtype=np.float32)[4], (N, 1))
    third = np.where(everyone[:, None] < N // 3, sure, 0.0)
    steps = run_rule("flexmatch", [0 * sure, third, sure], [everyone] * 3, {})
    none, some, every = (np.asarray(s[2]["effect"]) for s in steps)
    np.testing.assert_array_equal(none, 0)
    np.testing.assert_array_equal(some, 0.5 * np.eye(K)[4])  # 10 of it, 20 unused
    assert (np.asarray(steps[2][2]["selected"]) == 4).all()
    np.testing.assert_array_equal(every, some)


DEFAULTS = {
    "freematch": {"ema_decay": 0.999, "entropy_weight": 0.001},
    "softmatch": {"ema_decay": 0.999, "n_sigma": 2, "align": True},
    "adamatch": {"ema_decay": 0.999, "align": True},
}


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("freematch", 0.9, 1), ("softmatch", 1, 1), ("adamatch", 0.1, 0.99)],
)
def test_first_step_at_its_defaults(name, least, most):
    """FreeMatch's threshold begins near 1 / K, SoftMatch's mean too; AdaMatch's is a
    share of the labelled images' confidence at once."""
    options = config().method[name]
    assert DEFAULTS[name].items() <= dict(options).items()
    logits, indices = random_steps(seed=2)
    keys = {f"method.{name}.ema_decay": options.ema_decay}
    (step,) = run_rule(name, logits[:1], indices[:1], keys)
    assert least <= step[1].mean() <= most


def test_softmatch_survives_equal_confidences():
    """All are 1 and the variance is 0: nobody lies below the mean."""
    logits = np.tile(500 * np.eye(K, dtype=np.float32)[3], (2, U, 1))
    indices = np.zeros((2, U), np.int32)
    keys = {"method.softmatch.ema_decay": 0.0, "method.softmatch.align": False}
    for _, weights, buffers in run_rule("softmatch", logits, indices, keys):
        assert buffers["variance"] == 0
        np.testing.assert_array_equal(weights, 1)


@pytest.mark.parametrize("clip", [True, False])
def test_freematch_clips_tau_by_its_switch(clip):
    logits, indices = random_steps(seed=3, scale=60.0)  # confidences of nearly 1
    keys = {"method.freematch.clip_threshold": clip, "method.freematch.ema_decay": 0.5}
    tau = run_rule("freematch", logits, indices, keys)[-1][2]["tau"]
    assert (tau == np.float32(0.95)) == clip
    assert clip or tau > 0.96


@pytest.mark.parametrize("num_devices", [1, 4])
def test_fairness_equals_the_gathered_version(num_devices):
    """Value, and gradient by finite differences in float64, of the mean over devices
    as the train step takes it."""
    rng = np.random.default_rng(4)
    logits = 2 * rng.normal(size=(U, K)).astype(np.float32)
    mask = rng.random(U) < 0.5
    p, h = rng.dirichlet(np.ones(K)), rng.dirichlet(np.ones(K))
    h[2] = 0  # x / 0 counts as 0
    devices = jax.local_devices()[:num_devices]

    def run(buffers, rows):
        def loss(shift):  # [U, K], the same on every device, as parameters are
            z = rows["logits"] + parallel.local_rows(shift)
            return fairness_loss(z, rows["weights"], *buffers, parallel.AXIS)

        value, gradient = jax.value_and_grad(loss)(jnp.zeros((U, K)))
        return value, parallel.mean(gradient)

    mapped = parallel.map_eval(run, devices)
    buffers = (p.astype(np.float32), h.astype(np.float32))

    def evaluate(mask):
        rows = {"logits": logits, "weights": mask.astype(np.float32)}
        rows = parallel.shard_rows(rows, devices)
        value, gradient = mapped(buffers, rows)
        assert (np.asarray(value) == value[0]).all()
        return value[0], gradient[0]

    def oracle(z):
        return gathered_fairness(softmax(z)[mask], p, h)

    value, gradient = evaluate(mask)
    assert value < 0
    np.testing.assert_allclose(value, oracle(logits), rtol=1e-5)
    z, step = logits.astype(np.float64), 1e-6
    expected = np.zeros((U, K))
    for i, c in np.ndindex(U, K):
        up, down = z.copy(), z.copy()
        up[i, c] += step
        down[i, c] -= step
        expected[i, c] = (oracle(up) - oracle(down)) / (2 * step)
    np.testing.assert_allclose(gradient, expected, atol=1e-5 * np.abs(expected).max())
    value, gradient = evaluate(np.zeros(U, bool))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)
