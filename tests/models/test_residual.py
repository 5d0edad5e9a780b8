"""The detector's residual: its filter, and that all who run the detector show it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.helpers import BLOCKS, build
from support.runs import first_state, run, saved_state

from rsmatch_jax import evaluate
from rsmatch_jax.deploy import frozen
from rsmatch_jax.forensics import pictures
from rsmatch_jax.metrics import measure
from rsmatch_jax.models import networks
from rsmatch_jax.models.residual import residual
from rsmatch_jax.state import Outputs

RESIDUAL = {"model.detector_input": "residual"}


def test_the_filter_is_that_of_the_statistics():
    images = np.random.default_rng(3).integers(0, 256, (2, 7, 6, 3)).astype(np.uint8)
    got = np.asarray(residual(jnp.asarray(images)))
    assert got.shape == images.shape and got.dtype == np.float32
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    for channel in range(3):
        r = pictures.laplacian(padded[..., channel].astype(np.float32))
        expected = np.sign(r) * np.log1p(np.abs(r))
        np.testing.assert_allclose(got[..., channel], expected, 1e-6)
    assert not np.asarray(residual(jnp.full((1, 5, 5, 3), 77, jnp.uint8))).any()


def test_it_stands_beside_the_normalised_picture():
    images = np.random.default_rng(4).integers(0, 256, (2, 5, 5, 3)).astype(np.uint8)
    seen = []

    def apply(params, stats, images, train):
        seen.append(np.asarray(images))
        return Outputs(jnp.zeros((len(images), 1)), {}), stats

    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    net = networks.Network(lambda key, images: images.shape, apply)
    net = networks.take_uint8(net, mean, std, with_residual=True)
    net.apply({}, {}, jnp.asarray(images), False)
    assert seen[0].shape == (2, 5, 5, 6)
    np.testing.assert_allclose(
        seen[0][..., :3], (images / 255 - mean) / std, 1e-4, 1e-5
    )
    np.testing.assert_array_equal(seen[0][..., 3:], residual(jnp.asarray(images)))
    assert net.init(None, jnp.zeros((1, 5, 5, 3), jnp.uint8)) == (1, 5, 5, 6)


@pytest.mark.parametrize("split", [False, True])
def test_a_run_and_who_reads_it(tmp_path, split):
    """The detector alone has six channels; the run's figures come again in evaluate,
    and its scores in predict. With split_bn, too, whose norms inference leaves out."""
    keys = {**RESIDUAL, "model.split_bn": split}
    run(tmp_path / "run", **keys)
    like = first_state(**keys)
    state = saved_state(tmp_path / "run", 4, like)
    stems = {n: t["encoder"]["stem"]["kernel"].shape[2] for n, t in state.ema.items()}
    assert stems == {"classifier": 3, "detector": 6}
    _, task, exp = build(**keys)
    predict = measure.Predictor(exp.nets, exp.devices, exp.method.origin, 64)
    rows = predict(state, task.unl_images[:64], task.unl_labels[:64])
    predicted = frozen.load(str(tmp_path / "run")).predict(task.unl_images[:64])
    scores = predicted.synthetic_scores
    np.testing.assert_allclose(scores, rows["synthetic_score"], rtol=1e-5)
    np.testing.assert_array_equal(predicted.labels, rows["predicted"])
    figures = evaluate.evaluate(str(tmp_path / "run"), devices=jax.local_devices()[:1])
    assert 0 <= figures["detector_auroc"] <= 1


def test_networks_of_other_names_and_inputs_stay():
    """Initial weights of the classifier do not depend on the detector's input."""
    states = [build(**BLOCKS, **keys)[2].init_state() for keys in ({}, RESIDUAL)]
    same = [dataclasses.asdict(s)["params"]["classifier"] for s in states]
    jax.tree.map(np.testing.assert_array_equal, *same)
