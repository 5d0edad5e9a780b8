"""SCOMatch (Wang et al., ECCV 2024): one class more, "out", for images of no class.

Examples of "out" come from a queue of the unlabelled images that look least like any
class. As the authors' code on CIFAR-10 (komejisatori/SCOMatch, trainer.py), except:
- One unlabelled batch serves both unlabelled terms. They draw two; by a slip, the one's
  confidences decide about the other's rows.
- The out threshold is renewed every N // 2U steps; they count anew in each 1,024 steps.
- Until the queue can give a batch, weak images fill its rows at weight 0; they have no
  such rows, which batch statistics see.
- Two heads with biases; theirs is one of K + 1 outputs without. `unsup_weight` is ours,
  and `start_fix` is a share of the run, theirs a number of epochs.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from rsmatch_jax import losses
from rsmatch_jax.methods import base, csqueue, keys, out_threshold, scomatch_checks
from rsmatch_jax.runtime import parallel


@dataclasses.dataclass(frozen=True)
class SCOMatch(base.Method):
    """configs/common.py describes the keys."""

    origin_heads = ("real", "out")
    memory_keys = {"queue": "method.scomatch.queue_length"}
    progress = ("loss", "utilisation", "called_synthetic", "ood_threshold")

    period: int  # steps between two out thresholds
    start_step: int  # that start_fix stands for
    threshold: float = keys.key("method.threshold")
    unsup_weight: float = keys.key("method.unsup_weight")
    weak_forward: str = keys.key("train.weak_forward")
    queue_length: int = keys.key(least=1)
    push: int = keys.key(least=1)  # Km
    ood_threshold: float = keys.key(least=0, most=1)  # the first
    start_fix: float = keys.key(least=0, most=1)

    @classmethod
    def make(cls, config, dims):
        share = config.method.scomatch.start_fix
        return keys.from_config(
            cls,
            "scomatch",
            config,
            period=max(1, dims.num_unlabeled // (2 * dims.unlabeled_batch)),
            start_step=keys.first_step(share, config.train.num_steps),
            queue_length=scomatch_checks.queue_length(config, dims.num_classes),
        )

    check_data = staticmethod(scomatch_checks.check_data)

    def heads(self, num_classes):
        return {"classifier": {"real": num_classes, "out": 1}}

    def origin(self, logits):
        """The best class against "out". A score above 0.5 is the authors' decision, the
        largest of K + 1 logits; their AUROC ranks by P_out."""
        best = jnp.max(logits["real"], axis=1, keepdims=True)
        return jnp.concatenate([best, logits["out"]], axis=1)

    def init_extra(self, dims):
        queue = csqueue.create(1, self.queue_length, dims.image_shape)
        return {
            "queue": csqueue.with_scores(queue),
            "threshold": out_threshold.buffers(self.ood_threshold),
        }

    def queue(self, extra):
        return extra["queue"]

    def loss(self, params, inputs):
        batch, step = inputs.batch, inputs.step
        images, trusted = self._draw(inputs)
        (lab, drawn), weak, strong, new_stats = base.forward(
            "classifier", params, inputs, [batch.lab, images], self.weak_forward
        )
        strong_real, out = strong.logits["real"], strong.logits["real"].shape[1]
        lab, drawn, weak, strong = (
            jnp.concatenate([x.logits["real"], x.logits["out"]], axis=1)
            for x in (lab, drawn, weak, strong)
        )
        # P of the weak views, over K + 1 classes: constants for the gradient.
        labels, confidence = losses.pseudo_label(weak)
        is_out, started = labels == out, step >= self.start_step
        due = started & (step % self.period == 0)  # at step 0 nothing is counted
        known = out_threshold.renewed(
            inputs.extra["threshold"], due, self.threshold, self.ood_threshold
        )
        needed = jnp.where(is_out, known["ood_threshold"], self.threshold)
        mask = (confidence >= needed).astype(jnp.float32)

        loss_sup = jnp.mean(losses.cross_entropy(lab, batch.labels))
        # Divided by the number of all drawn images.
        loss_out = base.pseudo_label_loss(
            drawn, jnp.full_like(batch.labels, out), trusted * started
        )
        loss_open = base.pseudo_label_loss(strong, labels, mask * started)
        # Over the K classes alone, from the first step on.
        loss_unsup = base.pseudo_label_loss(strong_real, labels, mask * ~is_out)
        loss = loss_sup + loss_out + self.unsup_weight * (loss_open + loss_unsup)
        queue = self._push(inputs, losses.probabilities(weak)[:, :out])
        confident = confidence > self.threshold  # counted without equality, as theirs
        counted = out_threshold.counted(known, is_out, confident, inputs.axis)
        metrics = {
            "loss": loss,
            "loss_sup": loss_sup,
            "loss_out": loss_out,
            "loss_open": loss_open,
            "loss_unsup": loss_unsup,
            "utilisation": jnp.mean(mask),
            "called_synthetic": jnp.mean(is_out.astype(jnp.float32)),
            "ood_threshold": known["ood_threshold"],
            "queue_fill": csqueue.fill(queue),
        }
        new_extra = {"queue": queue, "threshold": counted}
        return loss, ({"classifier": new_stats}, new_extra, metrics)

    @jax.named_scope("queue")
    def _draw(self, inputs) -> tuple[UInt8[Array, "b s s 3"], Float[Array, " b"]]:
        """Returns this device's B/D images of the queue, and 1.0 for each whose score
        at its push was below the threshold; all 0.0 until the queue holds B images."""
        queue, axis, batch = inputs.extra["queue"], inputs.axis, inputs.batch
        rows = len(batch.lab)
        slots, ready = csqueue.sample_distinct(
            queue, inputs.key, rows * parallel.num_devices(axis)
        )
        slots = parallel.local_rows(slots, axis)
        images = csqueue.ready_or_weak(csqueue.take(queue, slots), ready, batch.weak)
        trusted = ready & (-queue.scores[0, slots] < self.threshold)
        return images, trusted.astype(jnp.float32)

    @jax.named_scope("queue")
    def _push(self, inputs, probabilities: base.Logits):
        """Pushes the images of the lowest max P_k, k < K, after the draw."""
        batch = inputs.batch
        scores = -jnp.max(probabilities, axis=1)
        one_queue = {"select": 1, "top": self.push, "axis": inputs.axis}
        rows = batch.weak, batch.indices, jnp.zeros_like(batch.indices), scores
        # The key has no queue to choose.
        return csqueue.push(inputs.extra["queue"], inputs.key, *rows, **one_queue)
