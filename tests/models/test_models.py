"""Wide residual networks: sizes, initial values, PyTorch as oracle, devices."""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import wrn_weights
from support.trees import check_initial, count, flat, shapes, unflat

from rsmatch_jax.errors import RequestError
from rsmatch_jax.models import networks

REFERENCE = os.path.join(os.path.dirname(__file__), "reference", "wrn_reference.npz")
UNUSED = ("encoder/stage2_block0/bn1", "encoder/stage3_block0/bn1")
VARIANT = "small_var"  # as wrn_var_37_2, with one block a stage
networks.MODELS[VARIANT] = functools.partial(
    networks.WideResNet, 10, 2, strides=(2, 2, 2, 2)
)
DETECTOR = {"detector": 2}


def fill(tree):
    """The tree with the weights that the reference was computed with."""
    return unflat(
        {k: jnp.asarray(wrn_weights.weight(k, v.shape)) for k, v in flat(tree).items()}
    )


def small_net(**options):
    """WRN-10-1 with made-up weights, and 8 images of 8 x 8."""
    net = networks.make("wrn_10_1", DETECTOR, bn_momentum=0.9, **options)
    params, stats = map(fill, shapes("wrn_10_1", DETECTOR))
    return net, params, stats, jnp.asarray(wrn_weights.batch()[0][:, 4:12, 4:12])


def cross_entropy(logits, labels):
    return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels])


# --- sizes and names -----------------------------------------------------------------


@pytest.mark.parametrize(
    "name, classes, trained, running",
    [
        ("wrn_28_2", 10, 1_467_626, 3_616),
        ("wrn_28_2", 100, 1_479_236, 3_616),
        ("wrn_28_8", 10, 23_354_858, 14_368),
        ("wrn_28_8", 100, 23_401_028, 14_368),
        ("wrn_10_1", 2, 77_346, 480),
        ("wrn_16_1", 2, 174_562, 928),
        ("wrn_10_2", 2, 302_690, 928),
        ("wrn_16_2", 2, 690_658, 1_824),
        ("wrn_var_37_2", 10, 5_929_450, 7_712),
    ],
)
def test_parameter_counts(name, classes, trained, running):
    params, stats = shapes(name, {"head": classes})
    assert (count(params), count(stats)) == (trained, running)
    assert {x.dtype for x in jax.tree.leaves((params, stats))} == {jnp.dtype("float32")}


def test_names_follow_the_rule():
    params = flat(shapes("wrn_22_3", DETECTOR)[0])
    assert params["encoder/stage3_block2/conv2/kernel"].shape == (3, 3, 192, 192)
    for name in ("wrn_27_2", "wrn_4_2", "wrn_28_0", "wrn_28", "resnet34", "xwrn_28_2"):
        with pytest.raises(RequestError, match="wrn_28_2.*6n"):
            networks.make(name, DETECTOR)
    with pytest.raises(RequestError, match="wrn_preact='torch'.*usb or tf"):
        networks.make("wrn_28_2", DETECTOR, wrn_preact="torch")
    with pytest.raises(RequestError, match="bn_variance='n'.*unbiased or biased"):
        networks.make("wrn_28_2", DETECTOR, bn_variance="n")


# --- initial values ------------------------------------------------------------------


def test_initial_distributions():
    net = networks.make("wrn_10_2", {"real": 100})
    params, stats = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    check_initial(params, stats)
    bias = np.asarray(params["encoder"]["stem"]["bias"])
    assert 0.12 < np.abs(bias).max() <= 27**-0.5
    assert bias.min() < 0 < bias.max()


def test_another_head_leaves_all_other_values_bit_identical():
    key, images = jax.random.key(7), jnp.zeros((1, 8, 8, 3))
    one = flat(networks.make("wrn_10_1", {"real": 10}).init(key, images)[0])
    heads = {"fake": 10, "real": 10}
    two = flat(networks.make("wrn_10_1", heads).init(key, images)[0])
    assert set(two) - set(one) == {"heads/fake/kernel", "heads/fake/bias"}
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name], err_msg=name)
    assert (two["heads/fake/kernel"] != two["heads/real/kernel"]).any()
    other = flat(networks.make("wrn_10_1", heads).init(jax.random.key(8), images)[0])
    assert (other["heads/real/kernel"] != two["heads/real/kernel"]).any()


# --- the same network in PyTorch -----------------------------------------------------


