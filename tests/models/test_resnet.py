"""ResNet-18 and ResNet-50: published sizes, and a block against plain numpy.

test_weight_file.py has whole networks.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest
from support.numpy_layers import conv, norm, relu
from support.trees import check_initial, count, flat, shapes, unflat

from rsmatch_jax.models import networks, resnet
from rsmatch_jax.models.layers import Layers


@pytest.mark.parametrize(
    ("name", "total", "encoder", "width"),
    [
        # torchvision's documentation, "num_params".
        ("resnet18", 11_689_512, 11_176_512, 512),
        ("resnet50", 25_557_032, 23_508_032, 2048),
    ],
)
def test_sizes_and_dtypes(name, total, encoder, width):
    params, stats = shapes(name, {"real": 1000})
    assert count(params) == total
    assert count(params["encoder"]) == encoder
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    net = networks.make(name, {"real": 1000}, dtype=jnp.bfloat16)
    for size in (32, 224):
        images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
        apply = functools.partial(net.apply, train=True)
        outputs, _ = jax.eval_shape(apply, params, stats, images=images)
        assert outputs.features.shape == (2, width)
        assert outputs.logits["real"].shape == (2, 1000)
        assert outputs.features.dtype == outputs.logits["real"].dtype == jnp.float32


def test_initial_values():
    """The last norm of a block, too, begins as the identity."""
    net = resnet.ResNet((1, 1), bottleneck=True)
    init = jax.jit(lambda key: net.init(key, jnp.zeros((1, 8, 8, 3)), False))
    variables = init(jax.random.key(0))
    check_initial(variables["params"], variables["batch_stats"])


def test_a_linear_classifier_starts_as_torchs(monkeypatch):
    """Weights and biases are U(-b, b), b = 1/sqrt(fan-in); a WRN's are Xavier's."""
    small = functools.partial(resnet.ResNet, (1, 1), False)
    monkeypatch.setitem(networks.MODELS, "small", small)
    heads, bound = {"real": 300, "fake": 300}, 128**-0.5
    net, images = networks.make("small", heads), jnp.zeros((1, 8, 8, 3))
    params, _ = jax.jit(net.init)(jax.random.key(0), images)
    drawn = []
    for head in params["heads"].values():
        for value in (np.ravel(head["kernel"]), head["bias"]):
            assert abs(value).max() < bound
            assert kstest(value, "uniform", (-bound, 2 * bound)).pvalue > 1e-3
        drawn.append(np.array(head["bias"]))
    assert (drawn[0] != drawn[1]).any()
    wide, _ = jax.jit(networks.make("wrn_10_2", heads).init)(jax.random.key(0), images)
    assert not np.any(wide["heads"]["real"]["bias"])


# --- numpy ---------------------------------------------------------------------------


def random_variables(net, shape, seed=0):
    rng = np.random.default_rng(seed)
    variables = jax.eval_shape(
        lambda: net.init(jax.random.key(0), jnp.zeros(shape), False)
    )

    def values(name, shape):
        positive = name.endswith("var")
        return rng.uniform(0.5, 1.5, shape) if positive else rng.normal(size=shape)

    made = unflat({k: values(k, v.shape) for k, v in flat(variables).items()})
    return made["params"], made["batch_stats"]


def evaluate(net, params, stats, x):
    variables = {"params": params, "batch_stats": stats}
    return net.apply(variables, jnp.asarray(x, jnp.float32), False)


def numpy_block(x, p, s, stride, bottleneck):
    def step(y, number, stride=1):
        y = conv(y, p[f"conv{number}"]["kernel"], stride)
        return norm(y, p[f"bn{number}"], s[f"bn{number}"])

    if bottleneck:  # the 3x3 convolution has the stride
        y = step(relu(step(relu(step(x, 1)), 2, stride)), 3)
    else:
        y = step(relu(step(x, 1, stride)), 2)
    if "shortcut" in p:
        x = conv(x, p["shortcut"]["kernel"], stride)
        x = norm(x, p["bn_shortcut"], s["bn_shortcut"])
    return relu(x + y)


@pytest.mark.parametrize("bottleneck", [True, False])
@pytest.mark.parametrize(
    ("inputs", "stride"), [("same", 1), ("other", 1), ("other", 2), ("same", 2)]
)
def test_block_equals_numpy(bottleneck, inputs, stride):
    channels = 3
    last = channels * (4 if bottleneck else 1)
    width = last if inputs == "same" else 5
    block = resnet.Block(channels, stride, bottleneck, Layers())
    x = np.random.default_rng(1).normal(size=(2, 6, 6, width))
    params, stats = random_variables(block, x.shape)
    assert ("shortcut" in params) == (inputs == "other" or stride == 2)
    with jax.default_matmul_precision("float32"):
        got = evaluate(block, params, stats, x)
    want = numpy_block(x, params, stats, stride, bottleneck)
    assert got.shape == (2, 6 // stride, 6 // stride, last)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-3)
