"""The contract of methods and rules, used by small ones that the package lacks."""

import dataclasses

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from support.helpers import build, config
from support.table_networks import K, U, batch, method_of, run_one

import rsmatch_jax
from rsmatch_jax import losses
from rsmatch_jax.augment import on_device
from rsmatch_jax.engine import checks, feed, stages
from rsmatch_jax.errors import RequestError
from rsmatch_jax.methods import base, keys
from rsmatch_jax.methods.catalogue import METHODS, RULES
from rsmatch_jax.models.networks import Linear, Projector
from rsmatch_jax.models.wrn import WideResNet


@dataclasses.dataclass(frozen=True)
class TwoViews(base.Method):
    """A teacher of shadow weights labels one weak view, a head for training alone
    learns the other."""

    weak_views = 2
    reads_ema = True
    progress = ("loss", "gap")

    unsup_weight: float = keys.key("method.unsup_weight")

    def heads(self, num_classes):
        return {"classifier": {"real": num_classes, "aux": num_classes}}

    def optimiser(self):
        return {"classifier": {"learning_rate": 0.01}}

    def loss(self, params, inputs):
        batch, net = inputs.batch, inputs.nets["classifier"]
        groups = [batch.lab, batch.weak2]
        outputs, stats = net.apply(
            params["classifier"],
            inputs.stats["classifier"],
            jnp.concatenate(groups),
            True,
        )
        lab, second = base.split(outputs, groups)
        teacher, _ = net.apply(
            inputs.ema["classifier"], inputs.stats["classifier"], batch.weak, False
        )
        targets = jax.nn.softmax(teacher.logits["real"])
        sup = jnp.mean(losses.cross_entropy(lab.logits["real"], batch.labels))
        unsup = jnp.mean(losses.soft_cross_entropy(second.logits["aux"], targets))
        gap = jax.tree.map(lambda a, b: jnp.sum(abs(a - b)), params, inputs.ema)
        metrics = {
            "loss": sup + self.unsup_weight * unsup,
            "gap": jax.lax.stop_gradient(sum(jax.tree.leaves(gap))),
            "views_differ": jnp.mean((batch.weak != batch.weak2).astype(jnp.float32)),
        }
        return metrics["loss"], ({"classifier": stats}, {}, metrics)


@pytest.fixture
def two_views(monkeypatch):
    monkeypatch.setitem(METHODS, "two_views", TwoViews)
    bounds = keys.Bounds(choices=tuple(METHODS))
    monkeypatch.setitem(checks.BOUNDS, "method.name", bounds)
    return {"method.name": "two_views", "train.num_steps": 2}


@pytest.mark.parametrize("mode", ["resident", "tfdata"])
def test_second_weak_view_and_shadow_weights_reach_the_loss(two_views, mode):
    _, task, exp = build(2, **two_views, **{"input.mode": mode})
    source, _ = feed.make(exp, task)
    state, metrics = exp.pack(exp.init_state()), []
    for done in range(2):
        state, dispatched = source.run(state, done, 1)
        metrics.append(jax.device_get(dispatched.metrics))
    assert metrics[0]["gap"] == 0 < metrics[1]["gap"]
    assert metrics[0]["views_differ"] > 0.2


def test_inference_leaves_other_heads_out(two_views, tmp_path, capsys):
    result = stages.run(config(**two_views), str(tmp_path), devices=jax.devices()[:1])
    assert result["status"] == "finished"
    assert "gap" in capsys.readouterr().out
    model = rsmatch_jax.load(str(tmp_path))
    assert set(model.parts) == {"classifier"}
    assert set(model.parts["classifier"].params["heads"]) == {"real"}
    images = np.zeros((2, 8, 8, 3), np.uint8)
    assert model.predict(images).probabilities.shape == (2, K)


def test_heads_of_inference_of_every_method():
    pairs = Linear(2 * K, bias=False, of="projection")
    of_origin = {
        "rsmatch": ("detector", {"detector": 2}),
        "openmatch": ("classifier", {"real": K, "outlier": Linear(2 * K, bias=False)}),
        "iomatch": (
            "classifier",
            {"real": K, "projection": Projector(128), "outlier": pairs},
        ),
        "scomatch": ("classifier", {"real": K, "out": 1}),
    }
    for name, cls in METHODS.items():
        _, _, exp = build(**{"method.name": name})
        expected = {"classifier": ("classifier", {"real": K})}
        if name in of_origin:
            expected["detector"] = of_origin[name]
        assert exp.method.parts(K) == expected
        assert isinstance(exp.method, cls)


