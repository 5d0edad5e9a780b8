"""Losses against equations written out row by row in numpy, on networks whose logits
are looked up in tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.helpers import build, step_inputs

from rsmatch_jax.methods import csqueue
from rsmatch_jax.models.networks import Network
from rsmatch_jax.runtime import parallel
from rsmatch_jax.state import Batch, Outputs

B, U, K = 4, 12, 10
TAU, TAU_DETECTOR = 0.5, 0.7
UNSUPERVISED = {"loss_unsup", "loss_unsup_fake"}


def table_network(heads):
    """Logits of an image are a row of a table; the row number is its first pixel."""

    def init(key, images):
        del images
        keys = jax.random.split(key, len(heads))
        sizes = sorted(heads.items())
        tables = {
            head: 2 * jax.random.normal(k, (256, n))
            for k, (head, n) in zip(keys, sizes, strict=True)
        }
        return tables, {}

    def apply(params, stats, images, train):
        del train
        rows = images[:, 0, 0, 0].astype(jnp.int32)
        logits = {head: table[rows] for head, table in params.items()}
        return Outputs(jnp.zeros((len(images), 1)), logits), stats

    return Network(init, apply)


def picture(row):
    row = np.asarray(row, np.uint8)
    return np.broadcast_to(row[:, None, None, None], (len(row), 8, 8, 3))


def batch(rng):
    def rows(n):
        return picture(rng.integers(0, 256, n))

    return Batch(
        lab=rows(B),
        labels=rng.integers(0, K, B).astype(np.int32),
        lab_indices=np.arange(B, dtype=np.int32),
        weak=rows(U),
        strong=rows(U),
        indices=np.arange(U, dtype=np.int32),
        synthetic=rng.random(U) < 0.5,
    )


def evaluate(method, nets, params, extra, b):
    """The method's loss and metrics as inside train step 0, on one device."""
    devices = jax.local_devices()[:1]

    def run(state, batch):
        params, extra = state
        inputs = step_inputs(nets, extra, batch, jax.random.key(7), jnp.int32(0))
        loss_of = jax.value_and_grad(lambda p: method.loss(p, inputs), has_aux=True)
        (loss, (_, extra, metrics)), grads = loss_of(params)
        return (params, extra), {"grads": grads, "value": loss, **metrics}

    mapped = parallel.map_step(run, devices)
    state = parallel.replicate(jax.tree.map(jnp.copy, (params, extra)), devices)
    (_, extra), out = mapped(state, parallel.shard_rows(b, devices))
    return jax.device_get(out), jax.device_get(extra)


def method_of(**overrides):
    _, _, exp = build(
        **{
            "method.threshold": TAU,
            "method.unsup_weight": 0.7,
            "method.rsmatch.detector_threshold": TAU_DETECTOR,
            "method.rsmatch.queue_length": 2,
            "method.rsmatch.detector_unsup_weight": 1.3,
            "method.rsmatch.fake_weight": 0.6,
            **overrides,
        }
    )
    heads = exp.method.heads(K)
    nets = {name: table_network(h) for name, h in heads.items()}
    params = {n: net.init(jax.random.key(3), None)[0] for n, net in nets.items()}
    return exp, exp.method, nets, params


def filled_queue(exp):
    """A full queue whose picture in slot j is j + 40."""
    queue = exp.method.init_extra(exp.dims)["queue"]
    n = queue.capacity
    images = picture(np.arange(40, 40 + n, dtype=np.uint8))
    return queue.replace(
        images=jnp.asarray(images).reshape(queue.images.shape),
        indices=jnp.arange(n, dtype=jnp.int32).reshape(queue.indices.shape),
        count=jnp.full_like(queue.count, queue.indices.shape[1]),
    )


def log_softmax(z):
    z = np.asarray(z, np.float64)
    return z - z.max() - np.log(np.exp(z - z.max()).sum())


