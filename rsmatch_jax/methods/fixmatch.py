"""FixMatch (Sohn et al. 2020): confident weak-view labels supervise the strong view.

As in USB (semilearn algorithms/fixmatch/fixmatch.py).
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from rsmatch_jax import losses
from rsmatch_jax.methods import base


@dataclasses.dataclass(frozen=True)
class FixMatch:
    """threshold: tau; unsup_weight: lambda; weak_forward: see base.forward."""

    uses_unlabeled: ClassVar[bool] = True

    threshold: float
    unsup_weight: float
    weak_forward: str

    def heads(self, num_classes):
        return {"classifier": {"real": num_classes}}

    def init_extra(self, dims):
        del dims
        return {}

    def loss(self, nets, params, stats, extra, batch, key, step):
        del key, step
        (lab,), weak, strong, new_stats = base.forward(
            nets["classifier"],
            params["classifier"],
            stats["classifier"],
            [batch.lab],
            batch.weak,
            batch.strong,
            self.weak_forward,
        )
        labels, confidence = losses.pseudo_label(weak.logits["real"])
        mask = confidence >= self.threshold

        loss_sup = jnp.mean(losses.cross_entropy(lab.logits["real"], batch.labels))
        loss_unsup = losses.masked_mean(
            losses.cross_entropy(strong.logits["real"], labels), mask
        )
        loss = loss_sup + self.unsup_weight * loss_unsup
        metrics = {
            "loss": loss,
            "loss_sup": loss_sup,
            "loss_unsup": loss_unsup,
            "utilisation": jnp.mean(mask.astype(jnp.float32)),
        }
        return loss, ({"classifier": new_stats}, extra, metrics)


def make(config: base.Config, dims: base.Dims) -> FixMatch:
    """From the whole config: the shared keys of its `method` group."""
    del dims
    return FixMatch(
        threshold=config.method.threshold,
        unsup_weight=config.method.unsup_weight,
        weak_forward=config.train.weak_forward,
    )
