"""IOMatch (Li et al. 2023): images outside of all classes are one more class.

One-vs-all classifiers say how probably an image lies outside each class. They weight
the class predictions of a weak view into a soft target over K + 1 classes for an open
head, and keep outliers, here synthetic images, away from the class head. As in the
authors' code (github.com/nukezil/IOMatch, semilearn algorithms/iomatch/iomatch.py,
utils.py), whose rotation loss, off by default, is left out. Its first epoch, without
the open loss, is a share of the run here; its heads have Xavier's weights on every
network, ours on Wide ResNets.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rsmatch_jax import losses
from rsmatch_jax.methods import alignment, base, keys, one_vs_all
from rsmatch_jax.models.networks import Linear, Projector

PROJECTION, OUTLIER, OPEN = "projection", "outlier", "open"


@dataclasses.dataclass(frozen=True)
class IOMatch(base.Method):
    """configs/common.py describes the keys."""

    origin_heads = ("real", OUTLIER)
    progress = ("loss", "utilisation", "open_utilisation", "called_synthetic")

    num_steps: int = keys.key("train.num_steps")
    threshold: float = keys.key("method.threshold")  # of the class predictions
    unsup_weight: float = keys.key("method.unsup_weight")
    weak_forward: str = keys.key("train.weak_forward")
    q_cutoff: float = keys.key(least=0, most=1)
    projection_size: int = keys.key(least=1)
    mb_weight: float = keys.key(least=0)
    open_weight: float = keys.key(least=0)
    open_start: float = keys.key(least=0, most=1)
    align: bool = keys.key()
    da_length: int = keys.key(least=1)

    def heads(self, num_classes):
        heads = {
            "real": num_classes,
            PROJECTION: Projector(self.projection_size),
            OUTLIER: Linear(2 * num_classes, bias=False, of=PROJECTION),
            OPEN: Linear(num_classes + 1, of=PROJECTION),
        }
        return {"classifier": heads}

    def origin(self, logits):
        """The authors' outlier score, without alignment: sum_k p_k P(outside k)."""
        log_p = jax.nn.log_softmax(logits["real"].astype(jnp.float32))
        log_q = log_open_targets(log_p, logits[OUTLIER])
        inside = jax.nn.logsumexp(log_q[:, :-1], axis=1)
        return jnp.stack([inside, log_q[:, -1]], axis=1)

    def init_extra(self, dims):
        if not self.align:
            return {}
        return alignment.queue(dims.num_classes, self.da_length)

    def loss(self, params, inputs):
        batch, labels = inputs.batch, inputs.batch.labels
        (lab,), weak, strong, new_stats = base.forward(
            "classifier", params, inputs, [batch.lab], self.weak_forward
        )
        lab, strong = lab.logits, strong.logits
        p, q, new_extra = self._targets(weak.logits, inputs)
        outside = q[:, -1] >= 0.5
        sure = jnp.max(p, axis=1) >= self.threshold
        mask = sure & ~outside
        open_mask = jnp.max(q, axis=1) >= self.q_cutoff

        loss_sup = jnp.mean(losses.cross_entropy(lab["real"], labels))
        loss_ova = one_vs_all.loss(lab[OUTLIER], labels)
        loss_unsup = losses.masked_mean(
            losses.soft_cross_entropy(strong["real"], p), mask
        )
        started = inputs.step >= keys.first_step(self.open_start, self.num_steps)
        loss_open = losses.masked_mean(
            losses.soft_cross_entropy(strong[OPEN], q), open_mask & started
        )
        loss = (
            loss_sup
            + self.mb_weight * loss_ova
            + self.unsup_weight * loss_unsup
            + self.open_weight * loss_open
        )
        metrics = {
            "loss": loss,
            "loss_sup": loss_sup,
            "loss_ova": loss_ova,
            "loss_unsup": loss_unsup,
            "loss_open": loss_open,
            "utilisation": jnp.mean(mask.astype(jnp.float32)),
            "open_utilisation": jnp.mean(open_mask.astype(jnp.float32)),
            "called_synthetic": jnp.mean(outside.astype(jnp.float32)),
        }
        return loss, ({"classifier": new_stats}, new_extra, metrics)

    def _targets(self, weak, inputs):
        """Returns (p [U, K], q [U, K + 1], new buffers) from the weak views' logits;
        `align` aligns p, and with it q. soft_cross_entropy makes both constants."""
        if self.align:
            log_p, extra = alignment.by_queue(weak["real"], inputs.extra, inputs.axis)
        else:
            log_p, extra = jax.nn.log_softmax(weak["real"].astype(jnp.float32)), {}
        return jnp.exp(log_p), jnp.exp(log_open_targets(log_p, weak[OUTLIER])), extra


def log_open_targets(
    log_p: base.Logits, logits: Float[Array, "unlabelled pairs"]
) -> Float[Array, "unlabelled classes_and_out"]:
    """Returns log q [n, K + 1], q_k = p_k P(inside k) and, last, sum_k p_k P(outside
    k), from log p [n, K] and one-vs-all logits [n, 2 K]. In logarithms, so that a score
    of 0 or 1 stays finite."""
    log_o = log_p[:, None, :] + one_vs_all.log_members(logits)
    out = jax.nn.logsumexp(log_o[:, one_vs_all.OUT], axis=1, keepdims=True)
    return jnp.concatenate([log_o[:, one_vs_all.IN], out], axis=1)
