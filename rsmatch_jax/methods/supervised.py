"""Labelled images only: the lower bound that every other method starts from."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from rsmatch_jax import losses
from rsmatch_jax.methods import base


@dataclasses.dataclass(frozen=True)
class Supervised:
    """Cross-entropy on weakly augmented labelled images."""

    uses_unlabeled: ClassVar[bool] = False

    def heads(self, num_classes):
        return {"classifier": {"real": num_classes}}

    def init_extra(self, dims):
        del dims
        return {}

    def loss(self, nets, params, stats, extra, batch, key, step):
        del key, step
        outputs, new_stats = nets["classifier"].apply(
            params["classifier"], stats["classifier"], batch.lab, True
        )
        loss = jnp.mean(losses.cross_entropy(outputs.logits["real"], batch.labels))
        metrics = {"loss": loss, "loss_sup": loss}
        return loss, ({"classifier": new_stats}, extra, metrics)


def make(config: base.Config, dims: base.Dims) -> Supervised:
    """From the whole config; this method has no settings."""
    del config, dims
    return Supervised()
