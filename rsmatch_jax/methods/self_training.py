"""FixMatch, FlexMatch, FreeMatch: trusted weak-view labels supervise the strong view.

The three differ in their rule alone (rules.py). The loss is USB's.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from rsmatch_jax import losses
from rsmatch_jax.methods import base
from rsmatch_jax.methods.rules import RULES, Rule


@dataclasses.dataclass(frozen=True)
class SelfTraining:
    """unsup_weight: lambda; weak_forward: see base.forward."""

    uses_unlabeled: ClassVar[bool] = True

    rule: Rule
    unsup_weight: float
    weak_forward: str

    def heads(self, num_classes):
        return {"classifier": {"real": num_classes}}

    def init_extra(self, dims):
        return self.rule.init(dims)

    def loss(self, nets, params, stats, extra, batch, key, step):
        del key, step
        (lab,), weak, strong, new_stats = base.forward(
            "classifier", nets, params, stats, [batch.lab], batch, self.weak_forward
        )
        labels, mask, extra = self.rule.select(
            weak.logits["real"], extra, batch.indices
        )

        loss_sup = jnp.mean(losses.cross_entropy(lab.logits["real"], batch.labels))
        loss_unsup = losses.masked_mean(
            losses.cross_entropy(strong.logits["real"], labels), mask
        )
        regulariser, reported = self.rule.regulariser(
            strong.logits["real"], mask, extra
        )
        loss = loss_sup + self.unsup_weight * loss_unsup + regulariser
        metrics = {
            "loss": loss,
            "loss_sup": loss_sup,
            "loss_unsup": loss_unsup,
            "utilisation": jnp.mean(mask.astype(jnp.float32)),
            **reported,
        }
        return loss, ({"classifier": new_stats}, extra, metrics)


def make(config: base.Config, dims: base.Dims) -> SelfTraining:
    """From the whole config: the method's name is the rule's."""
    del dims
    return SelfTraining(
        rule=RULES[config.method.name](config),
        unsup_weight=config.method.unsup_weight,
        weak_forward=config.train.weak_forward,
    )
