"""What RSMatch's detector learns from: Eq. 2, the nnPU risk, both; the prior."""

import functools
import re

import numpy as np
import pytest
from support.detector_oracle import RATE, DetectorOracle
from support.helpers import batches, build, config
from support.table_networks import B, batch, drawn_rows, method_of, run, run_one

from rsmatch_jax.engine import checks
from rsmatch_jax.errors import RequestError
from rsmatch_jax.forensics import share
from rsmatch_jax.methods import detector_losses
from rsmatch_jax.methods.catalogue import METHODS
from rsmatch_jax.runtime import parallel
from rsmatch_jax.state import OriginScores

close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
LOSS, PRIOR = "method.rsmatch.detector_loss", "method.rsmatch.synthetic_prior"
STEPS = 24


def batches_of_tables():
    rng = np.random.default_rng(5)
    for _ in range(STEPS):
        yield batch(rng)


@pytest.mark.parametrize(
    ("choice", "prior"),
    [("queue", None), ("nnpu", 0.3), ("queue+nnpu", 0.3), ("nnpu", 0.15)],
)
@pytest.mark.parametrize("individual", [True, False], ids=["two networks", "one"])
def test_loss_and_gradient_equal_the_equations(choice, prior, individual):
    """24 steps of SGD, on one device and on four: every loss, the total, the gradient
    and the table itself. Both branches of the risk are taken, and devices that decide
    on their own rows would take the other one."""
    keys = {LOSS: choice, PRIOR: prior, "method.rsmatch.individual_models": individual}
    network = "detector" if individual else "classifier"
    has_queue, stream = "queue" in choice, list(batches_of_tables())
    for devices in (1, 4):
        dims, method, nets, params = method_of(**keys)
        extra = method.init_extra(dims)
        steps = run(method, nets, params, extra, stream, devices, RATE)
        oracle = DetectorOracle(params[network]["detector"], prior)
        seen, cuts, others, sure = set(), set(), 0, []
        for t, (b, step) in enumerate(zip(stream, steps, strict=True)):
            close(step.params[network]["detector"], oracle.table, atol=1e-5)
            oracle.step(b, drawn_rows(extra["queue"], t) if has_queue else None)
            extra, m = step.extra, step.metrics
            for name, value in oracle.loss.items():
                close(m[name], value, err_msg=name)
                seen |= {name} if value else set()
            unsup = m["loss_unsup"] + 0.6 * m["loss_unsup_fake"]
            close(m["value"], oracle.total + m["loss_sup"] + 0.7 * unsup)
            close(m["loss"], m["value"])
            close(m["grads"][network]["detector"], oracle.grad)
            close(m["routed_synthetic"], oracle.synthetic.mean())
            sure.append(oracle.sure)
            if prior is not None:
                assert m["detector_nnpu_cut"] == oracle.cut
                close(m["synthetic_prior"], prior)
                cuts.add(bool(oracle.cut))
                others += sum((x < 0) != oracle.cut for x in oracle.local)
        assert seen == set(oracle.loss) and 0.1 < np.mean(sure) < 0.9
        assert ("queue" in extra) == ("queue_fill" in m) == has_queue
        assert ("detector_loss_nnpu" in m) == (prior is not None)
        if prior is not None:
            assert cuts == {True, False} and others > 0


def test_what_is_there_by_choice():
    """Buffers, and rows in the detector's forward pass: nnPU draws none."""
    sizes = {"queue": 2 * B + 24, "nnpu": B + 24, "queue+nnpu": 2 * B + 24}
    assert config().method.rsmatch.detector_loss == "queue"
    assert tuple(sizes) == detector_losses.CHOICES
    b = next(batches_of_tables())
    for choice, size in sizes.items():
        dims, method, nets, params = method_of(**{LOSS: choice})
        extra, seen = method.init_extra(dims), []
        net = nets["detector"]

        def apply(params, stats, images, train, net=net, seen=seen):
            seen.append(len(images))
            return net.apply(params, stats, images, train)

        nets["detector"] = net._replace(apply=apply)
        metrics, _ = run_one(method, nets, params, extra, b)
        assert set(seen) == {size}
        buffers = {"rule"} | ({"queue"} if "queue" in choice else set())
        buffers |= {"synthetic_prior"} if "nnpu" in choice else set()
        assert extra.keys() == buffers
        assert (method.queue(extra) is not None) == ("queue" in choice)
        assert metrics.get("synthetic_prior") == (0.5 if "nnpu" in choice else None)


