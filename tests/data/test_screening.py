"""Which candidates a step trains on: the choice, the detector's scores, whole steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.helpers import TINY, build, leaves
from test_resident import SPEC, batches

from rsmatch_jax import step
from rsmatch_jax.augment import on_device
from rsmatch_jax.data import resident, sampler, screening
from rsmatch_jax.engine import feed
from rsmatch_jax.methods.rsmatch import PRIOR, STATISTICS
from rsmatch_jax.runs import history
from rsmatch_jax.runtime import parallel
from rsmatch_jax.state import Batch

RATIO = {"train.candidate_ratio": 5}  # 20 candidates for the 8 images of a step


@pytest.mark.parametrize(
    "rows, candidates, share, synthetic",
    [
        *((8, 20, None, 2), (128, 384, None, 32), (6, 6, None, 2), (1, 3, None, 0)),
        *((8, 20, 0.0, 0), (8, 20, 0.5, 4), (8, 20, 1.0, 8)),
    ],
)
def test_the_likeliest_of_both_kinds_are_chosen(rows, candidates, share, synthetic):
    rng = np.random.default_rng(rows)
    scores = rng.choice(np.arange(candidates // 2 + 1) / candidates, candidates)
    got = np.asarray(screening.choose(scores, rows, share))
    ranked = sorted(range(candidates), key=lambda i: (scores[i], i))
    real = ranked[: rows - synthetic]
    expected = set(real) | set(ranked[candidates - synthetic :])
    assert len(got) == rows and set(got.tolist()) == expected
    for devices in (2, 4):
        if rows % devices == 0:
            dealt = parallel.deal(np.isin(got, real), devices)
            assert np.ptp(dealt.sum(axis=1)) <= 1


@pytest.mark.parametrize("devices", [1, 4])
def test_a_batch_of_screened_images(devices):
    """Scores of the candidates' weak views, whose random numbers are their own, decide
    on the images; the step's views are made of these alone. The oracle makes the same
    views of the host's choice."""
    _, task, exp = build(seed=3, **RATIO)

    def brightness(weak):
        return jnp.sum(weak.astype(jnp.int32), axis=(1, 2, 3))

    def screen(candidates):
        assert candidates.lab.shape[0] == candidates.strong.shape[0] == 0
        scores = parallel.gather_rows(brightness(candidates.weak), parallel.AXIS)
        return screening.choose(scores, 8)

    steps = [0, 5]
    made = batches(exp, task, steps, devices, screen=screen, candidates=20)
    weak, strong = (
        jax.jit(f, static_argnames="spec") for f in (on_device.weak, on_device.strong)
    )
    for t, batch in zip(steps, made, strict=True):
        at = sampler.step_indices(3, "unlabelled", t, exp.dims.num_unlabeled, 20)
        root = jax.random.fold_in(jax.random.key(3), resident._VIEWS)
        keys = [jax.random.fold_in(jax.random.fold_in(root, i), t) for i in range(5)]
        numbers = [
            on_device.draw(keys[i], rows, SPEC, i == 2, None)
            for i, rows in ((1, 8), (2, 8), (4, 20))
        ]
        shown = weak(task.unl_images[at], numbers[2], spec=SPEC)
        scores = np.asarray(shown).reshape(20, -1).sum(axis=1, dtype=int)
        order = np.argsort(scores, kind="stable")
        assert set(batch.indices) == set(at[[*order[:6], *order[18:]]])
        images = task.unl_images[batch.indices]
        tables = on_device.make_tables(images.shape[1], SPEC)
        np.testing.assert_array_equal(batch.weak, weak(images, numbers[0], spec=SPEC))
        np.testing.assert_array_equal(
            batch.strong, strong(images, numbers[1], tables, spec=SPEC)
        )
        np.testing.assert_array_equal(
            batch.synthetic, task.unl_synthetic[batch.indices]
        )


