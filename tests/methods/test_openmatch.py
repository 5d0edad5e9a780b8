"""OpenMatch against its formulas written out image by image in numpy, on networks whose
logits are looked up in tables."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import table_networks
from support.helpers import config, leaves, step_inputs
from support.openmatch_oracle import Oracle, members
from support.table_networks import (
    B,
    K,
    U,
    batch,
    picture,
    rows,
    run,
    run_one,
    softmax,
    step_key,
)

from rsmatch_jax.methods import one_vs_all, openmatch

STEPS, FIRST_FIX = 24, 4
MIXED = {  # every term counts, every mask is mixed
    "method.openmatch.oem_weight": 0.3,
    "method.openmatch.socr_weight": 0.2,
    "method.openmatch.start_fix": FIRST_FIX / 50,  # of train.num_steps
    "method.openmatch.threshold": 0.3,
    "method.openmatch.temperature": 2.0,
}
MIXED_ORACLE = Oracle(0.3, 0.2, 0.7, FIRST_FIX, 0.3, 2.0)
TERMS = ("loss_sup", "loss_ova", "loss_oem", "loss_socr", "loss_unsup")


def stream(steps=STEPS, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        b = batch(rng)
        yield b.replace(weak2=picture(rng.integers(0, 256, U)))


def method_of(scale=1.0, **overrides):
    """(method, networks, parameters, no buffers), and other tables as the EMA."""
    dims, method, nets, params = table_networks.method_of(
        **{"method.name": "openmatch", **overrides}
    )
    params = jax.tree.map(lambda x: scale * x, params)
    ema = jax.tree.map(lambda x: jnp.roll(x, 100, axis=0), params)
    return (method, nets, params, method.init_extra(dims)), ema


def close(a, b, name=""):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_equals_its_formulas_over_many_steps(scale):
    """Every loss and share over 24 steps of plain SGD, on one device and on four, also
    where probabilities are 0 and 1 in float32. Parameters are equal at the end."""
    runs = {}
    for devices in (1, 4):
        parts, ema = method_of(scale, **MIXED)
        runs[devices] = run(*parts, stream(), devices, rate=0.5, ema=ema)
        seen = []
        for t, (b, step) in enumerate(zip(stream(), runs[devices], strict=True)):
            expected = MIXED_ORACLE.losses(step.params, ema, b, t)
            for name, value in expected.items():
                close(step.metrics[name], value, f"{name}, step {t}")
            assert (expected["loss_unsup"] > 0) == (t >= FIRST_FIX)
            seen.append(expected)
            assert step.extra == {}
        assert all(min(s[name] for s in seen) > 0 for name in TERMS[:-1])
        assert all(0 < s["selected"] < 1 for s in seen)
        sure = [s["utilisation"] / s["selected"] for s in seen[FIRST_FIX:]]
        assert min(sure) < 1 or scale > 1  # the threshold stops some
        assert len({s["selected"] for s in seen}) > 3
    assert np.abs(runs[1][-1].params["classifier"]["outlier"]).max() > 0
    for one, four in zip(runs[1], runs[4], strict=True):
        for a, b in zip(*(jax.tree.leaves(s.params) for s in (one, four)), strict=True):
            close(a, b)


def test_gradient_equals_differences_of_the_formulas():
    """Of the oracle's loss in float64, at entries that a batch reads, in both heads."""
    parts, ema = method_of(**{**MIXED, "method.openmatch.start_fix": 0.0})
    b, rng = next(stream(seed=3)), np.random.default_rng(0)
    out, _ = run_one(*parts, b, ema=ema)
    tables = {k: np.asarray(v, np.float64) for k, v in parts[2]["classifier"].items()}
    views = [b.lab, b.weak, b.weak2, b.strong]
    compared = []
    for head, table in tables.items():
        for row in {int(rng.choice(rows(view))) for view in views for _ in range(2)}:
            for column in rng.integers(0, table.shape[1], 4):
                value, losses = table[row, column], []
                for shift in (1e-5, -1e-5):
                    table[row, column] = value + shift
                    live = {"classifier": tables}
                    losses.append(MIXED_ORACLE.losses(live, ema, b, STEPS)["loss"])
                table[row, column] = value
                slope = (losses[0] - losses[1]) / 2e-5
                grad = out["grads"]["classifier"][head][row, column]
                np.testing.assert_allclose(grad, slope, rtol=1e-4, atol=1e-6)
                compared.append((head, slope != 0))
    for head in tables:
        assert sum(moved for name, moved in compared if name == head) >= 8


def test_first_step_at_the_shipped_defaults():
    """The authors' weights; pseudo-labels wait for the second of 50 steps."""
    c = config(**{"method.name": "openmatch"})
    assert dict(c.method.openmatch) == {
        "oem_weight": 0.1,
        "socr_weight": 0.5,
        "start_fix": 10 / 512,
        "threshold": 0.0,
        "temperature": 1.0,
    }
    parts, ema = method_of(**{"method.unsup_weight": 1.0})
    steps = run(*parts, stream(2), ema=ema)
    oracle = Oracle(first_fix=1)
    for t, (b, step) in enumerate(zip(stream(2), steps, strict=True)):
        for name, value in oracle.losses(step.params, ema, b, t).items():
            close(step.metrics[name], value, name)
    first, second = (step.metrics for step in steps)
    assert first["utilisation"] == first["loss_unsup"] == 0 < first["selected"]
    assert second["utilisation"] == second["selected"] > 0


