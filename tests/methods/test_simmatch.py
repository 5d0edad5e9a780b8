"""SimMatch against its formulas written out row by row in numpy, on networks whose
logits and projections are looked up in tables; its bank; its settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.helpers import build, config, leaves, step_inputs
from test_methods import picture

from rsmatch_jax.engine import checks
from rsmatch_jax.errors import RequestError
from rsmatch_jax.methods import simmatch
from rsmatch_jax.models.networks import Network, Projector
from rsmatch_jax.runtime import parallel
from rsmatch_jax.state import Batch, Outputs

B, U, K, N_LB, STEPS, WARMUP = 8, 20, 10, 12, 24, 3
TAU, WEIGHT, INSTANCE = 0.4, 0.7, 1.3


def table_network(size):
    """Logits and projection of an image are rows of tables; the number of the row is
    the image's first pixel."""

    def init(key, images):
        del images
        a, b = jax.random.split(key)
        return {
            "real": 2 * jax.random.normal(a, (256, K)),
            "projector": jax.random.normal(b, (256, size)),
        }, {}

    def apply(params, stats, images, train):
        del train
        rows = images[:, 0, 0, 0].astype(jnp.int32)
        return Outputs(
            jnp.zeros((len(images), 1)),
            {"real": params["real"][rows]},
            {"projector": params["projector"][rows]},
        ), stats

    return Network(init, apply)