def scores_of(exp, state, images, at, synthetic=None):
    """Method.screen's scores of a global batch of candidates, made on the devices."""
    count = len(exp.devices)

    def screen(state, candidates):
        return step.make_screen(exp.method, exp.nets)(state, candidates)

    def dealt(x):
        return None if x is None else parallel.deal(x, count)

    none = np.zeros((count, 0), np.int32)
    batch = Batch(
        *(images[:0].reshape(count, 0, *images.shape[1:]), none, none),
        *(dealt(images), images[:0].reshape(count, 0, *images.shape[1:])),
        indices=dealt(at),
        synthetic=dealt(synthetic),
    )
    mapped = jax.pmap(
        screen, axis_name=parallel.AXIS, in_axes=(None, 0), devices=exp.devices
    )
    made = np.asarray(mapped(state, batch))
    assert (made == made[0]).all()  # equal on all devices
    return made[0]


@pytest.mark.parametrize("prior", ["none", "statistics"])
def test_scores_are_the_detectors_and_the_priors(prior):
    """The softmax of the detector in training mode, on the batch of all devices, plus
    the prior's log odds; no statistics move."""
    keys = {**RATIO, "method.rsmatch.prior": prior}
    made = []
    for devices in (1, 4):
        _, task, exp = build(devices, **keys)
        state, at = exp.init_state(), np.arange(100, 120, dtype=np.int32)
        logit = np.random.default_rng(0).normal(size=exp.dims.num_unlabeled)
        if prior == "statistics":
            assert state.extra[PRIOR].shape == (exp.dims.num_unlabeled,)
            logit = logit.astype(np.float32)
            state = exp.with_buffers(state, {PRIOR: logit})
        images = task.unl_images[at]
        made.append(scores_of(exp, exp.pack(state), images, at))
    one = build(**{**keys, "model.sync_bn": False})[2]  # outside a mapped axis
    state = one.init_state()
    nets, name = one.nets, "detector"
    images = jnp.asarray(images)
    outputs, _ = nets[name].apply(state.params[name], state.stats[name], images, True)
    z = np.asarray(outputs.logits[name], np.float64)
    odds = z[:, 1] - z[:, 0] + (logit[at] if prior == "statistics" else 0)
    for got in made:
        np.testing.assert_allclose(got, 1 / (1 + np.exp(-odds)), rtol=2e-5)
    assert np.ptp(made[0]) > 0.01


@pytest.mark.parametrize(
    "keys, source",
    [
        ({"method.rsmatch.routing": "oracle"}, "truth"),
        ({"method.rsmatch.routing": "statistics"}, STATISTICS),
        (
            {
                "method.rsmatch.routing": "statistics",
                "method.rsmatch.prior": "statistics",
            },
            PRIOR,
        ),
    ],
)
def test_scores_without_a_detector(keys, source):
    _, task, exp = build(**keys, **RATIO)
    rng, at = np.random.default_rng(0), np.arange(310, 330, dtype=np.int32)
    values = {
        STATISTICS: rng.random(exp.dims.num_unlabeled) < 0.5,
        PRIOR: rng.normal(size=exp.dims.num_unlabeled).astype(np.float32),
    }
    state = exp.init_state()
    held = {k: v for k, v in values.items() if k in state.extra}
    state = exp.pack(exp.with_buffers(state, held))
    truth = task.unl_synthetic[at]
    assert 0 < truth.sum() < 20
    needed = truth if source == "truth" else None
    got = scores_of(exp, state, task.unl_images[at], at, needed)
    expected = truth if source == "truth" else values[source][at]
    np.testing.assert_array_equal(got, expected.astype(np.float32))


def test_a_run_is_the_same_on_four_devices():
    """Ground truth screens, so that rounding moves no choice."""
    keys = {**TINY, **RATIO, "method.rsmatch.routing": "oracle"}
    keys["train.candidate_synthetic"] = 0.375
    runs = []
    for devices in (1, 4):
        _, task, exp = build(devices, **keys)
        source = feed.ResidentFeed(exp, task, 1)
        state, metrics = exp.pack(exp.init_state()), []
        for done in range(3):
            state, dispatched = source.run(state, done, 1)
            metrics += history.per_step([dispatched])
        runs.append((leaves(exp.unpack(state).params), metrics))
    for path, value in runs[0][0].items():
        np.testing.assert_allclose(runs[1][0][path], value, atol=1e-5, err_msg=path)
    for one, four in zip(runs[0][1], runs[1][1], strict=True):
        assert one == pytest.approx(four, rel=1e-4, abs=1e-5)
        assert one["routed_synthetic"] == 0.375  # 3 of 8