@pytest.fixture(scope="module", params=["usb", "tf", "var"])
def compared(request):
    """The reference's arrays and ours under the same names."""
    preact = {"var": "usb"}.get(request.param, request.param)
    name = VARIANT if request.param == "var" else "wrn_10_2"
    net, biased = (
        networks.make(
            *(name, {"real": 10}),
            bn_momentum=0.9,
            wrn_preact=preact,
            bn_variance=variance,
        )
        for variance in ("unbiased", "biased")
    )
    params, stats = map(fill, shapes(name, {"real": 10}, wrn_weights.SIZE))
    images, labels = map(jnp.asarray, wrn_weights.batch())

    @jax.jit
    def run(params, stats, images):
        def loss(params):
            out, new = net.apply(params, stats, images, True)
            return cross_entropy(out.logits["real"], labels), (out, new)

        grads, (train, new) = jax.grad(loss, has_aux=True)(params)
        return net.apply(params, stats, images, False)[0], train, new, grads

    evaluated, trained, new, grads = run(params, stats, images)
    _, old_rule = jax.jit(biased.apply, static_argnums=3)(params, stats, images, True)
    ours = {}
    for mode, out in (("eval", evaluated), ("train", trained)):
        ours[f"{mode}/features"] = out.features
        ours[f"{mode}/logits"] = out.logits["real"]
    ours |= {f"stats/{k}": v for k, v in flat(new).items()}
    ours |= {f"biased_stats/{k}": v for k, v in flat(old_rule).items()}
    ours |= {f"grad/{k}": v for k, v in flat(grads).items()}
    with np.load(REFERENCE) as file:
        prefix = request.param + "/"
        torch = {k.removeprefix(prefix): file[k] for k in file if k.startswith(prefix)}
    return torch, {k: np.asarray(v) for k, v in ours.items()}


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_outputs_equal_torch(compared, mode):
    torch, ours = compared
    for name in (f"{mode}/features", f"{mode}/logits"):
        np.testing.assert_allclose(ours[name], torch[name], rtol=1e-5, atol=1e-5)


def test_running_statistics_equal_torch(compared):
    """Torch averages unbiased variances; "biased" averages (n - 1) / n of each."""
    torch, ours = compared
    names = [k for k in torch if k.startswith("stats/")]
    assert set(names) == {k for k in ours if k.startswith("stats/")}
    assert len(names) in (14, 18)  # a mean and a variance of two norms a stage, and one
    for name in names:
        np.testing.assert_allclose(ours[name], torch[name], 1e-5, 1e-6, err_msg=name)
        expected = torch[name]
        if name.endswith("/var"):
            n = torch["count/" + name.removeprefix("stats/").removesuffix("/var")]
            old = 0.9 * wrn_weights.weight(name.removeprefix("stats/"), expected.shape)
            expected = old + (expected - old) * (n - 1) / n
        biased = ours["biased_" + name]
        np.testing.assert_allclose(biased, expected, 1e-5, 1e-6, err_msg=name)


def test_gradients_equal_torch(compared):
    torch, ours = compared
    names = [k for k in torch if k.startswith("grad/")]
    assert set(names) == {k for k in ours if k.startswith("grad/")}
    for name in names:
        norm = torch[name.replace("grad/", "norm/")]
        if name == "grad/encoder/stem/bias":
            # Zero in exact arithmetic if a norm follows: no relative comparison.
            np.testing.assert_allclose(ours[name], torch[name], 0, 1e-5)
            continue
        np.testing.assert_allclose(np.linalg.norm(ours[name]), norm, 1e-5, err_msg=name)
        sampled = wrn_weights.sample(ours[name])
        atol = 1e-5 * np.abs(torch[name]).max()
        np.testing.assert_allclose(sampled, torch[name], 1e-4, atol, err_msg=name)


# --- the unused norms ----------------------------------------------------------------


def test_gradient_of_unused_norms_is_exactly_zero(compared):
    torch, ours = compared
    paths = [*UNUSED, "encoder/stage4_block0/bn1"]
    unused = [f"grad/{path}/{kind}" for path in paths for kind in ("scale", "bias")]
    unused = [name for name in unused if name in ours]
    is_zero = {name: (v == 0).all() for name, v in ours.items() if "grad/" in name}
    if (torch[unused[0]] == 0).all():  # preact "usb"
        zero = {name for name, value in is_zero.items() if value}
        assert zero - {"grad/encoder/stem/bias"} == set(unused)
    else:
        assert not any(is_zero[name] for name in unused)


