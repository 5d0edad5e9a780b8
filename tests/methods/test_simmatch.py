"""SimMatch against its formulas written out row by row in numpy, on networks whose
logits and projections are looked up in tables; and its bank."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import table_networks
from support.helpers import build, leaves
from support.table_networks import K, batch, picture, rows, run, run_one, softmax

from rsmatch_jax.methods import simmatch
from rsmatch_jax.models.networks import Projector

B, U, N_LB, STEPS, WARMUP, DA = 8, 20, 12, 24, 3, 5
TAU, WEIGHT, INSTANCE = 0.4, 0.7, 1.3


def stream(steps=STEPS):
    """Global batches; some labelled images come twice in one batch."""
    rng = np.random.default_rng(0)
    for _ in range(steps):
        indices = rng.integers(0, N_LB, B).astype(np.int32)
        yield batch(rng, B, U).replace(lab_indices=indices)


def method_of(**overrides):
    """(method, networks, parameters, first buffers)"""
    dims, method, nets, params = table_networks.method_of(
        **{
            "method.name": "simmatch",
            "method.threshold": TAU,
            "method.unsup_weight": WEIGHT,
            "method.simmatch.instance_weight": INSTANCE,
            "method.simmatch.warmup_steps": WARMUP,
            "method.simmatch.da_length": DA,
            "method.simmatch.projection_size": 16,
            **overrides,
        },
    )
    dims = dataclasses.replace(dims, num_labeled=N_LB)
    return method, nets, params, method.init_extra(dims)


class Oracle:
    """The formulas of SimMatch as USB computes them, in float64."""

    def __init__(self, params, extra, norm):
        self.real, self.project = (
            np.asarray(params["classifier"][h], np.float64)
            for h in ("real", "projector")
        )
        self.bank = np.asarray(extra["bank"], np.float64)
        self.labels = np.zeros(N_LB, int)
        self.queue, self.pointer = np.zeros((DA, K)), 0
        self.norm, self.step = norm, 0

    def embedding(self, row):
        return self.project[row] / np.linalg.norm(self.project[row])

    def advance(self, b):
        lab, weak, strong = (rows(x) for x in (b.lab, b.weak, b.strong))
        bank, labels = self.bank.copy(), self.labels.copy()
        p = softmax(self.real[weak])
        self.queue[self.pointer] = p.mean(axis=0)
        self.pointer = (self.pointer + 1) % DA
        unsup = instance = passed = 0.0
        for i in range(U):
            p[i] *= (1 / K + 1e-6) / (self.queue.mean(axis=0) + 1e-6)
            p[i] /= p[i].sum()
            t0 = softmax(self.embedding(weak[i]) @ bank / 0.1)
            factor = np.array([p[i][labels[j]] for j in range(N_LB)])
            t = t0 * factor / (t0 * factor).sum()
            aggregated = np.zeros(K)
            for j in range(N_LB):
                aggregated[labels[j]] += t0[j]
            s = softmax(self.embedding(strong[i]) @ bank / 0.1)
            target = p[i]
            if self.step >= WARMUP:
                instance -= (t * np.log(s)).sum() / U
                target = 0.9 * p[i] + 0.1 * aggregated
            if target.max() >= TAU:
                passed += 1 / U
                unsup -= (target * np.log(softmax(self.real[strong[i]]))).sum() / U
        sup = -np.mean(np.log(softmax(self.real[lab]))[np.arange(B), b.labels])
        old = np.array([0.7 * bank[:, n] for n in b.lab_indices])  # [B, P]
        new = old + 0.3 * np.array([self.embedding(r) for r in lab])
        axis = {"fixed": 1, "usb": 0}[self.norm]
        new /= np.linalg.norm(new, axis=axis, keepdims=True)
        for i in range(B):  # in order: the last row of an image stays
            self.bank[:, b.lab_indices[i]] = new[i]
            self.labels[b.lab_indices[i]] = b.labels[i]
        self.step += 1
        loss = sup + WEIGHT * unsup + INSTANCE * instance
        return {
            "loss": loss,
            "value": loss,
            "loss_sup": sup,
            "loss_unsup": unsup,
            "loss_instance": instance,
            "utilisation": passed,
        }


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("norm", ["fixed", "usb"])
def test_equals_its_formulas_over_many_steps(norm, devices):
    parts = method_of(**{"method.simmatch.bank_norm": norm})
    oracle = Oracle(*parts[2:], norm)
    utilisation = []
    steps = run(*parts, stream(), devices)
    for t, (b, step) in enumerate(zip(stream(), steps, strict=True)):
        out, extra = step.metrics, step.extra
        for name, value in oracle.advance(b).items():
            np.testing.assert_allclose(
                out[name], value, rtol=1e-5, atol=1e-7, err_msg=f"{name}, step {t}"
            )
        np.testing.assert_allclose(extra["bank"], oracle.bank, atol=1e-5)
        np.testing.assert_allclose(extra["da_queue"], oracle.queue, atol=1e-5)
        np.testing.assert_array_equal(extra["bank_labels"], oracle.labels)
        assert extra["da_pointer"] == oracle.pointer
        assert (out["loss_instance"] > 0) == (t >= WARMUP)
        utilisation.append(out["utilisation"])
    assert 0 < np.mean(utilisation) < 1
    assert any(len(set(b.lab_indices.tolist())) < B for b in stream())


def test_weak_views_and_the_bank_are_no_way_for_the_gradient():
    """Weak, strong and labelled images are different rows of the tables."""
    method, nets, params, extra = method_of(**{"method.simmatch.warmup_steps": 0})
    b = next(stream()).replace(
        lab=picture(np.arange(0, B)),
        weak=picture(np.arange(50, 50 + U)),
        strong=picture(np.arange(100, 100 + U)),
    )
    extra = {**extra, "bank_labels": jnp.arange(N_LB, dtype=jnp.int32) % K}
    out, _ = run_one(method, nets, params, extra, b)
    touched = {
        name: set(np.flatnonzero(np.abs(g).sum(axis=1)).tolist())
        for name, g in out["grads"]["classifier"].items()
    }
    lab, strong = set(range(B)), set(range(100, 100 + U))
    assert touched["projector"] == strong  # by the instance loss
    assert lab < touched["real"] < lab | strong


def test_no_nan_from_zero_embeddings_and_impossible_classes():
    """All-zero projections, and a bank whose classes have a p below float32."""
    method, nets, params, extra = method_of(**{"method.simmatch.warmup_steps": 0})
    tables = params["classifier"]
    logits = tables["real"].at[:, 0].set(-300.0)
    params = {"classifier": {"real": logits, "projector": 0 * tables["projector"]}}
    outputs = run_one(method, nets, params, extra, next(stream()))
    for path, value in leaves(outputs).items():
        assert np.isfinite(value).all(), path


def test_first_bank_follows_the_seed_alone():
    banks = []
    for devices, seed in ((1, 0), (4, 0), (1, 1)):
        _, _, exp = build(devices, **{"method.name": "simmatch", "seed": seed})
        banks.append(np.asarray(exp.method.init_extra(exp.dims)["bank"]))
    assert banks[0].shape == (128, 40)
    np.testing.assert_allclose(np.linalg.norm(banks[0], axis=0), 1, rtol=1e-6)
    np.testing.assert_array_equal(banks[0], banks[1])
    assert np.abs(banks[0] - banks[2]).max() > 0.05
    with jax.default_prng_impl("rbg"):
        again = exp.method.init_extra(exp.dims)["bank"]
    np.testing.assert_array_equal(again, banks[2])
    z = banks[0].ravel() * 128**0.5
    assert abs(z.mean()) < 4 / z.size**0.5


@pytest.mark.parametrize(("epass", "count"), [(False, 1), (True, 3)])
def test_epass_has_three_projectors(epass, count):
    heads = method_of(**{"method.simmatch.epass": epass})[0].heads(K)["classifier"]
    assert heads == {"real": K, simmatch.PROJECTOR: Projector(16, count)}
