"""Files of weights: what is read equals what was written byte by byte, and a file that
is cut, garbled or of another network is refused."""

import functools
import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from support import safetensors_bytes as written
from support import torch_resnets
from support.numpy_layers import conv, norm, relu, windows
from support.trees import count, flat, shapes, unflat

from rsmatch_jax.errors import RequestError
from rsmatch_jax.models import networks, resnet, weight_file

VALUES = np.linspace(-3, 7, 12, dtype=np.float32).reshape(3, 4)


def test_arrays_are_read_in_every_width(tmp_path):
    arrays = {
        "half": VALUES.astype("<f2"),
        "single": VALUES,
        "double": VALUES.astype("<f8"),
        "brain": written.as_bfloat16(VALUES),
        "scalar": np.float32(2.5).reshape(()),
        "none": np.zeros((0, 3), np.float32),
        "counter": np.int64(7).reshape(()),
    }
    path = written.write(tmp_path / "w.safetensors", arrays, ["brain"], format="pt")
    read = weight_file.read(str(path))
    assert set(read) == set(arrays) - {"counter"}  # no float
    for name in ("half", "single", "double", "scalar", "none"):
        np.testing.assert_array_equal(read[name], arrays[name])
        assert read[name].dtype == arrays[name].dtype
    bits = arrays["brain"].astype("<u4") << 16
    np.testing.assert_array_equal(read["brain"].astype(np.float32), bits.view("<f4"))
    assert abs(read["brain"].astype(np.float32) - VALUES).max() < 0.05


def test_the_library_reads_the_same(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    path = written.write(tmp_path / "w.safetensors", {"a": VALUES, "b": VALUES[0]})
    theirs, ours = library.load_file(path), weight_file.read(str(path))
    assert theirs.keys() == ours.keys()
    for name in ours:
        np.testing.assert_array_equal(theirs[name], ours[name])
    library.save_file({"c": VALUES}, path)
    np.testing.assert_array_equal(weight_file.read(str(path))["c"], VALUES)


def file(header, data=b"\0" * 16, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    return struct.pack("<Q", size) + text + data


def entry(**changes):
    return {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **changes}}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08\0\0",
        file(b"{}", length=2**40),
        file(b"{}", length=2**63),
        file(b"\x80\x04pickle"),
        file(b"[" * 100_000),
        file([1]),
        file({"a": 3}),
        file(entry(shape=[5])),
        file(entry(shape=[-4])),
        file(entry(shape=[4.0])),
        file(entry(shape=4)),
        file(entry(shape=[2**40, 2**40])),
        file(entry(data_offsets=[0, 16, 20])),
        file(entry(data_offsets=[8, 24])),
        file(entry(data_offsets=[-16, 0])),
        file(entry(other=1)),
        file(entry(dtype=[1])),
        file({"a": {"dtype": "F32"}}),
    ],
    ids=lambda content: repr(content[8:60]),
)
def test_a_file_that_is_none_is_refused(tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=rf"{path} is no complete \.safetensors"):
        weight_file.read(str(path))
    path.write_bytes(file(entry()))
    assert weight_file.read(str(path))["a"].shape == (4,)  # the sound one


def encoder_shapes(name):
    params, stats = shapes(name, {})
    trees = (params["encoder"], stats["encoder"])
    return {k: tuple(v.shape) for tree in trees for k, v in flat(tree).items()}


def load(name, path):
    """(network, parameters, statistics) of a ResNet from a file, without a head."""
    taken, others = weight_file.resnet(str(path), encoder_shapes(name))
    params, stats = (
        unflat({k: v for k, v in taken.items() if k.endswith(("mean", "var")) == stat})
        for stat in (False, True)
    )
    return networks.make(name, {}), {"encoder": params}, {"encoder": stats}, others


def by_name(state, module, x, stride=1):
    return conv(x, state[f"{module}.weight"].transpose(2, 3, 1, 0), stride)


def norm_by_name(state, module, x):
    params = {"scale": state[f"{module}.weight"], "bias": state[f"{module}.bias"]}
    running = {
        "mean": state[f"{module}.running_mean"],
        "var": state[f"{module}.running_var"],
    }
    return norm(x, params, running)


