"""FixMatch's train step in PyTorch: as USB has it, and as lean as it gets.

Imports torch, so it is imported late.
"""

import copy
import dataclasses
import math
import re
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from rsmatch_jax.bench.rivals.torch_wrn import WideResNet
from rsmatch_jax.engine.experiment import Experiment


class Batch(NamedTuple):
    """One step's images, normalised, on the step's device.

    lab: float32 [B, 3, S, S]; labels: int64 [B]; weak, strong: float32 [U, 3, S, S].
    """

    lab: torch.Tensor
    labels: torch.Tensor
    weak: torch.Tensor
    strong: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(x.to(device) for x in self))


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of network, loss, optimiser and averaged weights; bn_momentum as ours: the share
    of the old statistics."""

    depth: int
    widen: int
    num_classes: int
    bn_momentum: float
    threshold: float
    unsup_weight: float
    learning_rate: float
    momentum: float
    nesterov: bool
    weight_decay: float
    num_steps: int
    ema_decay: float

    @classmethod
    def of(cls, exp: Experiment) -> "Settings":
        """The settings of an experiment whose method is FixMatch."""
        c = exp.config
        depth, widen = re.fullmatch(r"wrn_(\d+)_(\d+)", c.model.classifier).groups()
        return cls(
            depth=int(depth),
            widen=int(widen),
            num_classes=exp.dims.num_classes,
            bn_momentum=c.model.bn_momentum,
            threshold=c.method.threshold,
            unsup_weight=c.method.unsup_weight,
            learning_rate=c.optim.learning_rate,
            momentum=c.optim.momentum,
            nesterov=c.optim.nesterov,
            weight_decay=c.optim.weight_decay,
            num_steps=c.train.num_steps,
            ema_decay=c.optim.ema_decay,
        )

    def network(self) -> WideResNet:
        return WideResNet(
            self.depth, self.widen, self.num_classes, 1 - self.bn_momentum
        )


class AsInUSB:
    """Eager, float32, three groups in one forward pass, four numbers fetched a step,
    and averaged weights kept by a loop over the parameters and copied into a second
    network twice (semilearn algorithms/fixmatch/fixmatch.py, core/hooks/ema.py).

    In PyTorch's favour, without what USB does for its timers (two waits a step) and for
    reproducibility (deterministic convolutions).
    """

    def __init__(self, settings: Settings, device: torch.device):
        self._settings = settings
        self.network = settings.network().to(device).train()
        self.averaged = copy.deepcopy(self.network)
        self._shadow = {n: p.data.clone() for n, p in self.network.named_parameters()}
        self._optimizer, self._scheduler = _optimizer(settings, self.network)

    def step(self, batch: Batch) -> dict[str, float]:
        """One update; what USB logs."""
        logits = self.network(torch.cat((batch.lab, batch.weak, batch.strong)))
        loss, sup, unsup, mask = fixmatch(logits, batch.labels, self._settings)
        logged = {
            "loss_sup": sup.item(),
            "loss_unsup": unsup.item(),
            "loss": loss.item(),
            "utilisation": mask.float().mean().item(),
        }
        loss.backward()
        self._optimizer.step()
        self._scheduler.step()
        self.network.zero_grad()
        self._average()
        return logged

    def _average(self):
        decay = self._settings.ema_decay
        for name, p in self.network.named_parameters():
            new = (1.0 - decay) * p.data + decay * self._shadow[name]
            self._shadow[name] = new.clone()
        self.averaged.load_state_dict(self.network.state_dict())
        self.averaged.load_state_dict(self._shadow, strict=False)


class Lean:
    """The same update with what PyTorch offers for speed: channels last, fused SGD,
    averaged weights by one call for all, nothing fetched; torch.compile and bfloat16
    autocast if asked for.

    compiled: whether it is; False also where compiling was asked for and failed.
    """

    def __init__(
        self,
        settings: Settings,
        device: torch.device,
        batch: Batch,
        *,
        bfloat16: bool,
        compiled: bool,
    ):
        """batch: of every step; where it compiles, it takes a first step."""
        self._settings, self._device, self._bfloat16 = settings, device, bfloat16
        last = torch.channels_last
        self._batch = Batch(
            batch.lab.contiguous(memory_format=last),
            batch.labels,
            batch.weak.contiguous(memory_format=last),
            batch.strong.contiguous(memory_format=last),
        )
        self.network = settings.network().to(device, memory_format=last).train()
        self._params = list(self.network.parameters())
        self.averaged = [p.detach().clone() for p in self._params]
        self._optimizer, self._scheduler = _optimizer(
            settings, self.network, fused=True
        )
        self.compiled, self.why_not = compiled, None
        self._loss = torch.compile(self._eager) if compiled else self._eager
        if compiled:
            try:
                self.step()
            except torch.OutOfMemoryError:
                raise
            except Exception as e:  # Whatever a compiler says: it is no must.
                self.compiled, self.why_not = False, f"{type(e).__name__}: {e}"
                self._loss = self._eager
                self._optimizer.zero_grad()

    def step(self):
        """One update."""
        self._loss(self._batch).backward()
        self._optimizer.step()
        self._scheduler.step()
        self._optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(
                self.averaged, self._params, 1 - self._settings.ema_decay
            )

    def _eager(self, batch: Batch) -> torch.Tensor:
        images = torch.cat((batch.lab, batch.weak, batch.strong))
        with torch.autocast(self._device.type, torch.bfloat16, self._bfloat16):
            logits = self.network(images)
        return fixmatch(logits.float(), batch.labels, self._settings)[0]


def fixmatch(
    logits: torch.Tensor, labels: torch.Tensor, settings: Settings
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(loss, its supervised and unsupervised part, mask [U]) from the logits of
    labelled, weak and strong rows, float32 [B + 2 U, K]."""
    lab, (weak, strong) = logits[: len(labels)], logits[len(labels) :].chunk(2)
    sup = F.cross_entropy(lab, labels)
    confidence, pseudo = torch.softmax(weak.detach(), dim=-1).max(dim=-1)
    mask = confidence.ge(settings.threshold).to(confidence.dtype)
    unsup = (F.cross_entropy(strong, pseudo, reduction="none") * mask).mean()
    return sup + settings.unsup_weight * unsup, sup, unsup, mask


def _optimizer(s: Settings, network: WideResNet, **how: Any):
    """(SGD, cosine 7/16 a step). Weight decay acts on kernels alone."""
    params = list(network.parameters())
    optimizer = torch.optim.SGD(
        [
            {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0},
            {"params": [p for p in params if p.ndim > 1]},
        ],
        lr=s.learning_rate,
        momentum=s.momentum,
        weight_decay=s.weight_decay,
        nesterov=s.nesterov,
        **how,
    )

    def factor(step):
        return max(0.0, math.cos(math.pi * 7 / 16 * step / s.num_steps))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
