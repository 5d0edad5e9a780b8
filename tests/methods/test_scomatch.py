"""SCOMatch against its formulas written out row by row in numpy, on a network whose
logits are looked up in tables; its threshold, settings and figures."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import table_networks
from support.helpers import build, config
from support.table_networks import K, batch, picture, rows, run, softmax, step_key

import rsmatch_jax
from rsmatch_jax.engine import stages
from rsmatch_jax.methods import csqueue, out_threshold
from rsmatch_jax.methods.scomatch import SCOMatch
from rsmatch_jax.runs import workdir

B, U, OUT, STEPS, RATE = 4, 8, K, 30, 0.5
# The queue wraps, and a device of four has fewer rows than are pushed.
TAU, WEIGHT, LENGTH, PUSH, PERIOD = 0.3, 0.7, 12, 5, 3


def stream():
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        indices = rng.integers(0, 640, U).astype(np.int32)
        yield batch(rng, B, U).replace(indices=indices)


def method_of(**overrides):
    """(method, networks, parameters, first buffers); "out" is often the largest."""
    dims, method, nets, params = table_networks.method_of(
        **{
            "method.name": "scomatch",
            "method.threshold": TAU,
            "method.unsup_weight": WEIGHT,
            "method.scomatch.queue_length": LENGTH,
            "method.scomatch.push": PUSH,
            **overrides,
        },
    )
    method = dataclasses.replace(method, period=PERIOD)
    tables = params["classifier"]
    params = {"classifier": {**tables, "out": tables["out"] + 5.0}}
    return method, nets, params, method.init_extra(dims)


def table_of(params):
    """[256, K + 1]"""
    heads = params["classifier"]
    return np.concatenate([heads["real"], heads["out"]], axis=1).astype(np.float64)


class Oracle:
    """The authors' step, in float64, on a table of its own that it trains itself."""

    def __init__(self, params, start):
        self.table, self.start = table_of(params), start
        self.ring, self.pushed = {}, 0  # {slot: (table row, index, stored score)}
        self.sure, self.ood_threshold, self.step = [], 0.95, 0
        self.seen = {"trusted": [], "sure_class": [], "sure_out": []}

    def cross_entropy(self, row, label, weight, classes=K + 1):
        """The loss of one row; adds its gradient."""
        p = softmax(self.table[row, :classes])
        self.gradient[row, :classes] += weight * (p - np.eye(classes)[label])
        return -weight * np.log(p[label])

    def renew(self):
        if self.step >= self.start and self.step > 0 and self.step % PERIOD == 0:
            classes = sum(label != OUT for label in self.sure)
            self.ood_threshold = 0.95
            if classes:
                ratio = (len(self.sure) - classes) / classes
                self.ood_threshold = min(0.95, max(0.75, TAU * ratio))
            self.sure = []

    def advance(self, b, slots):
        """slots: of the draw, which has tests of its own."""
        self.renew()
        self.gradient = np.zeros_like(self.table)
        begun = self.step >= self.start
        out = dict.fromkeys(("loss_sup", "loss_out", "loss_open", "loss_unsup"), 0.0)
        for row, label in zip(rows(b.lab), b.labels, strict=True):
            out["loss_sup"] += self.cross_entropy(row, label, 1 / B)
        for slot in slots if len(self.ring) >= B else ():
            row, _, score = self.ring[int(slot)]
            assert abs(score - TAU) > 1e-6
            self.seen["trusted"].append(score < TAU)
            if score < TAU and begun:
                out["loss_out"] += self.cross_entropy(row, OUT, 1 / B)
        p, sure = softmax(self.table[rows(b.weak)]), 0
        for row, q in zip(rows(b.strong), p, strict=True):
            label, limit = int(q.argmax()), TAU
            if q.argmax() == OUT:
                limit = self.ood_threshold
            assert min(abs(q.max() - limit), abs(q.max() - TAU)) > 1e-6
            self.seen["sure_out" if label == OUT else "sure_class"].append(
                q.max() >= limit
            )
            if q.max() > TAU:
                self.sure.append(label)
            if q.max() < limit:
                continue
            sure += 1 / U
            if begun:
                out["loss_open"] += self.cross_entropy(row, label, WEIGHT / U) / WEIGHT
            if label != OUT:
                term = self.cross_entropy(row, label, WEIGHT / U, classes=K) / WEIGHT
                out["loss_unsup"] += term
        known = p[:, :K].max(axis=1)
        for i in np.argsort(known, kind="stable")[:PUSH]:
            place = self.pushed % LENGTH
            self.ring[place] = (rows(b.weak)[i], b.indices[i], known[i])
            self.pushed += 1
        self.table -= RATE * self.gradient
        self.step += 1
        unsup = out["loss_open"] + out["loss_unsup"]
        out["loss"] = out["loss_sup"] + out["loss_out"] + WEIGHT * unsup
        return out | {
            "value": out["loss"],
            "utilisation": sure,
            "called_synthetic": np.mean(p.argmax(axis=1) == OUT),
            "ood_threshold": self.ood_threshold,
            "queue_fill": len(self.ring) / LENGTH,
        }

    def check_queue(self, queue):
        assert queue.count[0] == len(self.ring)
        assert queue.head[0] == self.pushed % LENGTH
        assert (queue.indices[0] >= 0).sum() == len(self.ring)
        for slot, (row, index, score) in self.ring.items():
            assert queue.images[0, slot, 0, 0, 0] == row
            assert queue.indices[0, slot] == index
            np.testing.assert_allclose(queue.scores[0, slot], -score, rtol=1e-5)