@pytest.mark.parametrize(
    ("share", "num_steps", "first"),
    [(10 / 512, 2**20, 20480), (10 / 512, 600, 12), (0.07, 100, 7), (0.13, 50, 6)]
    + [(1.0, 50, 50)],  # after the last step
)
def test_pseudo_labels_count_from_the_nearest_step(share, num_steps, first):
    keys = {"method.openmatch.start_fix": share, "train.num_steps": num_steps}
    (method, nets, params, extra), ema = method_of(**keys)
    b = jax.tree.map(jnp.asarray, next(stream()))
    for step, counts in ((first - 1, False), (first, True)):
        at = jnp.int32(step)
        inputs = step_inputs(nets, extra, b, step_key(0), at, axis=None, ema=ema)
        metrics = method.loss(params, inputs)[1][2]
        assert (metrics["utilisation"] > 0) == counts


def test_an_undecided_network_selects_nothing():
    """From logits of zero: every loss in closed form, no NaN, no division by none."""
    parts, ema = method_of(0.0, **{"method.openmatch.start_fix": 0.0})
    out, _ = run_one(*parts, next(stream()), ema=ema)
    for value in leaves(out).values():
        assert np.isfinite(value).all()
    log2 = math.log(2)
    expected = dict(zip(TERMS, (math.log(K), 2 * log2, log2, 0, 0), strict=True))
    expected |= {"selected": 0, "utilisation": 0}
    expected["loss"] = math.log(K) + 2.1 * log2
    for name, value in expected.items():
        close(out[name], value, name)


def test_logarithms_are_bounded_where_probabilities_are_zero():
    """-log(0 + 1e-8) = 18.4, where a log-sigmoid would give 80; no gradient is NaN."""
    logits = 200.0 * jnp.concatenate([jnp.ones((1, K)), -jnp.ones((1, K))], axis=1)
    label = jnp.zeros(1, jnp.int32)
    bound = -math.log(1e-8)
    close(one_vs_all.loss(logits, label), bound)  # in, of its class: 0
    close(one_vs_all.loss(-logits, label), bound)  # out, of another: 0
    right = jnp.where(jnp.arange(2 * K) % K == 0, -logits, logits)
    close(one_vs_all.loss(right, label), 0)
    close(openmatch.entropy(jnp.exp(one_vs_all.log_members(logits))), 0)
    parts, ema = method_of(40.0)
    out, _ = run_one(*parts, next(stream()), ema=ema)
    assert 1 < out["loss_ova"] < 2 * bound
    for value in leaves(out["grads"]).values():
        assert np.isfinite(value).all()


@pytest.mark.parametrize(
    ("key", "value", "changed"),
    [
        ("method.openmatch.oem_weight", 0.0, set()),
        ("method.openmatch.socr_weight", 0.0, set()),
        ("method.unsup_weight", 0.0, set()),
        ("method.openmatch.start_fix", 1.0, {"loss_unsup", "utilisation"}),
        ("method.openmatch.threshold", 0.5, {"loss_unsup", "utilisation"}),
        ("method.openmatch.temperature", 4.0, {"loss_unsup", "utilisation"}),
        ("method.threshold", 0.99, None),  # read by evaluation alone
    ],
)
def test_each_key_changes_exactly_its_terms(key, value, changed):
    """And the loss, unless the method does not read the key (None)."""
    keys = {**MIXED, "method.openmatch.start_fix": 0.0}
    b = next(stream(seed=1))
    parts, ema = method_of(**keys)
    base, _ = run_one(*parts, b, ema=ema)
    other, _ = run_one(*method_of(**{**keys, key: value})[0], b, ema=ema)
    differs = {k for k in base if k != "grads" and base[k] != other[k]}
    assert differs == (set() if changed is None else changed | {"loss", "value"})


def test_only_the_selection_reads_the_ema_parameters():
    """With threshold 0 each selected image is used, and no other."""
    parts, ema = method_of(**{"method.openmatch.start_fix": 0.0})
    b = next(stream(seed=1))
    results = [run_one(*parts, b, ema=shadow)[0] for shadow in (ema, parts[2])]
    for out in results:
        assert out["utilisation"] == out["selected"]
    differs = {k for k, v in results[0].items() if k != "grads" and results[1][k] != v}
    assert differs == {"loss_unsup", "utilisation", "selected", "loss", "value"}


def test_passes_of_a_step():
    """One of B + 3 U rows in training mode, and one of the U first weak views by the
    EMA parameters with the live statistics, in inference mode."""
    (method, nets, params, extra), ema = method_of()
    passes, b = [], jax.tree.map(jnp.asarray, next(stream()))

    def apply(*arguments):
        passes.append(arguments)
        return table_networks.apply(*arguments)

    nets = {"classifier": nets["classifier"]._replace(apply=apply)}
    key = jax.random.key(0)
    inputs = step_inputs(nets, extra, b, key, jnp.int32(0), axis=None, ema=ema)
    method.loss(params, inputs)
    training, selection = passes
    assert training[0] is params["classifier"]
    assert len(training[2]) == B + 3 * U and training[3] is True
    assert selection[0] is ema["classifier"]
    assert selection[1] is inputs.stats["classifier"]
    np.testing.assert_array_equal(selection[2], b.weak)
    assert selection[3] is False


def test_origin_is_that_of_the_likeliest_class():
    """softmax of its logits: (o_in, o_out) at the argmax of "real"."""
    (method, _, params, _), _ = method_of()
    logits = params["classifier"]
    origins = np.asarray(jax.nn.softmax(method.origin(logits)))
    for row in range(256):
        best = int(np.argmax(softmax(logits["real"][row])))
        o_out, o_in = members(logits["outlier"][row])
        close(origins[row], [o_in[best], o_out[best]])
    assert 0.2 < np.mean(origins[:, 1] > 0.5) < 0.8
