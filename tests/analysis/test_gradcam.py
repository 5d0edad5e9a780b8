"""Grad-CAM++ against its equations in plain loops, and the probe that it uses."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from support import workdirs
from support.helpers import BLOCKS, assert_bit_equal

from rsmatch_jax.analysis import gradcam
from rsmatch_jax.deploy import frozen
from rsmatch_jax.errors import RequestError
from rsmatch_jax.models import networks, resnet

SIZE = 8
NETS = ("wrn_10_1", "small_resnet", "small_bottleneck")


@pytest.fixture(autouse=True)
def small_resnets(monkeypatch):
    for name, bottleneck in (("small_resnet", False), ("small_bottleneck", True)):
        small = functools.partial(resnet.ResNet, (1, 1), bottleneck)
        monkeypatch.setitem(networks.MODELS, name, small)


@functools.cache
def network(name, **options):
    """(net, params, stats, images float32), scales and statistics moved from init."""
    net = networks.make(name, {"real": 3, "other": 2}, **options)
    size = 64 if "small" in name else SIZE  # the last stage has some positions
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(4, size, size, 3)), jnp.float32)
    params, stats = jax.jit(net.init)(jax.random.key(0), images)

    def moved(x):
        return x * jnp.asarray(rng.uniform(0.5, 1.5, x.shape), jnp.float32)

    return net, jax.tree.map(moved, params), jax.tree.map(moved, stats), images


# --- the probe -----------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_a_probe_without_shift_is_apply(name):
    net, params, stats, images = network(name)

    @jax.jit
    def both(params, stats, images):
        probed = [net.probe(params, stats, images, stage, 0.0) for stage in net.stages]
        return net.apply(params, stats, images, False)[0], probed

    expected, probed = both(params, stats, images)
    for outputs, _ in probed:
        assert_bit_equal(outputs, expected)


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("wrn_28_2", [(64, 64, 32), (32, 32, 64), (16, 16, 128)]),
        ("wrn_var_37_2", [(32, 32, 32), (16, 16, 64), (8, 8, 128), (4, 4, 256)]),
        ("resnet18", [(16, 16, 64), (8, 8, 128), (4, 4, 256), (2, 2, 512)]),
        ("small_bottleneck", [(16, 16, 256), (8, 8, 512)]),
    ],
)
def test_stages_are_where_the_networks_say(name, shapes):
    net = networks.make(name, {"real": 3})
    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(net.init, jax.random.key(0), images)
    for stage, shape in zip(net.stages, shapes, strict=True):
        probe = functools.partial(net.probe, stage=stage, shift=0.0)
        _, activations = jax.eval_shape(probe, *variables, images)
        assert activations.shape == (2, *shape)


@pytest.mark.parametrize("name", NETS)
def test_gradients_of_the_first_stage_are_finite_differences(name):
    net, params, stats, images = network(name)

    @functools.partial(jax.jit, static_argnums=0)
    def score(stage, params, stats, images, shift):
        outputs, activations = net.probe(params, stats, images, stage, shift)
        return jnp.sum(outputs.logits["real"][:, 1]), activations

    score = functools.partial(score, "stage1", params, stats, images)
    _, activations = score(jnp.zeros(()))
    gradient = jax.grad(score, has_aux=True)(jnp.zeros_like(activations))[0]
    rng, epsilon = np.random.default_rng(2), 1e-3
    for _ in range(3):
        # Along the gradient's signs, so that the sum is large beside float32's noise.
        way = np.sign(gradient) * rng.uniform(size=gradient.shape)
        way = way.astype(np.float32)
        rise = float(score(epsilon * way)[0] - score(-epsilon * way)[0])
        expected = float(np.sum(way * gradient))
        assert rise / (2 * epsilon) == pytest.approx(expected, rel=0.01)


# --- the equations -------------------------------------------------------------------


def oracle(activations, gradients, score):
    """Eqs. 16 to 19 for one image, in loops and with Y = exp(S): [h, w, C] -> [h, w]
    in [0, 1]; negative sums count as zero."""
    height, width, channels = activations.shape
    y, total = np.exp(score), np.zeros((height, width))
    for k in range(channels):
        sum_ab, weight = 0.0, 0.0
        for a in range(height):
            for b in range(width):
                sum_ab += activations[a, b, k]
        sum_ab = max(sum_ab, 0.0)
        for i in range(height):
            for j in range(width):
                g = gradients[i, j, k]
                second, third = y * g**2, y * g**3
                below = 2 * second + sum_ab * third
                alpha = second / below if below else 0.0
                weight += alpha * max(y * g, 0.0)
        total += weight * activations[:, :, k]
    total = np.maximum(total, 0.0)
    return total / total.max() if total.max() else total


def normalised(heat):
    return np.asarray(heat) / np.max(heat)


@pytest.mark.parametrize("score", [-3.0, 0.0, 5.0])
def test_class_map_is_the_papers(score):
    """For any score: exp(S) does not change a normalised map."""
    rng = np.random.default_rng(3)
    activations = np.maximum(rng.normal(size=(4, 5, 6)), 0)  # of a ReLU
    gradients = rng.normal(scale=0.3, size=activations.shape)
    gradients[rng.uniform(size=gradients.shape) < 0.2] = 0
    heat = gradcam.class_map(jnp.float32(gradients), jnp.float32(activations))
    expected = oracle(activations, gradients, score)
    np.testing.assert_allclose(normalised(heat), expected, atol=1e-5)
    plain = np.einsum("ijk,k->ij", activations, gradients.mean(axis=(0, 1)))
    assert np.abs(normalised(np.maximum(plain, 0)) - expected).max() > 0.05  # Grad-CAM


def test_weights_by_hand():
    """Two positions, one channel: g = 1 and -1, A = 3 and 1, so alpha = 1 / (2 + 4)
    where g is positive. With A = -3 and 1 the sum counts as zero: alpha = 1 / 2."""
    gradients = jnp.array([[[1.0], [-1.0]]])
    for first, alpha in ((3.0, 1 / 6), (-3.0, 1 / 2)):
        activations = jnp.array([[[first], [1.0]]])
        weights = gradcam.channel_weights(gradients, activations)
        np.testing.assert_allclose(weights, [alpha], rtol=1e-6)


def test_tiny_gradients_keep_their_map():
    """A ResNet at 224 px has such gradients, whose g^3 underflows float32."""
    rng = np.random.default_rng(4)
    activations = np.maximum(rng.normal(size=(2, 2, 3)), 0)
    gradients = np.abs(rng.normal(size=activations.shape))
    small = gradcam.class_map(jnp.float32(1e-25 * gradients), jnp.float32(activations))
    expected = np.einsum("ijk,k->ij", activations, gradients.sum(axis=(0, 1)))
    np.testing.assert_allclose(normalised(small), normalised(expected), rtol=1e-5)


def enlarged(small, size):
    """Bilinear, by Pillow."""
    picture = Image.fromarray(small.astype(np.float32))
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("name", NETS)
def test_maps_are_the_papers_from_the_image_on(name):
    """The last stage's gradients are the head's weights over the positions."""
    net, params, stats, images = network(name)
    size = images.shape[1]
    net = networks.take_uint8(net, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    part = frozen.Part("classifier", 3, operator.itemgetter("real"), net, params, stats)
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (4, size, size, 3)).astype(np.uint8)
    classes = np.array([0, 1, 2, 1], np.int32)
    stage = net.stages[-1]
    maps, probabilities = jax.jit(gradcam.make_maps(part, stage))(
        params, images, classes
    )
    probe = jax.jit(net.probe, static_argnums=3)
    outputs, activations = jax.device_get(probe(params, stats, images, stage, 0.0))
    logits = outputs.logits["real"].astype(np.float64)
    np.testing.assert_allclose(
        probabilities,
        np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True),
        rtol=1e-5,
    )
    matrix = np.asarray(params["heads"]["real"]["kernel"], np.float64)
    for row, label in enumerate(classes):
        maps_in = activations[row].astype(np.float64)
        gradients = np.broadcast_to(
            matrix[:, label] / maps_in[..., 0].size, maps_in.shape
        )
        small = oracle(maps_in, gradients, logits[row, label])
        assert small.max() == 1 and small.min() < 0.9  # something to see
        large = enlarged(small, size)
        np.testing.assert_allclose(maps[row], large / large.max(), atol=2e-4)


def maps_for_class_0(net, params, stats, images):
    part = frozen.Part("classifier", 3, operator.itemgetter("real"), net, params, stats)
    maps = jax.jit(gradcam.make_maps(part, "stage3"))
    return maps(params, images, jnp.zeros(len(images), jnp.int32))[0]


def test_nothing_speaks_for_a_class():
    """All weights of the class negative: a map of zeros, and no division by them."""
    net, params, stats, images = network("wrn_10_1")
    head = params["heads"]["real"]
    head = {**head, "kernel": head["kernel"].at[:, 0].set(-1.0)}
    params = {**params, "heads": {**params["heads"], "real": head}}
    maps = maps_for_class_0(net, params, stats, images)
    np.testing.assert_array_equal(maps, np.zeros((4, SIZE, SIZE)))


def test_bfloat16_looks_alike():
    plain, rough = (
        maps_for_class_0(*network("wrn_10_1", dtype=dtype))
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert plain.dtype == rough.dtype == jnp.float32
    np.testing.assert_allclose(plain, rough, atol=0.1)
    assert (plain != rough).any()


# --- of a run ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run():
    return workdirs.in_memory(**BLOCKS)


def test_batches_do_not_show(run):
    """Seven images three at a time, and in one batch."""
    saved, task = run
    images = task.test_images[:7]
    three, all_ = (
        gradcam.gradcam(frozen.Model(saved, batch_size=n), images) for n in (3, 7)
    )
    assert three.maps.shape == (7, SIZE, SIZE)
    assert 0 <= three.maps.min() and three.maps.max() == 1
    np.testing.assert_array_equal(three.classes, three.probabilities.argmax(axis=1))
    for name in gradcam.Maps._fields:
        np.testing.assert_allclose(
            getattr(three, name), getattr(all_, name), atol=1e-5, err_msg=name
        )
    predicted = frozen.Model(saved, batch_size=7).predict(images)
    np.testing.assert_allclose(
        predicted.probabilities, three.probabilities, rtol=1e-5, atol=1e-6
    )


def test_parts_stages_and_classes_differ(run):
    """Another class, stage or part gives another map."""
    saved, task = run
    model, images = frozen.Model(saved, batch_size=4), task.test_images[:4]
    ask = functools.partial(gradcam.gradcam, model, images)
    maps = [
        ask(np.zeros(4, int)).maps,
        ask(np.full(4, 3)).maps,
        ask(np.zeros(4, int), stage="stage1").maps,
        ask(np.zeros(4, int), part="detector").maps,
    ]
    for i, one in enumerate(maps):
        assert all(np.abs(one - other).max() > 0.01 for other in maps[:i])
    last = ask(np.zeros(4, int), stage="stage3").maps
    np.testing.assert_array_equal(maps[0], last)


def test_wrong_requests_are_named(run):
    saved, task = run
    model, images = frozen.Model(saved, batch_size=4), task.test_images[:4]
    with pytest.raises(RequestError, match="--stage=stage9.*stage1, stage2, stage3"):
        gradcam.gradcam(model, images, stage="stage9")
    with pytest.raises(RequestError, match="no teacher; it has classifier, detector"):
        gradcam.gradcam(model, images, part="teacher")
    with pytest.raises(ValueError, match="between 0 and 9"):
        gradcam.gradcam(model, images, np.full(4, 10))
    with pytest.raises(ValueError, match="float32"):
        gradcam.gradcam(model, images.astype(np.float32), np.zeros(4, int))
    with pytest.raises(ValueError, match="3 classes"):
        gradcam.gradcam(model, images, np.zeros(3, int))
