"""Statistics of real images in evaluation, against numpy and a plain run."""

import dataclasses

import jax
import numpy as np
import pytest
from support import numpy_layers
from support.helpers import assert_bit_equal, build, leaves
from support.runs import first_state, lines, run, saved_state

from rsmatch_jax import evaluate
from rsmatch_jax.data import normalise
from rsmatch_jax.methods.rsmatch import PRIOR, STATISTICS
from rsmatch_jax.metrics import measure, real_statistics

REAL = {"eval.real_bn": True, "eval.batch_size": 100}


def renewed(devices, **overrides):
    """The state, the renewed one, the task and the detector's scores, if any."""
    _, task, exp = build(devices, **REAL, **overrides)
    predict = measure.Predictor(exp.nets, exp.devices, exp.method.origin, 100)
    renew = real_statistics.Renewal(exp.method, exp.moments, predict, task)
    state = exp.init_state()
    # EMA weights that are not the live ones.
    ema = jax.tree.map(lambda x: x * 1.25, state.ema)
    state = dataclasses.replace(state, ema=ema)
    scores = predict(state, task.unl_images, task.unl_labels).get("synthetic_score")
    return state, renew(state, lambda: False), task, scores


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("method", ["oracle", "detector", "fixmatch", "supervised"])
def test_statistics_are_those_of_the_images_that_count_as_real(method, devices):
    """Of the smallest network's only norm, which sees the stem's output: mean and
    variance over all pixels of all images, the last batch filled from the start."""
    keys = {"method.name": method}
    if method in ("oracle", "detector"):
        keys = {"method.name": "rsmatch", "method.rsmatch.routing": method}
    state, new, task, scores = renewed(devices, **keys)
    real = np.ones(len(task.unl_images), bool)
    if method == "oracle":
        real = ~task.unl_synthetic
    elif method == "detector":
        real = scores <= 0.5
        assert 0 < real.sum() < len(real)
        real[: len(task.lab_images)] = True
    elif method == "supervised":
        real = np.arange(len(real)) < len(task.lab_images)
    order = np.random.default_rng(0).permutation(len(real))
    at = [i for i in order if real[i]]
    at = (at * 10)[: -(-len(at) // 100) * 100]
    mean, std = (np.array(x) for x in normalise.normalisation(task.name))
    params = leaves(state.ema["classifier"])
    (kernel,) = (v for k, v in params.items() if "stem" in k and "kernel" in k)
    (bias,) = (v for k, v in params.items() if "stem" in k and "bias" in k)
    x = numpy_layers.conv((task.unl_images[at] / 255.0 - mean) / std, kernel, 1) + bias
    values = x.reshape(-1, x.shape[-1])
    got = leaves(new.stats["classifier"])
    assert len(got) == 2
    for name, value in got.items():
        moment = values.var(axis=0) if "var" in name else values.mean(axis=0)
        np.testing.assert_allclose(value, moment, rtol=2e-5, atol=2e-5)
        assert value.dtype == np.float32
    same = dataclasses.replace(new, stats=state.stats)
    assert_bit_equal(same, state)
    others = new.stats.keys() - {"classifier"}
    assert_bit_equal(*({n: s.stats[n] for n in others} for s in (new, state)))


@pytest.mark.parametrize("prior", ["none", "statistics"])
def test_the_detector_judges_at_its_threshold(prior):
    _, _, exp = build(
        **{
            "method.rsmatch.prior": prior,
            "method.rsmatch.route_threshold": 0.7,
            "method.rsmatch.route_warmup_steps": 2,
        }
    )
    at, scores = np.array([3, 1, 0]), np.float32([0.9, 0.6, 0.2])
    logits = np.zeros(640, np.float32)
    logits[[3, 1, 0]] = -3, 2, 4
    extra = {PRIOR: jax.numpy.asarray(logits)}
    expected = [True, False, False]
    if prior == "statistics":  # odds 9 e^-3 = .45, 1.5 e^2 = 11, .25 e^4 = 14
        expected = [False, True, True]
    for step, answer in ((2, expected), (1, [False] * 3)):
        state = dataclasses.replace(exp.init_state(), extra=extra, step=np.int32(step))
        got = exp.method.routed_synthetic(state, at, lambda: scores, None)
        assert got.tolist() == answer


def test_routing_by_statistics():
    _, _, exp = build(**{"method.rsmatch.routing": "statistics"})
    flags = np.arange(640) % 2 == 1
    state = dataclasses.replace(exp.init_state(), extra={STATISTICS: flags})
    at = np.array([4, 5])
    got = exp.method.routed_synthetic(state, at, lambda: pytest.fail(), None)
    assert got.tolist() == [False, True]


def test_training_is_the_same_and_evaluate_finds_the_figures_again(tmp_path):
    oracle = {"method.rsmatch.routing": "oracle", "eval.batch_size": 100}
    results = {}
    for name, keys in (("plain", {}), ("real", REAL)):
        results[name] = run(tmp_path / name, **{**oracle, **keys})
    plain, real = results["plain"], results["real"]
    assert plain["fingerprint"] == real["fingerprint"]
    like = first_state(**oracle)
    assert_bit_equal(*(saved_state(tmp_path / name, 4, like) for name in results))
    last = [line for line in lines(tmp_path / "real") if "eval/test_ece" in line][-1]
    before = [line for line in lines(tmp_path / "plain") if "eval/test_ece" in line][-1]
    assert last["eval/test_ece"] != before["eval/test_ece"]
    auroc = "eval/detector_auroc"
    assert last[auroc] == before[auroc]  # the detector keeps its statistics
    devices = jax.local_devices()[:1]
    figures = evaluate.evaluate(str(tmp_path / "real"), devices=devices)
    anew = evaluate.evaluate(str(tmp_path / "plain"), devices=devices, real_bn=True)
    for key in ("test_ece", "test_accuracy", "detector_auroc", "utilisation"):
        assert figures[key] == anew[key] == last[f"eval/{key}"]


def test_interrupted():
    _, task, exp = build(**REAL, **{"method.name": "supervised"})
    predict = measure.Predictor(exp.nets, exp.devices, exp.method.origin, 100)
    renew = real_statistics.Renewal(exp.method, exp.moments, predict, task)
    with pytest.raises(measure.Interrupted):
        renew(exp.init_state(), lambda: True)