@dataclasses.dataclass(frozen=True)
class Soft(base.Rule):
    """FixMatch's labels as distributions, at half weight; sees the labelled rows."""

    threshold: float = keys.key("method.threshold")

    def select(self, inputs, buffers):
        assert inputs.lab_logits.shape == (len(inputs.labels), K)
        hard, confidence = losses.pseudo_label(inputs.weak_logits)
        weights = 0.5 * (confidence >= self.threshold).astype(jnp.float32)
        seen = jnp.mean(losses.cross_entropy(inputs.lab_logits, inputs.labels))
        return jax.nn.one_hot(hard, K), weights, {"seen": seen}

    def regulariser(self, strong_logits, weights, buffers, axis):
        return jnp.float32(0), {"weight": jnp.sum(weights)} | buffers


@pytest.mark.parametrize("name", ["fixmatch", "rsmatch"])
def test_soft_labels_and_weights(monkeypatch, name):
    """Half the weight of one-hot labels is half the loss, of the head routed to; the
    queue takes the class of a distribution."""
    results = []
    for rule in (RULES["fixmatch"], Soft):
        monkeypatch.setitem(RULES, "fixmatch", rule)
        dims, method, nets, params = method_of(**{"method.name": name})
        b = batch(np.random.default_rng(0))
        extra = method.init_extra(dims)
        results.append(run_one(method, nets, params, extra, b))
    (hard, hard_extra), (soft, soft_extra) = results
    terms = ["loss_unsup"] + ["loss_unsup_fake"] * (name == "rsmatch")
    for term in terms:
        assert hard[term] > 0
        np.testing.assert_allclose(soft[term], hard[term] / 2, rtol=1e-6)
    np.testing.assert_allclose(soft["utilisation"], hard["utilisation"] / 2)
    np.testing.assert_allclose(soft["seen"], soft["loss_sup"], rtol=1e-6)
    routed = soft.get("routed_synthetic", 0)
    assert (soft["weight"] < U * soft["utilisation"]) == (routed > 0)
    if name == "rsmatch":
        jax.tree.map(
            np.testing.assert_array_equal, hard_extra["queue"], soft_extra["queue"]
        )


@pytest.mark.parametrize("name", [*METHODS, *RULES])
def test_fields_are_the_keys_of_the_block(name):
    c = config()
    for cls in {METHODS.get(name), RULES.get(name)} - {None}:
        paths = set(keys.paths(cls, name).values())
        for path in paths:
            keys.get(c, path)  # raises for a key that is not there
        block = f"method.{name}."
        if cls is RULES.get(name) or name not in RULES:
            expected = {block + key for key in c.method.get(name, {})}
            assert {path for path in paths if path.startswith(block)} == expected


def test_a_rule_checks_its_keys_alone_and_below_rsmatch(monkeypatch):
    def check(cls, config):
        del cls
        raise RequestError("flexmatch refuses")

    monkeypatch.setattr(RULES["flexmatch"], "check", classmethod(check))
    for overrides in (
        {"method.name": "flexmatch"},
        {"method.rsmatch.pseudo_label": "flexmatch"},
    ):
        with pytest.raises(RequestError, match="flexmatch refuses"):
            checks.check(config(**overrides), 1)
    checks.check(config(), 1)


def test_optimiser_of_the_detector():
    """Its keys replace the config's; None keeps them."""
    rate = {"method.rsmatch.detector_learning_rate": 0.5}
    c, _, exp = build(**rate)
    assert exp.method.optimiser() == {"detector": {"learning_rate": 0.5}}
    ones = {name: {"kernel": jnp.ones((1, 1))} for name in exp.nets}
    updates, _ = exp.tx.update(ones, exp.tx.init(ones), ones)
    first = (1 + c.optim.weight_decay) * (1 + c.optim.momentum)  # Nesterov's
    for name, rate in (("classifier", c.optim.learning_rate), ("detector", 0.5)):
        np.testing.assert_allclose(updates[name]["kernel"], -rate * first, rtol=1e-6)


IMAGES = jnp.zeros((2, 8, 9, 3), jnp.uint8)  # not square
WRONG = {
    "losses": lambda: losses.cross_entropy(jnp.zeros((4, 3)), jnp.zeros(5, jnp.int32)),
    "methods": lambda: base.written_once(IMAGES, 2),
    "models": lambda: WideResNet(4, 1).init(jax.random.key(0), 1.0 * IMAGES, False),
    "augment": lambda: on_device.weak_view(
        jax.random.key(0), IMAGES, flip=True, crop_pad=1, axis=None
    ),
}


@pytest.mark.parametrize("folder", WRONG)
def test_a_wrong_shape_raises_in_tests(folder):
    with pytest.raises(jaxtyping.TypeCheckError, match=folder):
        WRONG[folder]()
