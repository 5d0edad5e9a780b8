"""Who decides which unlabelled images count as synthetic: entropy, statistics."""

import functools
import math
import statistics

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from support.helpers import build
from support.table_networks import (
    TAU,
    B,
    U,
    batch,
    log_softmax,
    method_of,
    rows,
    run,
    run_one,
    softmax,
)

from rsmatch_jax.data.rs_ssl import UNKNOWN
from rsmatch_jax.errors import RequestError
from rsmatch_jax.forensics import threshold
from rsmatch_jax.methods import routing
from rsmatch_jax.methods.rsmatch import STATISTICS
from rsmatch_jax.metrics import verdicts
from rsmatch_jax.sift import judge, material
from rsmatch_jax.state import TrainingImages

close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
ROUTING = "method.rsmatch.routing"
STEPS, N = 24, 30


def stream(unlabelled=U):
    rng = np.random.default_rng(6)
    for _ in range(STEPS):
        b = batch(rng, B, unlabelled)
        yield b.replace(indices=rng.integers(0, N, unlabelled).astype(np.int32))


def by_entropy(table, b):
    """Which rows are not above the batch's median entropy."""
    values = []
    for p in softmax(table[rows(b.weak)]):
        values.append(-sum(x * math.log(x) for x in p))
    middle = statistics.median(values)
    gaps = [abs(v - middle) for v in values]
    assert len(values) % 2 or min(gaps) > 1e-6
    return [v <= middle + 1e-9 for v in values]


def routed_losses(tables, b, synthetic):
    """Equations 5 and 6 by FixMatch's rule, row by row."""
    q, out = softmax(tables["real"][rows(b.weak)]), {"real": 0.0, "fake": 0.0}
    for i, row in enumerate(rows(b.strong)):
        if q[i].max() >= TAU:
            head = "fake" if synthetic[i] else "real"
            out[head] -= log_softmax(tables[head][row])[q[i].argmax()] / len(synthetic)
    return out


@pytest.mark.parametrize("how", ["entropy", "statistics"])
@pytest.mark.parametrize("warmup", [0, 6])
def test_routes_and_losses_over_24_steps(how, warmup):
    """On one device and on four; the median is the global batch's. Equal parameters of
    plain SGD. A buffer of judgements stays as it is, the detector learns all the same.
    """
    keys = {ROUTING: how, "method.rsmatch.route_warmup_steps": warmup}
    judged, runs = np.random.default_rng(1).random(N) < 0.4, {}
    for devices in (1, 4):
        dims, method, nets, params = method_of(**keys)
        extra, seen = method.init_extra(dims), []
        if how == "statistics":
            assert extra[STATISTICS].dtype == bool
            extra[STATISTICS] = judged
        runs[devices] = run(method, nets, params, extra, stream(), devices, rate=0.5)
        for t, (b, step) in enumerate(zip(stream(), runs[devices], strict=True)):
            tables = step.params["classifier"]
            tables = {k: np.asarray(v, np.float64) for k, v in tables.items()}
            synthetic = judged[b.indices]
            if how == "entropy":
                synthetic = by_entropy(tables["real"], b)
                assert sum(synthetic) >= U / 2
            if t < warmup:
                synthetic = [False] * U
            close(step.metrics["routed_synthetic"], np.mean(synthetic))
            expected = routed_losses(tables, b, synthetic)
            close(step.metrics["loss_unsup"], expected["real"])
            close(step.metrics["loss_unsup_fake"], expected["fake"])
            assert step.metrics["detector_loss_sup"] > 0
            assert np.abs(step.metrics["grads"]["detector"]["detector"]).max() > 0
            seen.append(list(expected.values()))
            if how == "statistics":
                kept = step.extra[STATISTICS]
                np.testing.assert_array_equal(kept, judged)
        assert (np.mean(np.array(seen[warmup:]) > 0, axis=0) > 0.5).all()
    for one, four in zip(runs[1], runs[4], strict=True):
        for head, table in one.params["classifier"].items():
            close(table, four.params["classifier"][head], atol=1e-5)


def test_image_at_the_median_is_synthetic():
    """Of an odd number one lies there; of equal images all do."""
    dims, method, nets, params = method_of(**{ROUTING: "entropy"})
    for count, share in ((11, 6 / 11), (12, 0.5)):
        b = batch(np.random.default_rng(2), B, count)
        metrics, _ = run_one(method, nets, params, method.init_extra(dims), b)
        close(metrics["routed_synthetic"], share)
    b = b.replace(weak=np.broadcast_to(b.weak[:1], b.weak.shape))
    metrics, _ = run_one(method, nets, params, method.init_extra(dims), b)
    assert metrics["routed_synthetic"] == 1


