"""ResNets with torchvision's weights compute what PyTorch computes. Needs PyTorch; with
torchvision its own models are the reference, without it their description here."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.test_weight_file import load
from support import safetensors_bytes as written
from support import torch_resnets

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
torch = pytest.importorskip("torch")


def described(name, state, x):
    """The features of torchvision/models/resnet.py, by its names."""
    from torch.nn import functional as F

    def norm(module, x):
        parts = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{module}.{part}"] for part in parts))

    def conv(module, x, stride=1):
        weight = state[f"{module}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    x = F.max_pool2d(F.relu(norm("bn1", conv("conv1", x, 2))), 3, 2, 1)
    deep = name in torch_resnets.BOTTLENECK
    for i, blocks in enumerate(torch_resnets.BLOCKS[name], start=1):
        for j in range(blocks):
            at, stride = f"layer{i}.{j}", 2 if i > 1 and j == 0 else 1
            y = conv(f"{at}.conv1", x, 1 if deep else stride)
            y = F.relu(norm(f"{at}.bn1", y))
            y = norm(f"{at}.bn2", conv(f"{at}.conv2", y, stride if deep else 1))
            if deep:
                y = norm(f"{at}.bn3", conv(f"{at}.conv3", F.relu(y)))
            if f"{at}.downsample.0.weight" in state:
                x = conv(f"{at}.downsample.0", x, stride)
                x = norm(f"{at}.downsample.1", x)
            x = F.relu(x + y)
    return x.mean((2, 3))


def of_torchvision(name, state, x):
    models = pytest.importorskip("torchvision.models")
    model = getattr(models, name)()
    model.load_state_dict(state, strict=False)
    learnt = {k for k in model.state_dict() if not k.endswith("num_batches_tracked")}
    assert learnt == set(state)
    model.fc = torch.nn.Identity()
    return model.eval()(x)


@pytest.mark.parametrize("reference", [described, of_torchvision])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_outputs_equal_torchs(tmp_path, name, reference):
    state = torch_resnets.state_dict(name)
    path = written.write(tmp_path / "w.safetensors", state)
    net, params, stats, _ = load(name, path)
    x = np.random.default_rng(1).normal(size=(3, 64, 64, 3)).astype(np.float32)
    apply = jax.jit(lambda p, s, x: net.apply(p, s, x, False)[0].features)
    ours = apply(params, stats, jnp.asarray(x))
    tensors = {k: torch.from_numpy(v) for k, v in state.items()}
    with torch.no_grad():
        images = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
        theirs = reference(name, tensors, images).numpy()
    assert 0.05 < np.abs(theirs).mean() < 20
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
