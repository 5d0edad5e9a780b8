"""IOMatch against its formulas written out row by row in numpy, on networks whose
outputs are looked up in tables; its start, its alignment and its outlier score."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.helpers import config, leaves
from support.iomatch_oracle import Oracle, pairs
from support.table_networks import (
    TAU,
    K,
    U,
    batch,
    method_of,
    picture,
    rows,
    run,
    run_one,
    softmax,
)

from rsmatch_jax.models.networks import Linear, Projector

STEPS, START, DA = 24, 4, 5
CUTOFF, MB, UNSUP, OPEN = 0.45, 1.3, 0.7, 0.6
IOMATCH = {"method.name": "iomatch"}
SETTINGS = {
    **IOMATCH,
    "method.iomatch.q_cutoff": CUTOFF,
    "method.iomatch.mb_weight": MB,
    "method.iomatch.open_weight": OPEN,
    "method.iomatch.open_start": START / 50,  # of train.num_steps
    "method.iomatch.da_length": DA,
}
ALIGN = {"method.iomatch.align": True}
close = functools.partial(np.testing.assert_allclose, rtol=1e-5)


def stream(steps=STEPS, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        yield batch(rng)


def uneven(params):
    """Tables with rare classes, and with predictions sure enough for 0.95."""
    tables = params["classifier"]
    real = 3 * tables["real"] - 0.8 * jnp.arange(K)[None, :]
    return {"classifier": {**tables, "real": real}}


@pytest.mark.parametrize("align", [False, True])
def test_equals_its_formulas_over_many_steps(align):
    """Every loss, share, buffer and the whole gradient in 24 steps of plain SGD, on one
    device and on four, whose parameters are equal."""
    keys = {**SETTINGS, "method.iomatch.align": align}
    dims, method, nets, params = method_of(**keys)
    extra, runs = method.init_extra(dims), {}
    for devices in (1, 4):
        oracle = Oracle(TAU, CUTOFF, (MB, UNSUP, OPEN), START, DA * align)
        runs[devices] = run(method, nets, params, extra, stream(), devices, rate=0.5)
        for t, (b, step) in enumerate(zip(stream(), runs[devices], strict=True)):
            metrics, grads = oracle.advance(step.params["classifier"], b)
            assert step.metrics.keys() == {*metrics, "grads"}
            for name, value in metrics.items():
                close(step.metrics[name], value, atol=1e-6, err_msg=f"{name}, {t}")
            for head, value in grads.items():
                got = step.metrics["grads"]["classifier"][head]
                close(got, value, atol=1e-6, err_msg=f"{head}, {t}")
                if head != "projection" and (head != "open" or t >= START):
                    assert np.abs(value).max() > 1e-3
            assert step.extra.keys() == oracle.buffers().keys()
            for name, value in oracle.buffers().items():
                close(step.extra[name], value, atol=1e-6)
            assert (step.metrics["loss_open"] > 0) == (t >= START)
        for name in ("utilisation", "open_utilisation", "called_synthetic"):
            shares = [step.metrics[name] for step in runs[devices]]
            assert 0.1 < np.mean(shares) < 0.9, name
    for one, four in zip(runs[1], runs[4], strict=True):
        for head, value in one.params["classifier"].items():
            close(four.params["classifier"][head], value, atol=1e-5)


def test_heads_of_the_authors_network():
    """One-vs-all classifiers without a bias and the open head read the perceptron."""
    assert method_of(**IOMATCH)[1].heads(K) == {
        "classifier": {
            "real": K,
            "projection": Projector(128, count=1, hidden=None),
            "outlier": Linear(2 * K, bias=False, of="projection"),
            "open": Linear(K + 1, bias=True, of="projection"),
        }
    }


def test_first_step_at_its_defaults():
    """Those of the authors' CIFAR-10 files: all weights 1, no alignment, no open loss
    in the first of 256 epochs."""
    c = config()
    assert c.method.iomatch.to_dict() == {
        "q_cutoff": 0.5,
        "projection_size": 128,
        "mb_weight": 1.0,
        "open_weight": 1.0,
        "open_start": 1024 / 2**18,
        "align": False,
        "da_length": 128,
    }
    shipped = {
        "method.threshold": c.method.threshold,
        "method.unsup_weight": c.method.unsup_weight,
        "train.num_steps": 2**18,
    }
    _, method, nets, params = method_of(**IOMATCH, **shipped)
    params, b = uneven(params), next(stream())
    out, extra = run_one(method, nets, params, {}, b)
    expected, _ = Oracle(0.95, 0.5, (1, 1, 1), 1024, 0).advance(params["classifier"], b)
    for name, value in expected.items():
        close(out[name], value, atol=1e-7, err_msg=name)
    assert extra == {} and 0 < expected["utilisation"] < 0.5
    assert expected["loss_open"] == 0 < expected["open_utilisation"]


def test_alignment_counts_empty_rows_of_its_queue():
    """With 127 of 128 rows empty, 1e-6 is as large as the mean of a rare class. The
    aligned predictions give mask, target and the outlier score alike."""
    dims, method, nets, params = method_of(**IOMATCH, **ALIGN)
    params, b = uneven(params), next(stream())
    out, extra = run_one(method, nets, params, method.init_extra(dims), b)
    oracles = [Oracle(TAU, 0.5, (1, UNSUP, 1), 0, rows) for rows in (128, 1, 0)]
    expected, *others = (o.advance(params["classifier"], b)[0] for o in oracles)
    for name, value in expected.items():
        close(out[name], value, atol=1e-7, err_msg=name)
    for other in others:  # its filled row alone, and no alignment
        for name in ("loss_unsup", "loss_open"):
            assert abs(other[name] - expected[name]) > 1e-4 * expected[name]
    assert extra["da_queue"].shape == (128, K) and extra["da_pointer"] == 1
    assert (extra["da_queue"][1:] == 0).all()


def test_outlier_score_is_the_expected_probability_of_being_outside():
    """That of the loss, without alignment; it decides what is called synthetic."""
    _, method, nets, params = method_of(**SETTINGS)
    b = next(stream())
    table = {h: np.asarray(t, np.float64) for h, t in params["classifier"].items()}
    weak = rows(b.weak)
    origins = {h: jnp.asarray(table[h][weak]) for h in ("real", "outlier")}
    real, synthetic = np.exp(method.origin(origins)).T
    p = softmax(table["real"][weak])
    expected = [p[i] @ pairs(table["outlier"][w])[0] for i, w in enumerate(weak)]
    close(synthetic, expected)
    close(real, 1 - synthetic)
    assert 0 < np.mean(synthetic >= 0.5) < 1
    out, _ = run_one(method, nets, params, {}, b)
    close(out["called_synthetic"], np.mean(synthetic >= 0.5))


@pytest.mark.parametrize(("sign", "score"), [(1, 1.0), (-1, 0.0)])
def test_outlier_score_of_zero_or_one_is_finite(sign, score):
    real = 300.0 * jax.nn.one_hot(jnp.array([0, K - 1]), K)
    ones = jnp.full((2, K), 300.0 * sign)
    origins = method_of(**IOMATCH)[1].origin(
        {"real": real, "outlier": jnp.concatenate([ones, -ones], axis=1)}
    )
    assert np.isfinite(origins).all()
    np.testing.assert_array_equal(jax.nn.softmax(origins)[:, 1], score)


def test_extreme_logits_give_a_finite_step():
    """Predictions and scores of exactly 0 and 1 in every head."""
    dims, method, nets, params = method_of(**SETTINGS, **ALIGN)
    params = jax.tree.map(lambda t: 300 * jnp.sign(t), params)
    out = run_one(method, nets, params, method.init_extra(dims), next(stream()))
    for path, value in leaves(out).items():
        assert np.isfinite(value).all(), path


@pytest.mark.parametrize(
    ("switch", "terms"),
    [
        ({"method.iomatch.q_cutoff": 0.9}, {"loss_open"}),
        ({"method.threshold": 0.9}, {"loss_unsup"}),
        (ALIGN, {"loss_unsup", "loss_open"}),
        ({"method.iomatch.mb_weight": 0.0}, set()),  # weights change the sum alone
        ({"method.iomatch.open_weight": 0.0}, set()),
        ({"method.unsup_weight": 0.0}, set()),
        ({"train.weak_forward": "separate"}, set()),
    ],
)
def test_each_switch_changes_exactly_its_terms(switch, terms):
    results, b = [], next(stream())
    for keys in ({}, switch):
        late = {**SETTINGS, "method.iomatch.open_start": 0.0, **keys}
        dims, method, nets, params = method_of(**late)
        results.append(run_one(method, nets, params, method.init_extra(dims), b)[0])
    plain, other = results
    names = [name for name in plain if name.startswith("loss_")]
    assert terms == {n for n in names if not np.isclose(plain[n], other[n], rtol=1e-6)}
    assert (plain["loss"] == other["loss"]) == (switch.keys() == {"train.weak_forward"})


def test_unlabelled_images_move_no_one_vs_all_classifier():
    """Labelled, weak and strong images are different rows of the tables."""
    _, method, nets, params = method_of(
        **{**SETTINGS, "method.iomatch.open_start": 0.0}
    )
    b = next(stream())
    lab, strong = np.arange(len(b.labels)), np.arange(100, 100 + U)
    weak = np.arange(50, 50 + U)
    b = b.replace(lab=picture(lab), weak=picture(weak), strong=picture(strong))
    out, _ = run_one(method, nets, params, {}, b)
    touched = {
        head: set(np.flatnonzero(np.abs(g).sum(axis=1)).tolist())
        for head, g in out["grads"]["classifier"].items()
    }
    assert touched["outlier"] == set(lab.tolist())
    assert touched["open"] and touched["open"] < set(strong.tolist())
    assert set(lab.tolist()) < touched["real"] < {*lab.tolist(), *strong.tolist()}
    assert not touched["projection"]
