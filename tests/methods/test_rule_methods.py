"""Methods with each rule against the same formulas, over consecutive steps, on networks
whose logits are tables."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.helpers import config, leaves, step_inputs
from support.rule_oracles import (
    CASES,
    MAIN,
    SETTINGS,
    STEPS,
    WEIGHT,
    N,
    softmax,
)
from test_methods import TAU_DETECTOR, B, U, batch, log_softmax, method_of

from rsmatch_jax.runtime import parallel


def small_method(method_name, rule, keys):
    """A method on tables, with N images; its networks, parameters, first buffers."""
    name = {"rsmatch": {"method.rsmatch.pseudo_label": rule}}.get(
        method_name, {"method.name": rule}
    )
    exp, method, nets, params = method_of(**SETTINGS, **name, **keys)
    dims = dataclasses.replace(exp.dims, num_unlabeled=N)
    return method, nets, params, method.init_extra(dims)


def run_method(method, nets, params, extra, stream, num_devices=1):
    """Steps with plain SGD: a list of (parameters before, metrics, buffers after)."""
    devices = jax.local_devices()[:num_devices]

    def run(state, batch):
        params, extra, t = state
        key = jax.random.fold_in(jax.random.key(7), t)
        inputs = step_inputs(nets, extra, batch, key, t)
        loss = jax.grad(lambda p: method.loss(p, inputs), has_aux=True)
        grads, (_, extra, metrics) = loss(params)
        grads, metrics = parallel.mean((grads, metrics))
        params = jax.tree.map(lambda p, g: p - 0.5 * g, params, grads)
        return (params, extra, t + 1), metrics

    mapped = parallel.map_step(run, devices)
    state = jax.tree.map(jnp.copy, (params, extra, jnp.int32(0)))
    state, steps = parallel.replicate(state, devices), []
    for b in stream:
        before = jax.tree.map(np.array, state[0])
        state, metrics = mapped(state, parallel.shard_rows(b, devices))
        steps.append((before, jax.device_get(metrics), leaves(state[1])))
    return steps


def stream(seed):
    rng = np.random.default_rng(seed)
    for _ in range(STEPS):
        indices = rng.integers(0, N, U).astype(np.int32)
        yield batch(rng).replace(indices=indices)


def expected_losses(oracle, params, b):
    """Cross-entropies and fairness of a step; with a detector, of its two parts."""
    tables = {
        h: np.asarray(t, np.float64) for p in params.values() for h, t in p.items()
    }
    at = {v: getattr(b, v)[:, 0, 0, 0].astype(int) for v in ("lab", "weak", "strong")}
    q, strong = (softmax(tables["real"][at[v]]) for v in ("weak", "strong"))
    labels, mask = oracle.select(q, b.indices)
    expected = {"loss_sup": 0.0, "loss_unsup": 0.0, "loss_unsup_fake": 0.0}
    for row, y in zip(at["lab"], b.labels, strict=True):
        expected["loss_sup"] -= log_softmax(tables["real"][row])[y] / B
    to_real = []
    for i in range(U):
        synthetic = "detector" in tables and np.argmax(
            tables["detector"][at["weak"][i]]
        )
        head, name = (
            ("fake", "loss_unsup_fake") if synthetic else ("real", "loss_unsup")
        )
        if mask[i]:
            ce = -log_softmax(tables[head][at["strong"][i]])[labels[i]]
            expected[name] += ce / U
            to_real += [] if synthetic else [i]
    expected["loss_fairness"] = oracle.fairness(strong[to_real])
    expected["utilisation"] = np.mean(mask)
    expected["loss"] = (
        expected["loss_sup"]
        + 0.7 * (expected["loss_unsup"] + 0.6 * expected["loss_unsup_fake"])
        + WEIGHT * expected["loss_fairness"]
    )
    return expected


@pytest.mark.parametrize("case", MAIN)
@pytest.mark.parametrize("method_name", ["alone", "rsmatch"])
def test_method_equals_its_equations(method_name, case):
    """Over 24 steps, every buffer and loss. The detector's own two losses have their
    oracle in test_methods.py."""
    rule, oracle, switches, keys = CASES[case]
    oracle = oracle(**switches)
    method = small_method(method_name, rule, keys)
    fairness = []
    for b, (params, metrics, extra) in zip(
        stream(5), run_method(*method, stream(5)), strict=True
    ):
        expected = expected_losses(oracle, params, b)
        if method_name == "rsmatch":
            assert TAU_DETECTOR == 0.7
            expected["loss"] += metrics["detector_loss_sup"]
            expected["loss"] += 1.3 * metrics["detector_loss_unsup"]
        for name, value in expected.items():
            if name in metrics:
                np.testing.assert_allclose(
                    metrics[name], value, rtol=1e-5, atol=1e-6, err_msg=name
                )
        assert ("loss_unsup_fake" in metrics) == (method_name == "rsmatch")
        assert ("loss_fairness" in metrics) == (rule == "freematch")
        place = "['rule']" if method_name == "rsmatch" else ""
        for name, value in oracle.buffers().items():
            np.testing.assert_allclose(
                extra[f"{place}['{name}']"], value, rtol=1e-5, atol=1e-7
            )
        fairness.append(expected["loss_fairness"])
    assert any(fairness) == (rule == "freematch")


@pytest.mark.parametrize("rule", MAIN)
@pytest.mark.parametrize("method_name", ["alone", "rsmatch"])
def test_one_device_equals_four(method_name, rule):
    """Parameters after every step are the proof of the gradient; memory to the bit."""
    method = small_method(method_name, rule, {})
    one, four = (run_method(*method, stream(6), d) for d in (1, 4))
    for (params_1, metrics_1, extra_1), (params_4, metrics_4, extra_4) in zip(
        one, four, strict=True
    ):
        for a, b in zip(*map(jax.tree.leaves, (params_1, params_4)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
        for name in metrics_1:
            np.testing.assert_allclose(
                metrics_1[name], metrics_4[name], rtol=1e-5, atol=1e-5, err_msg=name
            )
        for path, value in extra_1.items():
            exact = np.issubdtype(value.dtype, np.integer)
            tolerance = {"rtol": 0} if exact else {"rtol": 1e-5, "atol": 1e-6}
            np.testing.assert_allclose(extra_4[path], value, **tolerance, err_msg=path)


def test_rsmatch_takes_fixmatch_by_default():
    """Another rule changes which rows count and nothing of the detector."""
    assert config().method.rsmatch.pseudo_label == MAIN[0] == "fixmatch"
    steps = (run_method(*small_method("rsmatch", r, {}), stream(8)) for r in MAIN)
    fix, *others = (metrics for (_, metrics, _), *_ in steps)
    for first in others:
        assert first["utilisation"] > fix["utilisation"]
        for name in fix:
            if name.startswith("detector") or name in ("loss_sup", "routed_synthetic"):
                assert first[name] == fix[name], name
