"""Supervised training, and every method that is a pseudo-labelling rule alone."""

import dataclasses

import jax.numpy as jnp

from rsmatch_jax import losses
from rsmatch_jax.methods import base, keys, rules


@dataclasses.dataclass(frozen=True)
class Supervised(base.Method):
    """Labelled images only: the lower bound of every other method."""

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


@dataclasses.dataclass(frozen=True)
class SelfTraining(base.Method):
    """FixMatch, FlexMatch, FreeMatch, SoftMatch, AdaMatch: weak-view labels supervise
    the strong view. They differ in their rule alone (rules.py). The loss is USB's."""

    rule_key = "method.name"

    rule: base.Rule
    unsup_weight: float = keys.key("method.unsup_weight")  # lambda
    weak_forward: str = keys.key("train.weak_forward")  # see base.forward

    @classmethod
    def make(cls, config, dims):
        name = config.method.name
        return keys.from_config(cls, name, config, rule=rules.make(name, config))

    def heads(self, num_classes):
        return {"classifier": {"real": num_classes}}

    def init_extra(self, dims):
        return self.rule.init(dims)

    def loss(self, params, inputs):
        batch = inputs.batch
        (lab,), weak, strong, new_stats = base.forward(
            "classifier", params, inputs, [batch.lab], self.weak_forward
        )
        lab, weak, strong = (out.logits["real"] for out in (lab, weak, strong))
        labels, weights, buffers = self.rule.select(
            base.rule_inputs(lab, weak, inputs), inputs.extra
        )

        loss_sup = jnp.mean(losses.cross_entropy(lab, batch.labels))
        loss_unsup = base.pseudo_label_loss(strong, labels, weights)
        regulariser, rule_metrics = self.rule.regulariser(
            strong, weights, buffers, inputs.axis
        )
        loss = loss_sup + self.unsup_weight * loss_unsup + regulariser
        metrics = {
            "loss": loss,
            "loss_sup": loss_sup,
            "loss_unsup": loss_unsup,
            "utilisation": jnp.mean(weights),
            **rule_metrics,
        }
        return loss, ({"classifier": new_stats}, buffers, metrics)
