"""ResNets with torchvision's weights compute what its models compute; needs both."""

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
models = pytest.importorskip("torchvision.models")


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_outputs_equal_torchs(tmp_path, name):
    state = torch_resnets.state_dict(name)
    path = written.write(tmp_path / "w.safetensors", state)
    net, params, stats, _ = load(name, path)
    x = np.random.default_rng(1).normal(size=(3, 64, 64, 3)).astype(np.float32)
    apply = jax.jit(lambda p, s, x: net.apply(p, s, x, False)[0].features)
    ours = apply(params, stats, jnp.asarray(x))
    model = getattr(models, name)()
    model.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, False)
    learnt = {k for k in model.state_dict() if not k.endswith("num_batches_tracked")}
    assert learnt == set(state)
    model.fc = torch.nn.Identity()
    with torch.no_grad():
        theirs = model.eval()(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    assert 0.05 < np.abs(theirs).mean() < 20
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