def torchvision_features(state, name, x):
    """The pooled features of torchvision's model, in numpy, by its names."""
    x = relu(norm_by_name(state, "bn1", by_name(state, "conv1", x, 2)))
    x = windows(x, 3, 2, -np.inf).max((3, 4)).transpose(2, 0, 1, 3)
    deep = name in torch_resnets.BOTTLENECK
    for i, blocks in enumerate(torch_resnets.BLOCKS[name], start=1):
        for j in range(blocks):
            at, stride = f"layer{i}.{j}", 2 if i > 1 and j == 0 else 1
            y = x
            strides = (1, stride, 1) if deep else (stride, 1)
            for n, s in enumerate(strides, start=1):
                y = by_name(state, f"{at}.conv{n}", y, s)
                y = norm_by_name(state, f"{at}.bn{n}", y)
                y = relu(y) if n < len(strides) else y
            if f"{at}.downsample.0.weight" in state:
                x = by_name(state, f"{at}.downsample.0", x, stride)
                x = norm_by_name(state, f"{at}.downsample.1", x)
            x = relu(x + y)
    return x.mean((1, 2))


@pytest.mark.parametrize(
    ("name", "published"), [("resnet18", 11_689_512), ("resnet50", 25_557_032)]
)
def test_every_array_of_torchvisions_files_is_used_but_the_head(
    tmp_path, name, published
):
    state = torch_resnets.state_dict(name)
    head = ["fc.bias", "fc.weight"]
    assert sum(v.size for k, v in state.items() if "running" not in k) == published
    path = tmp_path / "w.safetensors"
    written.write(path, {**state, **torch_resnets.counters(name)})
    _, params, stats, others = load(name, path)
    assert others == head
    sizes = (v.size for k, v in state.items() if k not in head)
    assert count((params, stats)) == sum(sizes)


@pytest.mark.parametrize("size", [16, 11])
@pytest.mark.parametrize("name", ["resnet_basic", "resnet_deep"])
def test_outputs_by_torchvisions_names_are_the_same(tmp_path, name, size, monkeypatch):
    """Stem, pooling, order of blocks and strides; training moves every statistic.
    test_weight_file_torch.py compares the whole resnet18 and resnet50."""
    deep = name in torch_resnets.BOTTLENECK
    small = functools.partial(resnet.ResNet, torch_resnets.BLOCKS[name], deep)
    monkeypatch.setitem(networks.MODELS, name, small)
    state = torch_resnets.state_dict(name)
    path = written.write(tmp_path / "w.safetensors", state)
    net, params, stats, _ = load(name, path)
    x = np.random.default_rng(1).normal(size=(2, size, size, 3))
    ours, _ = net.apply(params, stats, jnp.asarray(x, jnp.float32), False)
    theirs = torchvision_features(state, name, x)
    assert 0.05 < np.abs(theirs).mean() < 20
    np.testing.assert_allclose(ours.features, theirs, atol=1e-4)
    _, new = net.apply(params, stats, jnp.asarray(x, jnp.float32), True)
    for path, value in flat(new).items():
        assert (value != flat(stats)[path]).all(), path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("bn1.bias"), "it lacks bn1.bias; it has fc.bias, fc.weight"),
        (
            lambda s: s.update(
                {"layer1.0.conv1.weight": np.zeros((64, 64, 1, 1), "f")}
            ),
            r"layer1\.0\.conv1\.weight is \(64, 64, 1, 1\), not \(64, 64, 3, 3\)",
        ),
        (
            lambda s: [s.update({f"m.{k}": s.pop(k)}) for k in list(s)],
            "lacks .* and 96 more; it has m.bn1.bias, .* and 98 more beside",
        ),
    ],
)
def test_another_network_is_named(tmp_path, change, words):
    state = torch_resnets.state_dict("resnet18")
    change(state)
    path = written.write(tmp_path / "w.safetensors", state)
    with pytest.raises(RequestError, match=f"{path} holds another network: .*{words}"):
        weight_file.resnet(str(path), encoder_shapes("resnet18"))