def slots_of(queue, t):
    queue = jax.tree.map(jnp.asarray, queue)
    return np.asarray(csqueue.sample_distinct(queue, step_key(t), B)[0])


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("start", [0, 7])
def test_equals_its_formulas_over_many_steps(start, devices):
    """Losses, figures, buffers and parameters: the oracle trains tables of its own."""
    keys = {"method.scomatch.start_fix": 0.14 if start else 0.0}  # of 50 steps
    method, nets, params, extra = method_of(**keys)
    assert method.start_step == start
    oracle, thresholds, values = Oracle(params, start), set(), []
    steps = run(method, nets, params, extra, stream(), devices, rate=RATE)
    for t, (b, step) in enumerate(zip(stream(), steps, strict=True)):
        np.testing.assert_allclose(table_of(step.params), oracle.table, atol=1e-5)
        expected = oracle.advance(b, slots_of(extra["queue"], t))
        assert expected.keys() == step.metrics.keys() - {"grads"}
        for name, value in expected.items():
            np.testing.assert_allclose(
                step.metrics[name], value, rtol=1e-5, atol=1e-6, err_msg=f"{name}, {t}"
            )
        extra = step.extra
        oracle.check_queue(extra["queue"])
        known = extra["threshold"]
        np.testing.assert_allclose(known["ood_threshold"], oracle.ood_threshold)
        of_out = oracle.sure.count(OUT)
        counts = [len(oracle.sure) - of_out, of_out]
        np.testing.assert_array_equal(known["confident"], counts)
        thresholds.add(oracle.ood_threshold)
        values.append(expected)
    assert {0.75, 0.95} < thresholds  # both bounds and between them
    for name, flags in oracle.seen.items():
        assert 0 < np.mean(flags) < 1, name
    for name in ("loss_out", "loss_open"):
        assert all(x[name] == 0 for x in values[:start])
        assert all(x[name] > 0 for x in values[max(start, 1) :]), name
    assert sum(x["loss_unsup"] > 0 for x in values[:7]) > 3
    assert values[0]["loss_out"] == 0 < values[0]["loss_sup"]


def test_first_steps_at_the_shipped_defaults():
    """Nothing is drawn before the queue holds a batch, one image a step."""
    options = config().method
    assert (options.threshold, options.scomatch.ood_threshold) == (0.95, 0.95)
    assert (options.scomatch.push, options.scomatch.start_fix) == (1, 0)
    defaults = {
        "method.threshold": options.threshold,
        "method.unsup_weight": options.unsup_weight,
        "method.scomatch.queue_length": options.scomatch.queue_length,
        "method.scomatch.push": options.scomatch.push,
    }
    parts = method_of(**defaults)
    metrics = [step.metrics for step in run(*parts, stream())[:6]]
    assert [m["loss_out"] > 0 for m in metrics] == [False] * B + [True] * 2
    for t, m in enumerate(metrics):
        np.testing.assert_allclose(m["queue_fill"], (t + 1) / 256)
    b, p = next(stream()), softmax(table_of(parts[2]))
    right = p[rows(b.lab), b.labels]
    np.testing.assert_allclose(metrics[0]["loss_sup"], -np.log(right).mean(), rtol=1e-5)
    sure = p[rows(b.weak)].max(axis=1) >= 0.95
    np.testing.assert_allclose(metrics[0]["utilisation"], sure.mean())
    terms = [metrics[0][f"loss_{name}"] for name in ("sup", "open", "unsup")]
    np.testing.assert_allclose(metrics[0]["loss"], sum(terms), rtol=1e-6)


