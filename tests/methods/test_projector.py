"""Heads that embed: sizes, initial values, and what they compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import runs, trees
from support.helpers import config, leaves
from support.host_pairs import StopAfter

from rsmatch_jax.deploy import saved
from rsmatch_jax.engine import experiment, stages
from rsmatch_jax.methods.simmatch import PROJECTOR, SimMatch
from rsmatch_jax.models import networks
from rsmatch_jax.models.networks import Projector


def initial(heads):
    """wrn_10_2: 128 features, as the classifier of the paper."""
    net = networks.make("wrn_10_2", heads)
    return net, *net.init(jax.random.key(7), jnp.zeros((1, 8, 8, 3)))


def test_a_run_of_an_earlier_version_keeps_its_width(tmp_path, monkeypatch):
    """Their hidden width was projection_size. Resumed, then opened."""
    keys = {"method.name": "simmatch", "method.simmatch.projection_size": 24}
    with monkeypatch.context() as earlier:
        heads = {"real": 10, PROJECTOR: Projector(24, 1, 24)}
        earlier.setattr(SimMatch, "heads", lambda self, k: {"classifier": heads})
        c = config(**{**runs.KEYS, **keys})
        device = jax.local_devices()[:1]
        first = stages.run(c, str(tmp_path), devices=device, stop=StopAfter(2))
        assert first["status"] == "stopped"
    assert stages.run(c, str(tmp_path), devices=device)["status"] == "finished"
    run = saved.load(str(tmp_path))
    assert run.step == 4
    member = run.state.params["classifier"]["projectors"]["projector_0"]
    assert member["hidden"]["kernel"].shape == (16, 24)
    fresh = experiment.build(c, run.exp.dims, "fake", device).state_shapes()
    member = fresh.params["classifier"]["projectors"]["projector_0"]
    assert member["hidden"]["kernel"].shape == (16, 16)


@pytest.mark.parametrize(
    ("projector", "middle", "total"),
    [
        (Projector(128), 128, 33_024),  # as USB's Linear(D, D), ReLU, Linear(D, size)
        (Projector(128, 3), 128, 3 * 33_024),
        (Projector(24, 1, 200), 200, 129 * 200 + 201 * 24),
    ],
)
def test_projector_sizes(projector, middle, total):
    """WRN-28-2 has 128 features and 1,467,626 parameters without a projector."""
    params, _ = trees.shapes("wrn_28_2", {"real": 10, "projector": projector})
    assert trees.count(params) == 1_467_626 + total
    assert len(params["projectors"]) == projector.count
    member = params["projectors"]["projector_0"]
    assert member["hidden"]["kernel"].shape == (128, middle)
    assert member["out"]["kernel"].shape == (middle, projector.size)


def test_projector_initial_values():
    """Uniform within 1/sqrt(fan-in); nothing else moves; three differ."""
    plain = initial({"real": 10})[1]
    one, three = (
        initial({"real": 10, "projector": Projector(128, n)})[1] for n in (1, 3)
    )
    for smaller, larger in ((plain, one), (one, three)):
        larger = leaves(larger)
        for path, value in leaves(smaller).items():
            np.testing.assert_array_equal(value, larger[path], err_msg=path)
    for path, value in leaves(one["projectors"]["projector_0"]).items():
        bound = 128**-0.5
        assert 0.95 * bound < np.abs(value).max() <= bound, path
        z = value.ravel() * 3**0.5 / bound
        assert abs(z.mean()) < 4 / z.size**0.5, path
        assert abs(z.std() - 1) < 4 / (2 * z.size) ** 0.5, path
    members = [leaves(m) for m in three["projectors"].values()]
    assert len(members) == 3
    for path in members[0]:
        assert (members[0][path] != members[1][path]).any()
        assert (members[1][path] != members[2][path]).any()


def test_projection_is_the_mean_of_the_perceptrons():
    heads = {"real": 10, "projector": Projector(24, 3)}
    net, params, stats = initial(heads)
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    out, _ = net.apply(params, stats, images, False)
    x = np.asarray(out.features, np.float64)
    expected = 0
    for member in params["projectors"].values():
        hidden, last = (jax.tree.map(np.float64, member[k]) for k in ("hidden", "out"))
        h = np.maximum(x @ hidden["kernel"] + hidden["bias"], 0)
        expected += (h @ last["kernel"] + last["bias"]) / 3
    assert set(out.logits) == {"real"}
    np.testing.assert_allclose(out.projections["projector"], expected, atol=1e-5)


def test_a_linear_head_reads_a_projector_or_the_features():
    """Its weights alone, without a bias; the reduced network computes the same."""
    heads = {
        "real": 10,
        "embedding": Projector(6),
        "pairs": networks.Linear(20, bias=False, of="embedding"),
        "open": networks.Linear(11),
    }
    net, params, stats = initial(heads)
    assert set(params["heads"]["pairs"]) == {"kernel"}
    assert set(params["heads"]["open"]) == {"kernel", "bias"}
    images = jax.random.normal(jax.random.key(1), (3, 8, 8, 3))
    out, _ = net.apply(params, stats, images, False)
    kernels = {name: head["kernel"] for name, head in params["heads"].items()}
    for name, of in (("pairs", out.projections["embedding"]), ("open", out.features)):
        expected = np.asarray(of) @ np.asarray(kernels[name])
        np.testing.assert_allclose(out.logits[name], expected, rtol=1e-5, atol=1e-6)
    few = networks.needed(heads, ("real", "pairs"))
    assert set(few) == {"real", "embedding", "pairs"}
    less = networks.reduced(params, few)
    assert less["heads"].keys() == {"real", "pairs"}
    assert less["projectors"].keys() == {"embedding_0"}
    small, _ = networks.make("wrn_10_2", few).apply(less, stats, images, False)
    for name in ("real", "pairs"):
        np.testing.assert_array_equal(small.logits[name], out.logits[name])
    assert set(networks.reduced(params, {"real": 10})) == {"encoder", "heads"}