def test_entropy_of_a_certain_image_is_finite():
    """The authors' p * log(p) would be NaN."""
    logits = jnp.array([[400.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    got = routing.by_entropy(logits, None)
    assert got.tolist() == [True, False, True]


def test_a_prior_adds_its_log_odds():
    """Bayes' rule for independent traits, in float64; certainty stays finite."""
    p = np.array([[0.5, 0.5], [0.9, 0.1], [0.02, 0.98], [1.0, 0.0], [0.3, 0.7]])
    logit = np.array([0.0, 2.0, -3.0, 4.0, -0.5])
    got = routing.with_prior(jnp.float32(p), jnp.float32(logit))
    odds = p[:, 1] / p[:, 0] * np.exp(logit)
    expected = odds / (1 + odds)
    close(got[:, 1], expected, atol=1e-5)
    close(got.sum(axis=1), 1)
    assert np.isfinite(got).all()
    assert routing.by_detector(got, 0.0).tolist() == (expected > 0.5).tolist()


def by_sift(labelled, classes, others):
    """(scores, summary) of `sift --labeled --unlabeled` by statistics."""
    sifted = material.Material(
        names=["x"] * len(others),
        images=others,
        class_names=tuple(map(str, range(classes.max() + 1))),
        labelled=labelled,
        classes=classes,
        held_out=others[:0],
        context=others[:0],
        origins=np.full(len(others), UNKNOWN, np.int32),
        sources=None,
    )
    made = judge.scores(sifted, judge.STATISTICS)
    return made[judge.STATISTICS].images, judge.summary(made, judge.STATISTICS, 0.05)


@pytest.fixture(scope="module")
def task():
    return build(**{"data.labels_per_class": 8})[1]


def test_statistics_judge_as_sift_does(task):
    """Scores, threshold and verdicts of `sift --labeled --unlabeled`, which sees
    neither the test set nor any truth; labelled images are real."""
    count = len(task.lab_images)
    others = task.unl_images[count:]
    images = TrainingImages(task.lab_images, task.lab_labels, others)
    got, logit = routing.by_statistics(images)
    scores, summary = by_sift(task.lab_images, task.lab_labels, others)
    assert summary["held_out_real"] == count == 80
    words = verdicts.of_scores(scores, summary["threshold"])
    expected = [False] * count + [word == verdicts.SYNTHETIC for word in words]
    assert got.tolist() == expected
    assert got.dtype == bool and 0 < got.sum() == summary["verdicts"]["synthetic"]
    # The prior: log odds of the scores, and a labelled image is surely real.
    odds = np.clip(np.log(scores / (1 - scores)), -4, 4)
    close(logit, [-4] * count + odds.tolist())
    assert logit.dtype == np.float32 and np.ptp(odds) > 1
    of_task = material._of_task(task)
    np.testing.assert_array_equal(of_task.images, others)
    assert threshold.FALSE_ALARM == 0.05


def test_copies_of_labelled_images_look_no_more_real():
    """Among the unlabelled ones they score as other real images do: no model that saw
    one of the two scores the other."""
    rng = np.random.default_rng(0)
    # More than a chunk, of which rounding makes other statistics of a copy.
    pictures = rng.integers(0, 256, (240, 32, 32, 3)).astype(np.uint8)
    labelled, others = pictures[:60], pictures  # the first 60 are copies
    classes = np.zeros(60, np.int32)
    logit = routing.by_statistics(TrainingImages(labelled, classes, others)).logit[60:]
    sifted, _ = by_sift(labelled, classes, others)
    for scores in (logit, sifted):
        ranks = stats.rankdata(scores) / len(scores)
        assert abs(ranks[:60].mean() - ranks[60:].mean()) < 0.1


def test_few_labelled_images(task):
    """Below 19 there is no threshold at a false alarm of 0.05, and the border is 0.5;
    below 10 there are no scores."""
    others = task.unl_images[len(task.lab_images) :]
    few = slice(0, None, 5)  # 16, of all classes

    def judged(rows, unlabelled=others):
        return routing.by_statistics(
            TrainingImages(task.lab_images[rows], task.lab_labels[rows], unlabelled)
        ).synthetic

    made = judged(few)
    assert len(made) == 16 + len(others) and not made[:16].any()
    with pytest.raises(RequestError, match="there are 9 labelled images"):
        judged(slice(0, 9))
    with pytest.raises(RequestError, match="and 6 others"):
        judged(few, others[:6])
