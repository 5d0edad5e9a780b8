"""Computes wrn_reference.npz with PyTorch, in float64, from the networks' description.

    pip install torch numpy && python tests/models/reference/make_wrn_reference.py

For WRN-10-2 in both pre-activation variants, and for its form with four stages that
all halve the image, the file holds, below "usb/", "tf/" and "var/": features and logits
in training and evaluation, the running statistics after one training pass, the number
of values behind each statistic, and the gradients of the mean cross-entropy, as norms
and sampled entries in the layout of the JAX networks.
"""

import os

import numpy as np
import torch
import torch.nn.functional as F
from wrn_weights import CLASSES, MOMENTUM, batch, sample, weight

WIDEN = 2


class Net(torch.nn.Module):
    """WRN-10-k; module names spell the JAX parameter paths with "." for "/"."""

    def __init__(self, preact: str, strides: tuple[int, ...]):
        super().__init__()
        self.preact, self.stages = preact, range(1, len(strides) + 1)
        encoder = torch.nn.Module()
        encoder.stem = torch.nn.Conv2d(3, 16, 3, padding=1, bias=True)
        channels = 16
        for stage, stride in zip(self.stages, strides, strict=True):
            out = 2 ** (stage + 3) * WIDEN
            block = torch.nn.Module()
            block.bn1 = norm(channels, 1e-5)
            block.conv1 = torch.nn.Conv2d(channels, out, 3, stride, 1, bias=False)
            block.bn2 = norm(out, 1e-5)
            block.conv2 = torch.nn.Conv2d(out, out, 3, 1, 1, bias=False)
            block.shortcut = torch.nn.Conv2d(channels, out, 1, stride, 0, bias=False)
            setattr(encoder, f"stage{stage}_block0", block)
            channels = out
        encoder.bn = norm(channels, 1e-3)
        self.encoder = encoder
        self.heads = torch.nn.ModuleDict({"real": torch.nn.Linear(channels, CLASSES)})

    def forward(self, images):
        x = self.encoder.stem(images)
        for stage in self.stages:
            b = getattr(self.encoder, f"stage{stage}_block0")
            activated = F.leaky_relu(b.bn1(x), 0.1)
            if stage == 1:
                inner = shortcut = activated
            else:
                inner, shortcut = (x if self.preact == "usb" else activated), x
            y = b.conv2(F.leaky_relu(b.bn2(b.conv1(inner)), 0.1))
            x = y + b.shortcut(shortcut)
        features = F.leaky_relu(self.encoder.bn(x), 0.1).mean(dim=(2, 3))
        return features, self.heads["real"](features)


def norm(channels: int, eps: float) -> torch.nn.BatchNorm2d:
    # torch's momentum is the share of the new statistics.
    return torch.nn.BatchNorm2d(channels, eps=eps, momentum=1 - MOMENTUM)


def jax_name(name: str, tensor: torch.Tensor) -> str:
    path, kind = name.rsplit(".", 1)
    names = {"running_mean": "mean", "running_var": "var", "bias": "bias"}
    names["weight"] = "scale" if tensor.ndim == 1 else "kernel"
    return f"{path.replace('.', '/')}/{names[kind]}"


def to_jax_layout(tensor: torch.Tensor) -> np.ndarray:
    order = {4: (2, 3, 1, 0), 2: (1, 0)}.get(tensor.ndim)
    array = tensor.detach().numpy()
    return array.transpose(order) if order else array


def from_jax_layout(array: np.ndarray) -> torch.Tensor:
    order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim)
    array = array.transpose(order) if order else array
    return torch.tensor(np.ascontiguousarray(array), dtype=torch.float64)


def reference(
    network: str, preact: str, strides: tuple[int, ...] = (1, 2, 2)
) -> dict[str, np.ndarray]:
    net = Net(preact, strides).double()
    state = {}
    for name, tensor in net.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            shape = to_jax_layout(tensor).shape
            state[name] = from_jax_layout(weight(jax_name(name, tensor), shape))
    net.load_state_dict(state, strict=False)

    images, labels = batch()
    x = torch.tensor(images.transpose(0, 3, 1, 2), dtype=torch.float64)
    out = {}
    net.eval()
    out["eval/features"], out["eval/logits"] = net(x)

    counts = {}
    names = {module: name.replace(".", "/") for name, module in net.named_modules()}

    def count(module, inputs, _):
        n, _, height, width = inputs[0].shape
        counts[f"count/{names[module]}"] = np.int64(n * height * width)

    for module in names:
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(count)
    net.train()
    out["train/features"], out["train/logits"] = net(x)
    F.cross_entropy(out["train/logits"], torch.tensor(labels)).backward()
    out = {k: v.detach().numpy() for k, v in out.items()}

    for name, tensor in net.named_buffers():
        if not name.endswith("num_batches_tracked"):
            out[f"stats/{jax_name(name, tensor)}"] = tensor.numpy()
    for name, tensor in net.named_parameters():
        gradient = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        gradient = to_jax_layout(gradient)
        key = jax_name(name, tensor)
        out[f"norm/{key}"] = np.linalg.norm(gradient)
        out[f"grad/{key}"] = sample(gradient)
    out = {k: np.asarray(v, np.float32) for k, v in out.items()} | counts
    return {f"{network}/{k}": v for k, v in out.items()}


def main():
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "wrn_reference.npz")
    usb, tf = reference("usb", "usb"), reference("tf", "tf")
    np.savez_compressed(path, **usb, **tf, **reference("var", "usb", (2, 2, 2, 2)))
    print(f"wrote {path}, {os.path.getsize(path)} bytes")


if __name__ == "__main__":
    main()