class Oracle:
    """Equations 1 to 7, one image at a time."""

    def __init__(self, params, b, queue_rows, ready):
        def table(head):
            return np.asarray(
                next(p[head] for p in params.values() if head in p), np.float64
            )

        rows = {"lab": b.lab, "weak": b.weak, "strong": b.strong}
        at = {k: v[:, 0, 0, 0].astype(int) for k, v in rows.items()}
        real, detect = table("real"), table("detector")
        fake = table("fake") if any("fake" in p for p in params.values()) else None
        self.p_s = np.array([np.exp(log_softmax(detect[r]))[1] for r in at["weak"]])
        sup = -sum(log_softmax(detect[r])[0] for r in at["lab"])
        if ready:
            sup -= sum(log_softmax(detect[r])[1] for r in queue_rows)
        self.detector_sup = sup / (2 * B)
        self.detector_unsup = self.real = self.fake = 0.0
        self.classes, self.synthetic = [], []
        for i in range(U):
            q = np.exp(log_softmax(real[at["weak"][i]]))
            q_detect = np.exp(log_softmax(detect[at["weak"][i]]))
            origin, c = int(q_detect.argmax()), int(q.argmax())
            if q_detect.max() > TAU_DETECTOR:
                ce = -log_softmax(detect[at["strong"][i]])[origin]
                self.detector_unsup += ce / U
            if q.max() > TAU and origin == 0:
                self.real -= log_softmax(real[at["strong"][i]])[c] / U
            if q.max() > TAU and origin == 1 and fake is not None:
                self.fake -= log_softmax(fake[at["strong"][i]])[c] / U
            self.classes.append(c)
            self.synthetic.append(origin == 1)
        self.sup = -np.mean(
            [log_softmax(real[r])[y] for r, y in zip(at["lab"], b.labels, strict=True)]
        )
        self.total = (
            self.detector_sup
            + 1.3 * self.detector_unsup
            + self.sup
            + 0.7 * (self.real + 0.6 * self.fake)
        )


def drawn_rows(queue):
    """What the loss draws for key 7: the sampler itself has its own tests."""
    key = jax.random.split(jax.random.key(7), 4)[0]
    slots, _ = csqueue.sample_distinct(queue, key, B)
    return np.asarray(slots) + 40


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("seed", [0, 1, 3])
def test_rsmatch_equals_its_equations(full, seed):
    exp, method, nets, params = method_of()
    b = batch(np.random.default_rng(seed))
    queue = filled_queue(exp) if full else method.init_extra(exp.dims)["queue"]
    expected = Oracle(params, b, drawn_rows(queue) if full else [], full)
    out, extra = evaluate(method, nets, params, {"queue": queue, "rule": {}}, b)
    assert expected.real > 0
    assert expected.fake > 0
    for name, value in {
        "loss": expected.total,
        "value": expected.total,
        "loss_sup": expected.sup,
        "loss_unsup": expected.real,
        "loss_unsup_fake": expected.fake,
        "detector_loss_sup": expected.detector_sup,
        "detector_loss_unsup": expected.detector_unsup,
        "routed_synthetic": np.mean(expected.synthetic),
    }.items():
        np.testing.assert_allclose(out[name], value, rtol=1e-5, err_msg=name)
    # The push of the same step: the best p'_s of every predicted class.
    for c in set(expected.classes):
        mine = [i for i in range(U) if expected.classes[i] == c]
        best = max(mine, key=lambda i: expected.p_s[i])
        assert extra["queue"].indices[c, 0] == b.indices[best]


def test_gradients_stay_where_the_equations_put_them():
    """Synthetic images reach no real head; the fake head sees nothing else."""
    exp, method, nets, params = method_of()
    b = batch(np.random.default_rng(5))
    queue = {"queue": filled_queue(exp), "rule": {}}
    expected = Oracle(params, b, [], False)
    grads = evaluate(method, nets, params, queue, b)[0]["grads"]
    strong = b.strong[:, 0, 0, 0]
    synthetic = set(strong[np.array(expected.synthetic)])
    real = set(strong[~np.array(expected.synthetic)])
    touched = {
        head: set(np.flatnonzero(np.abs(g).sum(axis=1)))
        for net in grads.values()
        for head, g in net.items()
    }
    assert touched["fake"] <= synthetic
    assert touched["real"] <= real | set(b.lab[:, 0, 0, 0])
    assert touched["fake"]


def changed_terms(**overrides):
    """Which loss terms an override changes, everything else being equal."""
    b = batch(np.random.default_rng(1))
    results = []
    for o in ({}, overrides):
        exp, method, nets, _ = method_of(**o)
        heads = {"real": K, "fake": K, "detector": 2}
        tables = table_network(heads).init(jax.random.key(3), None)[0]
        params = {
            name: {h: tables[h] for h in exp.method.heads(K)[name]} for name in nets
        }
        queue = filled_queue(exp)
        results.append(
            evaluate(method, nets, params, {"queue": queue, "rule": {}}, b)[0]
        )
    base, other = results
    terms = [k for k in base if k.startswith(("loss_", "detector_loss"))]
    return {k for k in terms if not np.isclose(base[k], other[k], rtol=1e-6)}, other