def stream(seed=0, steps=STEPS):
    """Global batches; some labelled images come twice in one batch."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        yield Batch(
            lab=picture(rng.integers(0, 256, B)),
            labels=rng.integers(0, K, B).astype(np.int32),
            lab_indices=rng.integers(0, N_LB, B).astype(np.int32),
            weak=picture(rng.integers(0, 256, U)),
            strong=picture(rng.integers(0, 256, U)),
            indices=np.arange(U, dtype=np.int32),
        )


def method_of(num_devices=1, **overrides):
    _, _, exp = build(
        num_devices,
        **{
            "method.name": "simmatch",
            "method.threshold": TAU,
            "method.unsup_weight": WEIGHT,
            "method.simmatch.instance_weight": INSTANCE,
            "method.simmatch.warmup_steps": WARMUP,
            "method.simmatch.da_length": 5,
            "method.simmatch.projection_size": 16,
            **overrides,
        },
    )
    net = table_network(exp.method.projection_size)
    dims = exp.dims.__class__(**{**vars(exp.dims), "num_labeled": N_LB})
    params = {"classifier": net.init(jax.random.key(3), None)[0]}
    return exp.method, {"classifier": net}, params, exp.method.init_extra(dims)


def runner(method, nets, devices):
    """(params, extra, step), batch -> (extra, loss, metrics, mean gradient)."""

    def run(state, batch):
        params, extra, step = state
        inputs = step_inputs(nets, extra, batch, jax.random.key(0), step)
        loss_of = jax.value_and_grad(lambda p: method.loss(p, inputs), has_aux=True)
        (loss, (_, extra, metrics)), grads = loss_of(params)
        out = parallel.mean({"value": loss, "grads": grads, **metrics})
        return (params, extra, step + 1), out

    return parallel.map_step(run, devices)


def run(num_devices=1, seed=0, **overrides):
    """All batches in a row: [(metrics, extra after the step)], the tables, extra 0."""
    method, nets, params, extra = method_of(num_devices, **overrides)
    devices = jax.local_devices()[:num_devices]
    step = runner(method, nets, devices)
    start = jax.device_get((params, extra))
    state = parallel.replicate(
        jax.tree.map(jnp.copy, (params, extra, jnp.int32(0))), devices
    )
    history = []
    for b in stream(seed):
        state, out = step(state, parallel.shard_rows(b, devices))
        history.append((jax.device_get(out), jax.device_get(state[1])))
    return history, *start


def softmax(z):
    e = np.exp(np.asarray(z, np.float64) - np.max(z))
    return e / e.sum()


class Oracle:
    """The formulas of SimMatch as USB computes them, in float64."""

    def __init__(self, params, extra, norm):
        tables = params["classifier"]
        self.real = np.asarray(tables["real"], np.float64)
        self.project = np.asarray(tables["projector"], np.float64)
        self.bank = np.asarray(extra["bank"], np.float64)
        self.labels = np.zeros(N_LB, int)
        self.queue = np.zeros((5, K))
        self.pointer = 0
        self.norm = norm
        self.step = 0

    def embedding(self, row):
        return self.project[row] / np.linalg.norm(self.project[row])

    def advance(self, b):
        lab, weak, strong = (
            x[:, 0, 0, 0].astype(int) for x in (b.lab, b.weak, b.strong)
        )
        bank, labels = self.bank.copy(), self.labels.copy()
        p = np.array([softmax(self.real[r]) for r in weak])
        self.queue[self.pointer] = p.mean(axis=0)
        self.pointer = (self.pointer + 1) % 5
        for i in range(U):
            p[i] *= (1 / K + 1e-6) / (self.queue.mean(axis=0) + 1e-6)
            p[i] /= p[i].sum()
        self.aligned = p
        unsup = instance = passed = 0.0
        for i in range(U):
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
        sup = -np.mean(
            [
                np.log(softmax(self.real[r])[y])
                for r, y in zip(lab, b.labels, strict=True)
            ]
        )
        old = np.array([0.7 * bank[:, n] for n in b.lab_indices])  # [B, P]
        new = old + 0.3 * np.array([self.embedding(r) for r in lab])
        new /= np.linalg.norm(
            new, axis={"fixed": 1, "usb": 0}[self.norm], keepdims=True
        )
        for i in range(B):  # in order: the last row of an image stays
            self.bank[:, b.lab_indices[i]] = new[i]
            self.labels[b.lab_indices[i]] = b.labels[i]
        self.step += 1
        return {
            "loss": sup + WEIGHT * unsup + INSTANCE * instance,
            "value": sup + WEIGHT * unsup + INSTANCE * instance,
            "loss_sup": sup,
            "loss_unsup": unsup,
            "loss_instance": instance,
            "utilisation": passed,
        }


@pytest.mark.parametrize("norm", ["fixed", "usb"])
def test_equals_its_formulas_over_many_steps(norm):
    history, params, extra = run(**{"method.simmatch.bank_norm": norm})
    oracle = Oracle(params, extra, norm)
    utilisation = []
    for t, (b, (out, extra)) in enumerate(zip(stream(), history, strict=True)):
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


def test_four_devices_equal_one():
    one, four = (run(d)[0] for d in (1, 4))
    for (out_1, extra_1), (out_4, extra_4) in zip(one, four, strict=True):
        a, b = leaves(out_1), leaves(out_4)
        for path in a:
            np.testing.assert_allclose(
                a[path], b[path], rtol=1e-6, atol=1e-6, err_msg=path
            )
        for name, value in extra_1.items():
            np.testing.assert_allclose(value, extra_4[name], atol=1e-6, err_msg=name)


def test_first_alignment_flattens_the_mean():
    """With one row in the queue the mean of p / mean(p) is 1 / K per class, before the
    rows are brought back to sum one."""
    _, nets, params, extra = method_of()
    method = method_of()[0]
    logits = 2 * np.random.default_rng(0).normal(size=(U, K)).astype(np.float32)

    def align(extra, logits):
        log_p, new = method._align(extra, logits, parallel.AXIS)
        return log_p[None], jax.tree.map(lambda x: x[None], new)

    devices = jax.local_devices()[:1]
    log_p, new = parallel.map_eval(align, devices)(extra, logits[None])
    p = np.array([softmax(z) for z in logits])
    flat = p / p.mean(axis=0)
    np.testing.assert_allclose(flat.mean(axis=0), 1)
    # 1e-6 stands beside mean / 5: five rows, four of them still zero.
    expected = flat / flat.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(log_p[0, 0]), expected, rtol=2e-3)
    np.testing.assert_allclose(new["da_queue"][0, 0, 0], p.mean(axis=0), rtol=1e-5)
    assert not np.any(new["da_queue"][0, 0, 1:])
    assert new["da_pointer"][0, 0] == 1


def test_instance_loss_moves_the_strong_embedding_alone():
    """Weak, strong and labelled images are different rows of the tables."""
    method, nets, params, extra = method_of(
        **{"method.unsup_weight": 0.0, "method.simmatch.warmup_steps": 0}
    )
    devices = jax.local_devices()[:1]
    b = next(stream()).replace(
        lab=picture(np.arange(0, B)),
        weak=picture(np.arange(50, 50 + U)),
        strong=picture(np.arange(100, 100 + U)),
    )
    extra = {**extra, "bank_labels": jnp.arange(N_LB, dtype=jnp.int32) % K}
    state = parallel.replicate((params, extra, jnp.int32(0)), devices)
    _, out = runner(method, nets, devices)(state, parallel.shard_rows(b, devices))
    touched = {
        name: set(np.flatnonzero(np.abs(g).sum(axis=1)).tolist())
        for name, g in jax.device_get(out["grads"]["classifier"]).items()
    }
    assert touched["projector"] == set(range(100, 100 + U))
    assert touched["real"] == set(range(B))  # the supervised loss


def test_no_nan_from_zero_embeddings_and_impossible_classes():
    """All-zero projections, and a bank whose classes have a p below float32."""
    method, nets, params, extra = method_of(**{"method.simmatch.warmup_steps": 0})
    tables = params["classifier"]
    logits = tables["real"].at[:, 0].set(-300.0)
    params = {"classifier": {"real": logits, "projector": 0 * tables["projector"]}}
    devices = jax.local_devices()[:1]
    state = parallel.replicate((params, extra, jnp.int32(0)), devices)
    b = parallel.shard_rows(next(stream()), devices)
    (_, extra, _), out = runner(method, nets, devices)(state, b)
    for path, value in leaves((out, extra)).items():
        assert np.isfinite(value).all(), path


@pytest.mark.parametrize(
    ("norm", "length"), [("fixed", 1.0), ("usb", (128 / 64) ** 0.5)]
)
def test_bank_norm_decides_the_length_of_embeddings(norm, length):
    size = {"method.simmatch.projection_size": 128, "method.simmatch.bank_norm": norm}
    method = method_of(**size)[0]
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=(64, 128)).astype(np.float32)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    (b,) = stream(steps=1)
    b = b.replace(
        labels=np.zeros(64, np.int32), lab_indices=np.arange(64, dtype=np.int32)
    )
    bank = rng.normal(size=(128, 64)).astype(np.float32)
    bank /= np.linalg.norm(bank, axis=0)[None, :]
    extra = {"bank": bank, "bank_labels": np.zeros(64, np.int32)}

    def remember(extra, rows):
        batch = b.replace(labels=rows[0], lab_indices=rows[1])
        return method._remember(extra, batch, rows[2], parallel.AXIS)["bank"][None]

    devices = jax.local_devices()[:1]
    rows = parallel.shard_rows((b.labels, b.lab_indices, embedding), devices)
    lengths = np.linalg.norm(
        np.asarray(parallel.map_eval(remember, devices)(extra, rows))[0, 0], axis=0
    )
    np.testing.assert_allclose(lengths.mean(), length, rtol=0.01)
    if norm == "fixed":
        np.testing.assert_allclose(lengths, 1, rtol=1e-6)
    else:
        assert 1.1 < lengths.min() < lengths.max() < 1.7


def test_first_bank_follows_the_seed_alone():
    banks = []
    for devices, seed in ((1, 0), (4, 0), (1, 1)):
        _, _, exp = build(devices, **{"method.name": "simmatch", "seed": seed})
        banks.append(np.asarray(exp.method.init_extra(exp.dims)["bank"]))
    assert banks[0].shape == (128, 40)
    np.testing.assert_allclose(np.linalg.norm(banks[0], axis=0), 1, rtol=1e-6)
    np.testing.assert_array_equal(banks[0], banks[1])
    assert np.abs(banks[0] - banks[2]).max() > 0.05
    z = banks[0].ravel() * 128**0.5
    assert abs(z.mean()) < 4 / z.size**0.5


def test_epass_has_three_projectors():
    heads = {
        epass: method_of(**{"method.simmatch.epass": epass})[0].heads(K)["classifier"]
        for epass in (False, True)
    }
    assert heads[False] == {"real": K, simmatch.PROJECTOR: Projector(16, 1)}
    assert heads[True] == {"real": K, simmatch.PROJECTOR: Projector(16, 3)}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"method.simmatch.epass": True}, "epass=True.*method.name=simmatch"),
        ({"method.simmatch.bank_norm": "torch"}, "bank_norm=torch.*fixed or usb"),
        ({"method.simmatch.temperature": 0.0}, "temperature=0.0.*above 0"),
        ({"method.simmatch.smoothing": 1.5}, "smoothing=1.5.*between 0 and 1"),
        ({"method.simmatch.da_length": 0}, "da_length=0.*1 or more"),
        ({"method.simmatch.warmup_steps": -1}, "warmup_steps=-1.*0 or more"),
    ],
)
def test_wrong_values_are_named(keys, message):
    with pytest.raises(RequestError, match=message):
        checks.check(config(**keys), 1)
