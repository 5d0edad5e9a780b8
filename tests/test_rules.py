"""Pseudo-labelling rules, alone and in whole methods, against formulas written out in
numpy image by image, over consecutive steps on networks whose logits are tables."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import config, leaves
from test_methods import (
    TAU,
    TAU_DETECTOR,
    B,
    K,
    U,
    batch,
    log_softmax,
    method_of,
)

from rsmatch_jax import parallel
from rsmatch_jax.methods import RULES, Dims
from rsmatch_jax.methods.flexmatch import class_thresholds
from rsmatch_jax.methods.freematch import fairness_loss

N, STEPS = 30, 24
DIMS = Dims(K, (8, 8, 3), 1, B, U, 4, N)
EMA, WEIGHT = 0.9, 0.4  # faster and heavier than the defaults: they must show
SETTINGS = {
    "method.freematch.ema_decay": EMA,
    "method.freematch.entropy_weight": WEIGHT,
}


class FixOracle:
    """Labels and mask of a step from float64 probabilities q [U, K]."""

    def __init__(self, **switches):
        pass

    def thresholds(self, q, labels):
        return [TAU] * K

    def select(self, q, indices):
        labels = [int(np.argmax(row)) for row in q]
        thresholds = self.thresholds(q, labels)
        margins = [row.max() - thresholds[c] for row, c in zip(q, labels, strict=True)]
        assert min(abs(m) for m in margins) > 1e-6  # no coin toss between precisions
        self.after(q, labels, indices)
        return labels, [m >= 0 for m in margins]

    def after(self, q, labels, indices):
        pass

    def buffers(self):
        return {}

    def fairness(self, strong):
        return 0.0


class FlexOracle(FixOracle):
    def __init__(self, warmup=True):
        self.warmup = warmup
        self.memory, self.beta = [-1] * N, [0.0] * K

    def thresholds(self, q, labels):
        return [TAU * b / (2 - b) for b in self.beta]

    def after(self, q, labels, indices):
        for row, c, i in zip(q, labels, indices, strict=True):
            if row.max() >= TAU:
                self.memory[i] = c
        counts = {c: self.memory.count(c) for c in range(-1, K)}
        if max(counts.values()) < N:
            used = {c: n for c, n in counts.items() if c >= 0}
            most = max((counts if self.warmup else used).values())
            self.beta = [used[c] / most for c in range(K)]

    def buffers(self):
        return {"selected": self.memory, "effect": self.beta}


class FreeOracle(FixOracle):
    def __init__(self, quantile=False, clip=False):
        self.quantile, self.clip = quantile, clip
        self.tau, self.p, self.h = 1 / K, np.full(K, 1 / K), np.full(K, 1 / K)

    def thresholds(self, q, labels):
        sure = sorted(row.max() for row in q)
        now = sum(sure) / len(sure)
        if self.quantile:
            low = int(0.8 * (U - 1))
            part = 0.8 * (U - 1) - low
            now = sure[low] * (1 - part) + sure[low + 1] * part
        self.tau = EMA * self.tau + (1 - EMA) * now
        if self.clip:
            self.tau = min(self.tau, 0.95)
        self.p = EMA * self.p + (1 - EMA) * q.mean(axis=0)
        said = np.array([labels.count(c) / len(labels) for c in range(K)])
        self.h = EMA * self.h + (1 - EMA) * said
        return [self.tau * self.p[c] / max(self.p) for c in range(K)]

    def buffers(self):
        return {"tau": self.tau, "probs": self.p, "histogram": self.h}

    def fairness(self, strong):
        return gathered_fairness(strong, self.p, self.h)


def gathered_fairness(strong, p, h):
    """As USB computes it: strong [n, K] are the probabilities of the chosen rows."""
    if not len(strong):
        return 0.0
    said = [int(row.argmax()) for row in strong]
    h_bar = np.array([said.count(c) / len(said) for c in range(K)])
    p_bar = np.mean(strong, axis=0)
    a = np.array([x / y if y else 0 for x, y in zip(p, h, strict=True)])
    b = np.array([x / y if y else 0 for x, y in zip(p_bar, h_bar, strict=True)])
    return float(np.sum(a / a.sum() * np.log(b / b.sum() + 1e-12)))


CASES = {
    "fixmatch": ("fixmatch", FixOracle, {}, {}),
    "flexmatch": ("flexmatch", FlexOracle, {}, {}),
    "flexmatch_cold": (
        "flexmatch",
        FlexOracle,
        {"warmup": False},
        {"method.flexmatch.threshold_warmup": False},
    ),
    "freematch": ("freematch", FreeOracle, {}, {}),
    "freematch_quantile": (
        "freematch",
        FreeOracle,
        {"quantile": True},
        {"method.freematch.use_quantile": True},
    ),
}
MAIN = ("fixmatch", "flexmatch", "freematch")


def softmax(z):
    return np.exp([log_softmax(row) for row in np.asarray(z)])


def run_rule(name, logits, indices, keys, num_devices=1):
    """`select` step by step: a list of (labels, mask, buffers), in global order."""
    rule = RULES[name](config(**{"method.threshold": TAU, **SETTINGS, **keys}))
    devices = jax.local_devices()[:num_devices]

    def select(state, rows):
        return rule.select(rows["logits"], state["buffers"], rows["indices"])

    mapped = parallel.map_eval(select, devices)
    buffers, steps = rule.init(DIMS), []
    for z, i in zip(logits, indices, strict=True):
        rows = parallel.shard_rows({"logits": z, "indices": i}, devices)
        state = {"buffers": buffers, "step": 0}  # pmap wants a leaf in every argument
        labels, mask, buffers = mapped(parallel.replicate(state, devices), rows)
        for leaf in jax.tree.leaves(buffers):  # equal on all devices
            assert (np.asarray(leaf) == np.asarray(leaf)[:1]).all()
        buffers = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[0]), buffers)
        steps.append((parallel.collect(labels), parallel.collect(mask), buffers))
    return steps


def random_steps(seed, scale=2.0):
    """Logits that favour few classes, and positions with repetitions."""
    rng = np.random.default_rng(seed)
    bias = np.linspace(0, 2, K, dtype=np.float32)
    logits = scale * rng.normal(size=(STEPS, U, K)).astype(np.float32) + bias
    return logits, rng.integers(0, N, (STEPS, U)).astype(np.int32)


@pytest.mark.parametrize("num_devices", [1, 4])
@pytest.mark.parametrize("case", CASES)
def test_rule_equals_its_formulas(case, num_devices):
    name, oracle, switches, keys = CASES[case]
    oracle = oracle(**switches)
    logits, indices = random_steps(seed=1)
    passed = []
    for t, (labels, mask, buffers) in enumerate(
        run_rule(name, logits, indices, keys, num_devices)
    ):
        expected_labels, expected_mask = oracle.select(softmax(logits[t]), indices[t])
        np.testing.assert_array_equal(labels, expected_labels)
        np.testing.assert_array_equal(mask, expected_mask, err_msg=f"step {t}")
        assert set(buffers) == set(oracle.buffers())
        for key, value in oracle.buffers().items():
            np.testing.assert_allclose(buffers[key], value, rtol=1e-5, atol=1e-7)
        passed.append(np.mean(mask))
    assert 0.1 < np.mean(passed[1:]) < 0.95
    if name == "flexmatch":
        assert passed[0] == 1  # beta = 0
        assert min(len(set(i)) for i in indices) < U  # repetitions did occur


@pytest.mark.parametrize("num_devices", [1, 4])
def test_last_row_of_a_repeated_image_wins(num_devices):
    """Among those that pass; whichever device it is on."""
    labels = np.array([3, 1, 4, 1, 5, 9, 2, 6], np.int32)
    sure = np.array([9, 9, 9, 9, 0, 9, 9, 0], np.float32)
    logits = np.eye(K, dtype=np.float32)[labels] * np.maximum(sure, 0.1)[:, None]
    indices = np.array([7, 7, 7, 2, 7, 2, 0, 0], np.int32)
    _, _, buffers = run_rule("flexmatch", [logits], [indices], {}, num_devices)[0]
    expected = np.full(N, -1)
    expected[[7, 2, 0]] = [4, 9, 2]
    np.testing.assert_array_equal(buffers["selected"], expected)
    assert buffers["selected"].dtype == jnp.int32


def test_flexmatch_threshold_table():
    effect = jnp.array([0.0, 0.25, 0.5, 0.75, 1.0])
    found = class_thresholds(effect, 0.95)
    np.testing.assert_allclose(found, [0, 0.1357, 0.3167, 0.57, 0.95], atol=5e-5)


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


def test_freematch_first_step_at_its_defaults():
    """tau = .999 / K + .001 mean(m): nearly everything passes."""
    logits, indices = random_steps(seed=2)
    keys = {"method.freematch.ema_decay": 0.999}
    _, mask, buffers = run_rule("freematch", logits[:1], indices[:1], keys)[0]
    q = softmax(logits[0])
    tau = 0.999 / K + 0.001 * q.max(axis=1).mean()
    np.testing.assert_allclose(buffers["tau"], tau, rtol=1e-5)
    np.testing.assert_allclose(
        buffers["probs"], 0.999 / K + 0.001 * q.mean(axis=0), rtol=1e-5
    )
    said = np.bincount(q.argmax(axis=1), minlength=K) / U
    np.testing.assert_allclose(
        buffers["histogram"], 0.999 / K + 0.001 * said, rtol=1e-5
    )
    assert mask.mean() > 0.9
    c = config()
    assert c.method.freematch.ema_decay == 0.999
    assert c.method.freematch.entropy_weight == 0.001


@pytest.mark.parametrize("clip", [True, False])
def test_freematch_clips_tau_if_asked(clip):
    logits, indices = random_steps(seed=3, scale=60.0)  # confidences of nearly 1
    keys = {
        "method.freematch.clip_threshold": clip,
        "method.freematch.ema_decay": 0.5,
    }
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
            return fairness_loss(z, rows["mask"], *buffers)

        value, gradient = jax.value_and_grad(loss)(jnp.zeros((U, K)))
        return value, parallel.mean(gradient)

    mapped = parallel.map_eval(run, devices)
    buffers = (p.astype(np.float32), h.astype(np.float32))

    def evaluate(mask):
        rows = parallel.shard_rows({"logits": logits, "mask": mask}, devices)
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
        stats = {name: {} for name in nets}
        key = jax.random.fold_in(jax.random.key(7), t)

        def loss(p):
            return method.loss(nets, p, stats, extra, batch, key, t)

        grads, (_, extra, metrics) = jax.grad(loss, has_aux=True)(params)
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
    found = {"loss_sup": 0.0, "loss_unsup": 0.0, "loss_unsup_fake": 0.0}
    for row, y in zip(at["lab"], b.labels, strict=True):
        found["loss_sup"] -= log_softmax(tables["real"][row])[y] / B
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
            found[name] += ce / U
            to_real += [] if synthetic else [i]
    found["loss_fairness"] = oracle.fairness(strong[to_real])
    found["utilisation"] = np.mean(mask)
    found["loss"] = (
        found["loss_sup"]
        + 0.7 * (found["loss_unsup"] + 0.6 * found["loss_unsup_fake"])
        + WEIGHT * found["loss_fairness"]
    )
    return found


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


@pytest.mark.parametrize("rule", ["flexmatch", "freematch"])
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


def test_rsmatch_takes_fixmatch_unless_told():
    """The rule with a fixed threshold is RSMatch itself, to the bit; another rule
    changes which rows count and nothing of the detector."""
    default = small_method("rsmatch", config().method.rsmatch.pseudo_label, {})
    runs = {
        rule: run_method(*small_method("rsmatch", rule, {}), stream(8)) for rule in MAIN
    }
    for (p, m, x), (q, n, y) in zip(
        run_method(*default, stream(8)), runs["fixmatch"], strict=True
    ):
        jax.tree.map(np.testing.assert_array_equal, (p, m, x), (q, n, y))
    fix = runs["fixmatch"][0][1]
    for rule in ("flexmatch", "freematch"):
        first = runs[rule][0][1]
        assert first["utilisation"] > fix["utilisation"]
        for name in fix:
            if name.startswith("detector") or name in ("loss_sup", "routed_synthetic"):
                assert first[name] == fix[name], name