def collectives(**keys):
    """(reductions, gathers) in a step on two devices."""
    _, _, exp = build(2, **keys)
    b = parallel.shard_rows(next(batches(exp, 1)), exp.devices)
    text = exp.train_step().lower(exp.pack(exp.init_state()), b).as_text()
    kinds = ("all_reduce", "all_gather")
    return [len(re.findall(rf"stablehlo\.{kind}", text)) for kind in kinds]


def test_communication():
    """The risk's branch is one scalar, beside its metrics (risk, branch, prior); the
    entropy's median takes one gather; without a queue there is none, nor its fill."""
    reductions, gathers = collectives()
    assert collectives(**{LOSS: "queue+nnpu"}) == [reductions + 4, gathers]
    assert collectives(**{LOSS: "nnpu"}) == [reductions + 2, gathers - 4]
    for routing, more in (("entropy", 1), ("statistics", 0), ("random", 0)):
        keys = {"method.rsmatch.routing": routing}
        assert collectives(**keys) == [reductions, gathers + more]


def scores(labelled, unlabelled, held_out):
    parts = labelled, unlabelled, held_out
    return OriginScores(*(np.asarray(x, np.float32) for x in parts))


def test_estimated_prior():
    """best_bin's share of the images without a label, as a share of all; kept inside;
    none of too few images. A setting that is given is not estimated."""
    rng = np.random.default_rng(0)
    real = rng.beta(2, 6, 400)
    mixed = np.append(rng.beta(2, 6, 300), rng.beta(6, 2, 300))
    value = detector_losses.estimated_prior(scores(real[:100], mixed, real))
    assert value.dtype == np.float32
    expected = share.best_bin(*(x.astype(np.float32) for x in (real, mixed)))
    assert 0.35 < expected < 0.65
    close(value, expected * 600 / 700)
    high, low = np.linspace(0.9, 1, 600), np.linspace(0, 0.1, 400)
    assert detector_losses.estimated_prior(scores([], high, low)) == np.float32(0.99)
    assert detector_losses.estimated_prior(scores(real, real, real)) == np.float32(0.01)
    assert detector_losses.estimated_prior(scores(real, mixed, real[:19])) is None
    assert detector_losses.estimated_prior(scores(real, mixed[:49], real)) is None
    given = scores(real[:100], mixed, real)
    for keys, changed in (
        ({LOSS: "nnpu"}, True),
        ({LOSS: "nnpu", PRIOR: 0.2}, False),
        ({}, False),
    ):
        new = method_of(**keys)[1].after_evaluation(given)
        assert new == ({"synthetic_prior": value} if changed else {})


@pytest.mark.parametrize("ratio", [0.3, 0.7])
@pytest.mark.parametrize(
    ("keys", "prior", "coin"),
    [
        ({}, None, None),
        ({"train.real_rows": 3}, 5 / 8, 5 / 8),  # of 8 rows
        ({"train.real_rows": 8}, 0, 0),
        ({"train.real_rows": 3, PRIOR: 0.2}, 0.2, 5 / 8),
        ({"train.real_rows": 3, "data.real_only": True}, 0, 0),
    ],
)
def test_share_of_a_step_that_is_known(keys, prior, coin, ratio):
    """nnPU's prior and the coin's probability with train.real_rows are a step's share,
    whatever the set's, and then nothing is estimated."""
    _, _, exp = build(**{LOSS: "nnpu", "data.synthetic_ratio": ratio, **keys})
    assert exp.method.synthetic_prior == prior
    assert exp.method.synthetic_share == (ratio if coin is None else coin)
    assert (PRIOR.split(".")[-1] in exp.method.init_extra(exp.dims)) == (prior is None)


def test_queue_checks_are_not_for_nnpu():
    small = {"method.rsmatch.queue_length": 1, "method.rsmatch.queue_push": 5}
    with pytest.raises(RequestError, match="queue_push=5"):
        checks.check(config(**small), 1)
    small |= {"method.rsmatch.queue_sample": "uniform"}  # as in configs/own.py
    c = config(**small, **{LOSS: "nnpu", "train.batch_size": 64})
    checks.check(c, 1)
    assert METHODS["rsmatch"].check_data(c, 10, 5) == []
