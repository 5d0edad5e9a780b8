"""OpenMatch (Saito et al. 2021): a one-vs-all head finds the unlabelled images that
belong to no class; FixMatch's term learns from the others. As in the authors' OP_Match
(trainer.py, utils/misc.py). It differs from their code in this:

- The EMA network judges the step's first weak view. Theirs judges all unlabelled images
  at the start of each epoch, on mirrored ones.
- One batch serves all unlabelled terms, in one pass with joint BN statistics. Theirs
  draws another one from the selected images for FixMatch's term, and has a pass for it.
- One view of each labelled image, as in their first version; a later one has two.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from rsmatch_jax import losses
from rsmatch_jax.methods import base, keys, one_vs_all
from rsmatch_jax.models.networks import Linear
from rsmatch_jax.runtime import parallel

OUTLIER = "outlier"


@dataclasses.dataclass(frozen=True)
class OpenMatch(base.Method):
    """configs/common.py describes the keys."""

    weak_views = 2
    reads_ema = True
    origin_heads = ("real", OUTLIER)
    progress = ("loss", "utilisation", "selected")

    unsup_weight: float = keys.key("method.unsup_weight")
    num_steps: int = keys.key("train.num_steps")
    oem_weight: float = keys.key(least=0)
    socr_weight: float = keys.key(least=0)
    start_fix: float = keys.key(least=0, most=1)
    threshold: float = keys.key(least=0, most=1)
    temperature: float = keys.key(above=0)

    @classmethod
    def check(cls, config):
        if config.train.weak_forward != "cat":
            way_out = (
                "method.name=openmatch learns from the weak views, whose pass would "
                "have no gradient; use train.weak_forward=cat"
            )
            keys.refuse(config, "train.weak_forward", way_out)

    def heads(self, num_classes):
        outlier = Linear(2 * num_classes, bias=False)
        return {"classifier": {"real": num_classes, OUTLIER: outlier}}

    def origin(self, logits):
        """Returns (log o_in, log o_out) of the most probable class: real, synthetic."""
        return _likeliest(logits)

    def loss(self, params, inputs):
        batch = inputs.batch
        (lab, second), weak, strong, new_stats = base.forward(
            "classifier", params, inputs, [batch.lab, batch.weak2], "cat"
        )
        o_weak, o_second = (
            jnp.exp(one_vs_all.log_members(out.logits[OUTLIER]))
            for out in (weak, second)
        )
        selected = self._select(inputs).astype(jnp.float32)
        share = parallel.mean(jnp.mean(selected), inputs.axis)
        labels, confidence = losses.pseudo_label(weak.logits["real"] / self.temperature)
        started = inputs.step >= keys.first_step(self.start_fix, self.num_steps)
        mask = jnp.where(started & (confidence >= self.threshold), selected, 0.0)

        loss_sup = jnp.mean(losses.cross_entropy(lab.logits["real"], batch.labels))
        loss_ova = one_vs_all.loss(lab.logits[OUTLIER], batch.labels)
        loss_oem = 0.5 * (entropy(o_weak) + entropy(o_second))
        loss_socr = jnp.mean(jnp.sum(jnp.square(o_weak - o_second), axis=(1, 2)))
        # Divided by the selected rows of the global batch, because the authors' batches
        # have no other rows; those below the threshold count.
        weights = mask / jnp.where(share > 0, share, 1.0)
        loss_unsup = base.pseudo_label_loss(strong.logits["real"], labels, weights)
        loss = (
            loss_sup
            + loss_ova
            + self.oem_weight * loss_oem
            + self.socr_weight * loss_socr
            + self.unsup_weight * loss_unsup
        )
        metrics = {
            "loss": loss,
            "loss_sup": loss_sup,
            "loss_ova": loss_ova,
            "loss_oem": loss_oem,
            "loss_socr": loss_socr,
            "loss_unsup": loss_unsup,
            "utilisation": jnp.mean(mask),
            "selected": share,
        }
        return loss, ({"classifier": new_stats}, {}, metrics)

    @jax.named_scope("selection")
    def _select(self, inputs) -> Bool[Array, " unlabelled"]:
        """Returns [o_out < 0.5] at the most probable class, by the EMA parameters with
        the live BN statistics, as in evaluation. It has no gradient."""
        outputs, _ = inputs.nets["classifier"].apply(
            inputs.ema["classifier"],
            inputs.stats["classifier"],
            inputs.batch.weak,
            False,
        )
        return losses.probabilities(_likeliest(outputs.logits))[:, 1] < 0.5


def entropy(o: one_vs_all.Members) -> base.Loss:
    """Returns the mean over rows and classes of the entropy of (out, in)."""
    return jnp.mean(jnp.sum(-o * jnp.log(o + one_vs_all.EPSILON), axis=1))


def _likeliest(logits: Mapping[str, Float[Array, "n _"]]) -> Float32[Array, "n 2"]:
    log_o = one_vs_all.log_members(logits[OUTLIER])
    best = jnp.argmax(logits["real"], axis=1)[:, None, None]
    log_o = jnp.take_along_axis(log_o, best, axis=2)[:, :, 0]
    return log_o[:, (one_vs_all.IN, one_vs_all.OUT)]
