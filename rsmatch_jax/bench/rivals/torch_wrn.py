"""The wide residual network of USB (semilearn nets/wrn/wrn.py) in PyTorch.

The same network as rsmatch_jax.models.wrn with preact="usb". A parameter's name here is
its path there, joined by dots. Imports torch.
"""

import functools

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """Pre-activation residual block, see models.wrn.Block."""

    def __init__(self, inputs: int, channels: int, stride: int, first: bool, norm):
        super().__init__()
        self.bn1 = norm(inputs)
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        self.bn2 = norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.widens, self._first = inputs != channels, first
        if self.widens:
            self.shortcut = nn.Conv2d(inputs, channels, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Always computed, as in USB: it updates running statistics.
        inner = _activate(self.bn1(x))
        if self.widens and self._first:
            x = inner
        y = _activate(self.bn2(self.conv1(x if self.widens else inner)))
        return (self.shortcut(x) if self.widens else x) + self.conv2(y)


class WideResNet(nn.Module):
    """WRN-depth-widen: float32 [N, 3, S, S] -> logits [N, classes].

    bn_momentum: the share of new statistics in an update; one minus JAX's value.
    """

    def __init__(self, depth: int, widen: int, num_classes: int, bn_momentum: float):
        super().__init__()
        norm = functools.partial(nn.BatchNorm2d, momentum=bn_momentum)
        encoder = [("stem", nn.Conv2d(3, 16, 3, 1, 1))]
        inputs = 16
        for stage in (1, 2, 3):
            for i in range((depth - 4) // 6):
                channels = 2 ** (stage + 3) * widen
                stride = 2 if stage > 1 and i == 0 else 1
                block = Block(inputs, channels, stride, stage == 1, norm)
                encoder.append((f"stage{stage}_block{i}", block))
                inputs = channels
        encoder.append(("bn", norm(inputs, eps=1e-3)))
        self.encoder = nn.Sequential()
        for name, module in encoder:
            self.encoder.add_module(name, module)
        self.heads = nn.ModuleDict({"real": nn.Linear(inputs, num_classes)})
        self.apply(_initialise)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = _activate(self.encoder(images))
        return self.heads["real"](F.adaptive_avg_pool2d(x, 1).flatten(1))


def _activate(x: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(x, 0.1, inplace=True)


def _initialise(module: nn.Module):
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Linear):
        nn.init.xavier_normal_(module.weight)
        nn.init.zeros_(module.bias)
