"""FixMatch's train step in PyTorch: as in USB, and as lean as possible. Imports torch.

The network is USB's (semilearn nets/wrn/wrn.py), equal to rsmatch_jax.models.wrn with
wrn_preact="usb". A parameter's name here is its path there, joined by dots.
"""

import collections
import copy
import functools
import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from rsmatch_jax.bench.harness import frame
from rsmatch_jax.engine.experiment import Experiment


class Batch(NamedTuple):
    """One step's normalised images on the step's device."""

    lab: torch.Tensor  # float32 [B, 3, S, S]
    labels: torch.Tensor  # int64 [B]
    weak: torch.Tensor  # float32 [U, 3, S, S]
    strong: torch.Tensor  # float32 [U, 3, S, S]

    def to(self, device: torch.device) -> "Batch":
        """The batch on another device."""
        return Batch(*(x.to(device) for x in self))

    def images(self) -> torch.Tensor:
        """All images, [B + 2 U, 3, S, S]."""
        return torch.cat((self.lab, self.weak, self.strong))


_activate = functools.partial(F.leaky_relu, negative_slope=0.1, inplace=True)


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
    """The classifier of an experiment: float32 [N, 3, S, S] -> logits [N, classes]."""

    def __init__(self, exp: Experiment):
        super().__init__()
        model = exp.config.model
        depth, widen = map(int, model.classifier.removeprefix("wrn_").split("_"))
        # PyTorch's momentum is the share of the new statistics.
        norm = functools.partial(nn.BatchNorm2d, momentum=1 - model.bn_momentum)
        encoder, inputs = {"stem": nn.Conv2d(3, 16, 3, 1, 1)}, 16
        for stage in (1, 2, 3):
            for i in range((depth - 4) // 6):
                channels = 2 ** (stage + 3) * widen
                stride = 2 if stage > 1 and i == 0 else 1
                block = Block(inputs, channels, stride, stage == 1, norm)
                encoder[f"stage{stage}_block{i}"] = block
                inputs = channels
        encoder["bn"] = norm(inputs, eps=1e-3)
        self.encoder = nn.Sequential(collections.OrderedDict(encoder))
        self.heads = nn.ModuleDict({"real": nn.Linear(inputs, exp.dims.num_classes)})

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = _activate(self.encoder(images))
        return self.heads["real"](F.adaptive_avg_pool2d(x, 1).flatten(1))


class AsInUSB:
    """FixMatch's step as USB has it.

    Eager, float32, all images in one forward pass, four numbers fetched per step.
    Averaged weights are computed parameter by parameter and copied into a second
    network twice (semilearn algorithms/fixmatch/fixmatch.py, core/hooks/ema.py). In
    PyTorch's favour it leaves out USB's two waits per step and deterministic
    convolutions.
    """

    def __init__(self, exp: Experiment, device: torch.device):
        self._config = exp.config
        self.network = WideResNet(exp).to(device).train()
        self.averaged = copy.deepcopy(self.network)
        self._shadow = {n: p.data.clone() for n, p in self.network.named_parameters()}
        self._optimizer, self._scheduler = _optimizer(exp.config, self.network)

    def step(self, batch: Batch) -> dict[str, float]:
        """Does one update; returns what USB logs."""
        terms = fixmatch(self.network(batch.images()), batch.labels, self._config)
        logged = {name: term.item() for name, term in terms.items()}
        terms["loss"].backward()
        self._optimizer.step()
        self._scheduler.step()
        self.network.zero_grad()
        decay = self._config.optim.ema_decay
        for name, p in self.network.named_parameters():
            new = (1.0 - decay) * p.data + decay * self._shadow[name]
            self._shadow[name] = new.clone()
        self.averaged.load_state_dict(self.network.state_dict())
        self.averaged.load_state_dict(self._shadow, strict=False)
        return logged


class Lean:
    """The same update as fast as PyTorch allows, on a fixed batch.

    Channels last, fused SGD, averaged weights by one call, nothing fetched;
    torch.compile and bfloat16 autocast on request. form: "compiled" or "eager".
    failure: why torch.compile failed, or "".
    """

    def __init__(self, exp: Experiment, batch: Batch, bfloat16: bool, compiled: bool):
        self._config, self._bfloat16 = exp.config, bfloat16
        self._device = device = batch.lab.device
        last = torch.channels_last
        self._batch = Batch(
            *(x.contiguous(memory_format=last) if x.ndim == 4 else x for x in batch)
        )
        self.network = WideResNet(exp).to(device, memory_format=last).train()
        self._params = list(self.network.parameters())
        self.averaged = [p.detach().clone() for p in self._params]
        self._optimizer, self._scheduler = _optimizer(
            exp.config, self.network, fused=True
        )
        self._loss, self.form, self.failure = self._eager, "eager", ""
        if compiled:
            try:
                self._loss, self.form = torch.compile(self._eager), "compiled"
                self.step()  # compiles
            except torch.OutOfMemoryError:
                raise
            except Exception as e:  # any failure: compiling is optional
                self.failure = frame.reason(e)
                self._loss, self.form = self._eager, "eager"
                self._optimizer.zero_grad()

    def step(self):
        """Does one update."""
        self._loss(self._batch).backward()
        self._optimizer.step()
        self._scheduler.step()
        self._optimizer.zero_grad()
        weight = 1 - self._config.optim.ema_decay
        with torch.no_grad():
            torch._foreach_lerp_(self.averaged, self._params, weight)

    def _eager(self, batch: Batch) -> torch.Tensor:
        with torch.autocast(self._device.type, torch.bfloat16, self._bfloat16):
            logits = self.network(batch.images())
        return fixmatch(logits.float(), batch.labels, self._config)["loss"]


def fixmatch(
    logits: torch.Tensor, labels: torch.Tensor, config: Any
) -> dict[str, torch.Tensor]:
    """What USB logs, from the logits of labelled, weak and strong rows, float32
    [B + 2 U, K]."""
    lab, (weak, strong) = logits[: len(labels)], logits[len(labels) :].chunk(2)
    sup = F.cross_entropy(lab, labels)
    confidence, pseudo = torch.softmax(weak.detach(), dim=-1).max(dim=-1)
    mask = confidence.ge(config.method.threshold).to(confidence.dtype)
    unsup = (F.cross_entropy(strong, pseudo, reduction="none") * mask).mean()
    loss = sup + config.method.unsup_weight * unsup
    logged = {"loss_sup": sup, "loss_unsup": unsup, "loss": loss}
    return {**logged, "utilisation": mask.mean()}


def _optimizer(config: Any, net: WideResNet, **options: Any):
    """(SGD, schedule cosine 7/16 per step). Weight decay acts on kernels alone."""
    params, o = list(net.parameters()), config.optim
    optimizer = torch.optim.SGD(
        [
            {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0},
            {"params": [p for p in params if p.ndim > 1]},
        ],
        lr=o.learning_rate,
        momentum=o.momentum,
        weight_decay=o.weight_decay,
        nesterov=o.nesterov,
        **options,
    )

    def factor(step):
        return max(0.0, math.cos(math.pi * 7 / 16 * step / config.train.num_steps))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
