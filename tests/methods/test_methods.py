"""Losses against equations written out in numpy, on networks whose outputs are looked
up in tables: all rules, alone and below RSMatch; RSMatch's switches and alarms."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import table_networks
from support.helpers import config, step_inputs
from support.rule_oracles import CASES, MAIN, SETTINGS, STEPS, WEIGHT, FixOracle, N
from support.table_networks import (
    TAU_DETECTOR,
    B,
    K,
    U,
    batch,
    drawn_rows,
    log_softmax,
    method_of,
    picture,
    rows,
    run,
    run_one,
    softmax,
)

from rsmatch_jax.methods import rsmatch_checks, rsmatch_queue
from rsmatch_jax.runtime import parallel

close = functools.partial(np.testing.assert_allclose, rtol=1e-5)
UNSUPERVISED = {"loss_unsup", "loss_unsup_fake"}
RSMATCH_ALONE = {"detector_loss_sup", "detector_loss_unsup", "loss_unsup_fake"}
RSMATCH_ALONE |= {"routed_synthetic"}
# Of the terms in the loss; see table_networks.WEIGHTS.
FACTORS = {"detector_loss_sup": 1, "detector_loss_unsup": 1.3, "loss_sup": 1}
FACTORS |= {"loss_unsup": 0.7, "loss_unsup_fake": 0.7 * 0.6}


def stream(seed):
    rng = np.random.default_rng(seed)
    for _ in range(STEPS):
        indices = rng.integers(0, N, U).astype(np.int32)
        yield batch(rng).replace(indices=indices)


def small_method(method_name, rule, keys):
    """A method on tables, with N images; its networks, parameters, first buffers."""
    name = {"method.name": rule}
    if method_name == "rsmatch":
        name = {"method.rsmatch.pseudo_label": rule}
    dims, method, nets, params = method_of(**SETTINGS, **name, **keys)
    dims = dataclasses.replace(dims, num_unlabeled=N)
    return method, nets, params, method.init_extra(dims)


def filled_queue(method, dims):
    """A full queue whose picture in slot j is j + 40."""
    queue = method.init_extra(dims)["queue"]
    n = queue.capacity
    images = picture(np.arange(40, 40 + n, dtype=np.uint8))
    return queue.replace(
        images=jnp.asarray(images).reshape(queue.images.shape),
        indices=jnp.arange(n, dtype=jnp.int32).reshape(queue.indices.shape),
        count=jnp.full_like(queue.count, queue.indices.shape[1]),
    )


def expected_losses(oracle, params, b, queue_rows=()):
    """(losses, pseudo-labels, p'_s, gradients), Equations 1 to 7; the gradients {table:
    [256, size]} without that of the fairness term."""
    table = {
        h: np.asarray(t, np.float64) for p in params.values() for h, t in p.items()
    }
    out, p_s, synthetic = dict.fromkeys(FACTORS, 0.0), np.zeros(U), np.zeros(U, bool)
    grads = {head: np.zeros_like(t) for head, t in table.items()}

    def add(name, head, row, label, share):
        log_p = log_softmax(table[head][row])
        out[name] -= share * log_p[label]
        slope = np.exp(log_p) - np.eye(len(log_p))[label]
        grads[head][row] += FACTORS[name] * share * slope

    lab, weak, strong = (rows(x) for x in (b.lab, b.weak, b.strong))
    q, of_lab = (softmax(table["real"][images]) for images in (weak, lab))
    labels, weights = oracle.select(q, of_lab, b.indices)
    if "detector" in table:
        for origin, images in enumerate((lab, queue_rows)):
            for r in images:
                add("detector_loss_sup", "detector", r, origin, 1 / (2 * B))
        for i, p in enumerate(softmax(table["detector"][weak])):
            synthetic[i], p_s[i] = p.argmax(), p[1]
            if p.max() > TAU_DETECTOR:
                row = strong[i]
                add("detector_loss_unsup", "detector", row, p.argmax(), 1 / U)
    for r, y in zip(lab, b.labels, strict=True):
        add("loss_sup", "real", r, y, 1 / B)
    for i, row in enumerate(strong):
        name, head = ("loss_unsup", "real")
        if synthetic[i]:
            name, head = ("loss_unsup_fake", "fake")
        add(name, head, row, labels[i], weights[i] / U)
    to_real = (np.array(weights) > 0) & ~synthetic
    fairness = oracle.fairness(softmax(table["real"][strong[to_real]]))
    total = sum(FACTORS[name] * out[name] for name in FACTORS) + WEIGHT * fairness
    out |= {"loss_fairness": fairness, "loss": total, "value": total}
    out |= {"utilisation": np.mean(weights), "routed_synthetic": np.mean(synthetic)}
    return out, labels, p_s, grads


@pytest.mark.parametrize(
    ("method_name", "case"),
    [("alone", case) for case in CASES] + [("rsmatch", case) for case in MAIN],
)
def test_method_equals_its_equations(method_name, case):
    """Every loss, gradient and buffer over 24 steps, on one device and on four; that of
    the fairness term has a test of its own. Memories are equal to the bit."""
    rule, oracle_class, switches, keys = CASES[case]
    below = method_name == "rsmatch"
    runs = {}
    for devices in (1, 4):
        oracle, seen = oracle_class(**switches), set()
        method, nets, params, extra = small_method(method_name, rule, keys)
        runs[devices] = run(method, nets, params, extra, stream(5), devices, rate=0.5)
        for t, (b, step) in enumerate(zip(stream(5), runs[devices], strict=True)):
            queue_rows = drawn_rows(extra["queue"], t) if below else []
            expected, labels, p_s, grads = expected_losses(
                oracle, step.params, b, queue_rows
            )
            for name in expected.keys() & step.metrics.keys():
                seen |= {name} if expected[name] else set()
                close(step.metrics[name], expected[name], atol=1e-6, err_msg=name)
            for network in step.metrics["grads"].values():
                for head, got in network.items():
                    if (rule, head) != ("freematch", "real"):
                        close(got, grads[head], atol=1e-6, err_msg=head)
            extra = step.extra
            buffers = extra["rule"] if below else extra
            assert buffers.keys() == oracle.buffers().keys()
            for name, value in oracle.buffers().items():
                close(buffers[name], value, atol=1e-7)
            if below and t == 0:  # the push: the best p'_s of every predicted class
                for c in set(labels):
                    best = max(np.flatnonzero(np.equal(labels, c)), key=p_s.__getitem__)
                    assert extra["queue"].indices[c, 0] == b.indices[best]
        assert ("loss_fairness" in seen) == (rule == "freematch")
        assert (seen >= RSMATCH_ALONE) == below
        assert seen | {"loss_fairness"} | RSMATCH_ALONE == set(expected)
        utilisation = [step.metrics["utilisation"] for step in runs[devices]]
        assert 0.1 < np.mean(utilisation[1:]) < 1
        assert utilisation[0] == 1 or rule != "flexmatch"  # beta = 0
    assert min(len(set(b.indices.tolist())) for b in stream(5)) < U  # repetitions
    for one, four in zip(runs[1], runs[4], strict=True):
        for a, b in zip(*(jax.tree.leaves(s.params) for s in (one, four)), strict=True):
            close(a, b, atol=1e-5)
        for path, value in one.buffers.items():
            if np.issubdtype(value.dtype, np.integer):
                np.testing.assert_array_equal(four.buffers[path], value, err_msg=path)


def test_rsmatch_takes_fixmatch_by_default():
    """Another rule changes which rows count and nothing of the detector."""
    assert config().method.rsmatch.pseudo_label == MAIN[0] == "fixmatch"
    b = next(stream(8))
    fix, *others = (run_one(*small_method("rsmatch", rule, {}), b)[0] for rule in MAIN)
    for other in others:
        assert other["utilisation"] > fix["utilisation"]
        for name in fix:
            if name.startswith("detector") or name in ("loss_sup", "routed_synthetic"):
                assert other[name] == fix[name], name


def test_supervised_equals_its_equation():
    _, method, nets, params = method_of(**{"method.name": "supervised"})
    b = batch(np.random.default_rng(0))
    out, _ = run_one(method, nets, params, {}, b)
    expected = expected_losses(FixOracle(), params, b)[0]
    np.testing.assert_allclose(out["value"], expected["loss_sup"], rtol=1e-5)


def rsmatch(b, **overrides):
    """(metrics, buffers) of step 0 with a full queue."""
    dims, method, nets, params = method_of(**overrides)
    extra = {"queue": filled_queue(method, dims), "rule": {}}
    return run_one(method, nets, params, extra, b)


@pytest.mark.parametrize(
    ("switch", "terms"),
    [
        ({"method.rsmatch.fake_head": False}, {"loss_unsup_fake"}),
        ({"method.rsmatch.individual_models": False}, set()),  # of the same logits
        ({"method.rsmatch.classwise_queue": False}, set()),  # only what is pushed
        ({"method.rsmatch.routing": "oracle"}, UNSUPERVISED),
        ({"method.rsmatch.routing": "random"}, UNSUPERVISED),
        ({"method.rsmatch.route_threshold": 0.9}, UNSUPERVISED),
        ({"method.rsmatch.route_warmup_steps": 5}, UNSUPERVISED),
        ({"method.rsmatch.detector_threshold": 0.99}, {"detector_loss_unsup"}),
        ({"method.rsmatch.queue_sample": "uniform"}, {"detector_loss_sup"}),
        ({"method.threshold": 0.8}, UNSUPERVISED),
        ({"train.weak_forward": "separate"}, set()),
    ],
)
def test_each_switch_changes_exactly_its_terms(switch, terms, monkeypatch):
    all_tables = table_networks.tables({"real": K, "fake": K, "detector": 2})
    monkeypatch.setattr(
        table_networks, "tables", lambda heads: {h: all_tables[h] for h in heads}
    )
    b = batch(np.random.default_rng(1))
    base, other = (rsmatch(b, **o)[0] for o in ({}, switch))
    losses = [k for k in base if k.startswith(("loss_", "detector_loss"))]
    changed = {k for k in losses if not np.isclose(base[k], other[k], rtol=1e-6)}
    assert changed == terms
    if "method.rsmatch.fake_head" in switch:
        assert other["loss_unsup_fake"] == 0
    if "method.rsmatch.route_warmup_steps" in switch:
        assert other["routed_synthetic"] == 0
    if switch.get("method.rsmatch.routing") == "oracle":
        np.testing.assert_allclose(other["routed_synthetic"], b.synthetic.mean())


@pytest.mark.parametrize("key", ["queue_min_score", "queue_min_confidence"])
def test_floors_keep_images_out_of_the_queue(key):
    b = batch(np.random.default_rng(4))
    pushed = []
    for floor in (0.0, 0.9):
        dims, method, nets, params = method_of(**{f"method.rsmatch.{key}": floor})
        _, extra = run_one(method, nets, params, method.init_extra(dims), b)
        held = extra["queue"].indices
        pushed.append(set(held[held >= 0].tolist()))
    assert pushed[1] < pushed[0]


def test_single_queue_takes_the_best_of_the_whole_batch():
    keys = {"method.rsmatch.classwise_queue": False, "method.rsmatch.queue_classes": 3}
    dims, method, nets, params = method_of(**keys)
    b = batch(np.random.default_rng(6))
    p_s = expected_losses(FixOracle(), params, b)[2]
    _, extra = run_one(method, nets, params, method.init_extra(dims), b)
    assert extra["queue"].indices.shape == (1, K * 2)
    best = np.argsort(-p_s, kind="stable")[:3]
    np.testing.assert_array_equal(extra["queue"].indices[0, :3], b.indices[best])


@pytest.mark.parametrize("reaugment", [False, True])
def test_queue_images_are_viewed_anew_by_the_switch(reaugment):
    """Drawn pictures are the stored ones, or crops of them with an offset of 0..2."""
    dims, method, _, _ = method_of(**{"method.rsmatch.queue_reaugment": reaugment})
    rng = np.random.default_rng(0)
    queue = filled_queue(method, dims)
    stored = rng.integers(0, 256, queue.images.shape).astype(np.uint8)
    queue = queue.replace(images=jnp.asarray(stored))

    def sample(queue, batch):
        key = jax.random.key(1)
        inputs = step_inputs({}, {"queue": queue}, batch, key, jnp.int32(0))
        return rsmatch_queue.draw(method, inputs, *jax.random.split(key))[0][None]

    devices = jax.local_devices()[:1]
    shards = parallel.shard_rows(batch(rng), devices)
    drawn = parallel.map_eval(sample, devices)(queue, shards)
    pool = stored.reshape(-1, 8, 8, 3)
    padded = np.pad(pool, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="reflect")
    crops = [padded[:, y : y + 8, x : x + 8] for y in range(3) for x in range(3)]
    crops = np.concatenate(crops + [c[:, :, ::-1] for c in crops])
    plain = {p.tobytes() for p in pool}
    drawn_images = [p.tobytes() for p in np.asarray(drawn).reshape(-1, 8, 8, 3)]
    assert len(drawn_images) == B
    assert set(drawn_images) <= {np.ascontiguousarray(c).tobytes() for c in crops}
    assert (set(drawn_images) <= plain) != reaugment


def test_detector_alone_sees_its_examples_turned():
    """Labelled and queue pictures come as numpy turns and mirrors them, in all eight
    ways; on four devices the same ones."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (2, 400, 8, 8, 3)).astype(np.uint8)
    long = {"method.rsmatch.queue_length": 40}
    dims, plain, _, _ = method_of(**long)
    _, method, _, _ = method_of(**long, **{"method.rsmatch.detector_turns": True})
    queue = filled_queue(method, dims)
    stored = rng.integers(0, 256, queue.images.shape).astype(np.uint8)
    queue = queue.replace(images=jnp.asarray(stored))
    b = batch(rng).replace(lab=pictures[0], weak=pictures[1])
    seen = {}
    for chosen, devices in ((plain, 1), (method, 1), (method, 4)):

        def examples(queue, shard, method=chosen):
            key = jax.random.key(1)
            inputs = step_inputs({}, {"queue": queue}, shard, key, jnp.int32(0))
            images, _ = method._examples(inputs, *jax.random.split(key))
            return jnp.stack(images, 1)

        used = jax.local_devices()[:devices]
        shards = parallel.shard_rows(b, used)
        drawn = parallel.map_eval(examples, used)(queue, shards)
        seen[chosen.detector_turns, devices] = parallel.collect(drawn).swapaxes(0, 1)
    np.testing.assert_array_equal(seen[True, 1], seen[True, 4])
    for upright, turned in zip(seen[False, 1], seen[True, 1], strict=True):
        ways = [
            np.rot90(x, k, (1, 2))
            for x in (upright, upright[:, ::-1])
            for k in range(4)
        ]
        equal = np.stack([(w == turned).all((1, 2, 3)) for w in ways])
        assert (equal.sum(0) == 1).all()  # each in one way
        assert equal.sum(1).min() > 25  # of 50 expected


def interval(shares, fill=0.5):
    return [{"detector_synthetic": s, "queue_fill": fill} for s in shares]


@pytest.mark.parametrize(
    ("steps", "first", "names"),
    [
        (interval([0.0] * 10), False, ["detector says all real"]),
        (interval([1.0] * 10), False, ["detector says all synthetic"]),
        (interval([0.0] * 10), True, []),  # it has seen no queue image yet
        (interval([0.0] * 9), False, []),  # 900 images
        (interval([0.0] * 9 + [0.01]), False, []),
        (interval([0.0, 1.0] * 5), False, []),
        (interval([0.5] * 2, fill=0.0), False, ["queue empty"]),
        (interval([0.5] * 2, fill=0.0), True, []),
    ],
)
def test_alarms(steps, first, names):
    alarms = rsmatch_checks.alarms(steps, first=first, images_a_step=100)
    assert list(alarms) == names