def test_a_confidence_at_the_threshold_counts_in_the_losses_alone():
    """Two equal classes: P is 0.5 and the mask is >=, the counts' condition >."""
    method, nets, params, extra = method_of(**{"method.threshold": 0.5})
    even = np.full((256, K), -1e4, np.float32)
    even[:, :2] = 0.0
    heads = {"real": jnp.asarray(even), "out": jnp.full((256, 1), -1e4)}
    (step,) = run(method, nets, {"classifier": heads}, extra, [next(stream())])
    assert step.metrics["utilisation"] == 1 and step.metrics["loss_unsup"] > 0
    np.testing.assert_array_equal(step.extra["threshold"]["confident"], [0, 0])


@pytest.mark.parametrize(
    ("counts", "due", "expected"),
    [
        ((10, 9), True, 0.81),
        ((10, 0), True, 0.75),
        ((10, 40), True, 0.95),
        ((0, 5), True, 0.8),  # no class: the first one
        ((0, 5), False, 0.7),
    ],
)
def test_renewal_of_the_threshold(counts, due, expected):
    old = {
        "ood_threshold": jnp.float32(0.7),
        "confident": jnp.asarray(counts, jnp.int32),
    }
    new = out_threshold.renewed(old, jnp.asarray(due), 0.9, 0.8)
    np.testing.assert_allclose(new["ood_threshold"], expected, rtol=1e-6)
    np.testing.assert_array_equal(new["confident"], (0, 0) if due else counts)


def test_settings_follow_data_and_run():
    def method(dims, **overrides):
        options = {f"method.scomatch.{k}": v for k, v in overrides.items()}
        return SCOMatch.make(config(**options), dims)

    dims = build(**{"method.name": "scomatch"})[2].dims
    assert (dims.num_classes, dims.num_unlabeled, dims.unlabeled_batch) == (K, 640, 8)
    plain = method(dims)
    assert (plain.queue_length, plain.period, plain.start_step) == (256, 40, 0)
    many = dataclasses.replace(dims, num_classes=100, unlabeled_batch=1000)
    assert (method(many).queue_length, method(many).period) == (800, 1)
    other = method(dims, queue_length=32, start_fix=0.05)
    assert (other.queue_length, other.start_step) == (32, 2)  # 2.5 of 50 steps


def test_a_score_above_one_half_is_the_largest_of_all_logits():
    z = np.random.default_rng(0).normal(size=(200, K + 1)).astype(np.float32)
    z[:, OUT] += 1.5
    method = method_of()[0]
    origins = method.origin({"real": z[:, :K], "out": z[:, K:]})
    called = np.asarray(jax.nn.softmax(origins)[:, 1]) > 0.5
    np.testing.assert_array_equal(called, z.argmax(axis=1) == OUT)
    assert 0.2 < called.mean() < 0.8
    p_out = softmax(z)[:, OUT]  # of the authors' AUROC: at most the score
    assert (p_out < 0.5)[called].any()


def test_a_run_has_figures_of_detector_and_queue(tmp_path):
    """The queue's 256 slots do not divide by ten classes."""
    keys = {"method.name": "scomatch", "train.num_steps": 3}
    devices = jax.devices()[:1]
    result = stages.run(config(**keys), str(tmp_path), devices=devices)
    for name in ("detector_auroc", "detector_balanced_accuracy", "queue_purity"):
        assert 0 <= result[name] <= 1, name
    np.testing.assert_allclose(result["queue_fill"], 3 / 256)
    assert (tmp_path / workdir.QUEUE_PICTURE).exists()
    model = rsmatch_jax.load(str(tmp_path))
    assert set(model.parts) == {"classifier", "detector"}
    assert set(model.parts["classifier"].params["heads"]) == {"real"}
    images = picture(np.arange(5))
    assert model.predict(images).probabilities.shape == (5, K)