@pytest.mark.parametrize("preact", ["usb", "tf"])
@pytest.mark.parametrize("train", [False, True])
def test_output_ignores_unused_norms(preact, train):
    net, params, stats, images = small_net(wrn_preact=preact)
    apply = jax.jit(net.apply, static_argnums=3)
    out, new = apply(params, stats, images, train)

    def perturb(tree):
        unused = {k for k in flat(tree) if k.rsplit("/", 1)[0] in UNUSED}
        return unflat({k: v + (k in unused) for k, v in flat(tree).items()})

    again, _ = apply(perturb(params), perturb(stats), images, train)
    same = (out.features == again.features).all()
    assert same == (preact == "usb")
    for path in UNUSED:
        moved = flat(new)[f"{path}/mean"] != flat(stats)[f"{path}/mean"]
        assert moved.all() == train


# --- modes, precision, devices -------------------------------------------------------


def test_evaluation_returns_statistics_unchanged_and_rows_are_independent():
    net, params, stats, images = small_net()
    apply = jax.jit(net.apply, static_argnums=3)
    out, new = apply(params, stats, images, False)
    jax.tree.map(np.testing.assert_array_equal, new, stats)
    half, _ = apply(params, stats, images[:4], False)
    np.testing.assert_allclose(out.features[:4], half.features, 1e-5, 1e-6)


def test_default_momentum():
    fast, params, stats, images = small_net()
    nets = (fast, networks.make("wrn_10_1", DETECTOR))
    news = jax.jit(lambda: [n.apply(params, stats, images, True)[1] for n in nets])()
    old, a, b = (x["encoder"]["bn"]["mean"] for x in (stats, *news))
    np.testing.assert_allclose((b - old) * 100, a - old, rtol=1e-2, atol=1e-4)


def test_bfloat16_computes_low_and_returns_float32():
    net, params, stats, images = small_net()
    low = small_net(dtype=jnp.bfloat16)[0]
    out, new = jax.jit(net.apply, static_argnums=3)(params, stats, images, True)
    approx, low_new = jax.jit(low.apply, static_argnums=3)(params, stats, images, True)
    for tree in (approx, low_new):
        assert {x.dtype for x in jax.tree.leaves(tree)} == {jnp.dtype("float32")}
    error = np.abs(approx.features - out.features).max()
    assert 1e-4 < error < 0.1 * np.abs(out.features).max()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 0.1, 0.05), new, low_new)


def test_synchronised_norms_make_four_devices_one():
    one, params, stats, images = small_net()
    four = small_net(sync_axis="batch")[0]
    labels = jnp.arange(8) % 2

    def step(net, stats, params, images, labels):
        def loss(params):
            out, new = net.apply(params, stats, images, True)
            return cross_entropy(out.logits["detector"], labels), (out, new)

        grads, (out, new) = jax.grad(loss, has_aux=True)(params)
        return out, new, grads

    expected_out, expected_new, expected_grads = jax.jit(
        lambda p: step(one, stats, p, images, labels)
    )(params)
    out, new, grads = jax.pmap(
        lambda p, x, y: step(four, stats, p, x, y),
        axis_name="batch",
        in_axes=(None, 0, 0),
        devices=jax.devices()[:4],
    )(params, images.reshape(4, 2, 8, 8, 3), labels.reshape(4, 2))
    out = jax.tree.map(lambda x: x.reshape(8, *x.shape[2:]), out)
    grads = jax.tree.map(lambda x: x.mean(axis=0), grads)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, out, expected_out)
    for name, value in flat(new).items():
        assert (value == value[:1]).all(), name
        np.testing.assert_allclose(value[0], flat(expected_new)[name], 1e-5, 1e-5)
    for name, value in flat(grads).items():
        close(value, flat(expected_grads)[name], rtol=1e-3, err_msg=name)
    # Statistics of two images give something else.
    alone = jax.jit(lambda: one.apply(params, stats, images[:2], True)[0].features)()
    assert np.abs(alone - expected_out.features[:2]).max() > 1e-2
    # An axis that is not bound is an error, not one device.
    with pytest.raises(NameError, match="batch"):
        jax.jit(four.apply, static_argnums=3)(params, stats, images, True)


def test_networks_see_normalised_pixels():
    seen = {}

    def apply(params, stats, images, train):
        seen["x"] = images
        return None, stats

    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)
    net = networks.take_uint8(networks.Network(None, apply), mean, std)
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
    net.apply({}, {}, jnp.asarray(images), True)
    expected = (images / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(seen["x"], expected, atol=1e-5)