@pytest.mark.parametrize(
    ("switch", "terms"),
    [
        ({"method.rsmatch.fake_head": False}, {"loss_unsup_fake"}),
        ({"method.rsmatch.individual_models": False}, set()),  # same logits given
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
def test_each_switch_changes_exactly_its_terms(switch, terms):
    changed, values = changed_terms(**switch)
    assert changed == terms
    if "method.rsmatch.fake_head" in switch:
        assert values["loss_unsup_fake"] == 0
    if "method.rsmatch.route_warmup_steps" in switch:
        assert values["routed_synthetic"] == 0


def test_oracle_routing_takes_the_flags():
    exp, method, nets, params = method_of(**{"method.rsmatch.routing": "oracle"})
    b = batch(np.random.default_rng(2))
    out, _ = evaluate(method, nets, params, {"queue": filled_queue(exp), "rule": {}}, b)
    np.testing.assert_allclose(out["routed_synthetic"], b.synthetic.mean())


@pytest.mark.parametrize(
    ("key", "value"), [("queue_min_score", 0.9), ("queue_min_confidence", 0.9)]
)
def test_floors_keep_images_out_of_the_queue(key, value):
    b = batch(np.random.default_rng(4))
    pushed = []
    for floor in (0.0, value):
        exp, method, nets, params = method_of(**{f"method.rsmatch.{key}": floor})
        _, extra = evaluate(method, nets, params, method.init_extra(exp.dims), b)
        held = extra["queue"].indices
        pushed.append(set(held[held >= 0].tolist()))
    assert pushed[1] < pushed[0]


def test_single_queue_takes_the_best_of_the_whole_batch():
    exp, method, nets, params = method_of(
        **{"method.rsmatch.classwise_queue": False, "method.rsmatch.queue_classes": 3}
    )
    b = batch(np.random.default_rng(6))
    expected = Oracle(params, b, [], False)
    _, extra = evaluate(method, nets, params, method.init_extra(exp.dims), b)
    assert extra["queue"].indices.shape == (1, K * 2)
    best = np.argsort(-expected.p_s, kind="stable")[:3]
    np.testing.assert_array_equal(extra["queue"].indices[0, :3], b.indices[best])


@pytest.mark.parametrize("reaugment", [False, True])
def test_queue_images_are_viewed_anew_by_the_switch(reaugment):
    """Drawn pictures are the stored ones, or crops of them with an offset of 0..2."""
    exp, method, _, _ = method_of(**{"method.rsmatch.queue_reaugment": reaugment})
    rng = np.random.default_rng(0)
    queue = filled_queue(exp)
    stored = rng.integers(0, 256, queue.images.shape).astype(np.uint8)
    queue = queue.replace(images=jnp.asarray(stored))

    def sample(queue, batch):
        key = jax.random.key(1)
        inputs = step_inputs({}, {"queue": queue}, batch, key, jnp.int32(0))
        return method._sample(inputs, *jax.random.split(key))[0][None]

    devices = jax.local_devices()[:1]
    drawn = parallel.map_eval(sample, devices)(
        queue, parallel.shard_rows(batch(rng), devices)
    )
    pool = stored.reshape(-1, 8, 8, 3)
    padded = np.pad(pool, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="reflect")
    crops = [padded[:, y : y + 8, x : x + 8] for y in range(3) for x in range(3)]
    crops = np.concatenate(crops + [c[:, :, ::-1] for c in crops])
    plain = {p.tobytes() for p in pool}
    drawn_images = [p.tobytes() for p in np.asarray(drawn).reshape(-1, 8, 8, 3)]
    assert len(drawn_images) == B
    assert set(drawn_images) <= {np.ascontiguousarray(c).tobytes() for c in crops}
    assert (set(drawn_images) <= plain) != reaugment


def test_fixmatch_equals_its_equation():
    _, method, nets, params = method_of(**{"method.name": "fixmatch"})
    b = batch(np.random.default_rng(0))
    table = np.asarray(params["classifier"]["real"], np.float64)
    unsup = 0.0
    for weak, strong in zip(b.weak[:, 0, 0, 0], b.strong[:, 0, 0, 0], strict=True):
        q = np.exp(log_softmax(table[weak]))
        if q.max() >= TAU:
            unsup -= log_softmax(table[strong])[q.argmax()] / U
    sup = -np.mean(
        [
            log_softmax(table[r])[y]
            for r, y in zip(b.lab[:, 0, 0, 0], b.labels, strict=True)
        ]
    )
    out, _ = evaluate(method, nets, params, {}, b)
    np.testing.assert_allclose(out["loss_unsup"], unsup, rtol=1e-5)
    np.testing.assert_allclose(out["value"], sup + 0.7 * unsup, rtol=1e-5)
    out, _ = evaluate(
        method_of(**{"method.name": "supervised"})[1], nets, params, {}, b
    )
    np.testing.assert_allclose(out["value"], sup, rtol=1e-5)
