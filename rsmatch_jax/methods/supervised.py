"""Labelled images only: the lower bound of every other method."""

import dataclasses

import jax.numpy as jnp

from rsmatch_jax import losses
from rsmatch_jax.methods import base


@dataclasses.dataclass(frozen=True)
class Supervised(base.Method):
    """Cross-entropy on weakly augmented labelled images."""

    uses_unlabeled = False

    def heads(self, num_classes):
        return {"classifier": {"real": num_classes}}

    def loss(self, params, inputs):
        outputs, new_stats = inputs.nets["classifier"].apply(
            params["classifier"], inputs.stats["classifier"], inputs.batch.lab, True
        )
        logits, labels = outputs.logits["real"], inputs.batch.labels
        loss = jnp.mean(losses.cross_entropy(logits, labels))
        metrics = {"loss": loss, "loss_sup": loss}
        return loss, ({"classifier": new_stats}, {}, metrics)
