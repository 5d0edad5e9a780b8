"""RSMatch (Wang et al. 2024, section 4): find the synthetic images, then use them.

A deepfake detector learns from labelled real images and from the CSQueue, which mines
likely synthetic ones out of the unlabelled batches. The classifier has a real and a
fake head on one encoder; unlabelled images train the head that the detector sends them
to. Equations 1 to 7 are marked below. Class 0 of the detector is real, 1 synthetic.
Which pseudo-labels are trusted is FixMatch's rule in the paper; any other may stand in.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from rsmatch_jax import losses
from rsmatch_jax.augment import on_device
from rsmatch_jax.methods import backward_first, base, csqueue
from rsmatch_jax.methods.rules import RULES, Rule
from rsmatch_jax.runtime import parallel
from rsmatch_jax.state import PyTree

DETECTOR = "detector"


class _Detector(NamedTuple):
    """What the detector's part of a step gives: the loss of Eq. 2 + 3, and of each weak
    view, constant for the gradient, its pseudo-label int32 [U/D] (1: synthetic), the
    confidence in it and the score of Eq. 1, both float32 [U/D]."""

    loss: jax.Array
    origin: jax.Array
    confidence: jax.Array
    score: jax.Array
    metrics: base.Metrics
    stats: PyTree  # new BN statistics by network: none where it has no network


@dataclasses.dataclass(frozen=True)
class RSMatch:
    """Fields are the keys of `method` and `method.rsmatch` (configs/common.py);
    rule, the one that `pseudo_label` names; synthetic_share, the coin of
    routing="random"; flip and crop_pad, the weak view of queue_reaugment."""

    uses_unlabeled: ClassVar[bool] = True

    rule: Rule
    unsup_weight: float
    weak_forward: str
    queue_length: int
    queue_classes: int
    queue_push: int
    queue_sample: str
    queue_min_confidence: float
    queue_min_score: float
    queue_reaugment: bool
    detector_threshold: float
    detector_unsup_weight: float
    fake_weight: float
    route_threshold: float
    route_warmup_steps: int
    individual_models: bool
    classwise_queue: bool
    fake_head: bool
    routing: str
    synthetic_share: float
    flip: bool
    crop_pad: int

    def heads(self, num_classes):
        classifier = {"real": num_classes}
        if self.fake_head:
            classifier["fake"] = num_classes
        if not self.individual_models:
            return {"classifier": {**classifier, DETECTOR: 2}}
        return {"classifier": classifier, DETECTOR: {DETECTOR: 2}}

    def init_extra(self, dims):
        queues, length = dims.num_classes, self.queue_length
        if not self.classwise_queue:
            queues, length = 1, queues * length
        return {
            "queue": csqueue.create(queues, length, dims.image_shape),
            "rule": self.rule.init(dims),
        }

    def loss(self, nets, params, stats, extra, batch, key, step):
        sample_key, view_key, route_key, push_key = jax.random.split(key, 4)
        queue = extra["queue"]
        queued, ready = self._sample(queue, batch, sample_key, view_key)
        labelled = [batch.lab, queued]
        if self.individual_models:
            detector, batch = self._detector_pass(
                nets, params, stats, batch, labelled, ready
            )
            labelled = [batch.lab]
        groups, weak, strong, classifier_stats = base.forward(
            "classifier", nets, params, stats, labelled, batch, self.weak_forward
        )
        if not self.individual_models:
            detector = self._detector_losses(*groups, weak, strong, ready)
        new_stats = {"classifier": classifier_stats, **detector.stats}
        lab, weak, strong = groups[0].logits, weak.logits, strong.logits

        # Everything predicted from weak views is a constant for the gradient.
        labels, mask, rule_buffers = self.rule.select(  # q-hat, [max q > tau]
            weak["real"], extra["rule"], batch.indices
        )
        # Eq. 4
        loss_sup = jnp.mean(losses.cross_entropy(lab["real"], batch.labels))
        # Eq. 5 and 6: the pseudo-label always comes from the real head.
        synthetic = self._route(detector, batch, route_key, step)
        loss_real = losses.masked_mean(
            losses.cross_entropy(strong["real"], labels), mask & ~synthetic
        )
        loss_fake = jnp.float32(0.0)
        if self.fake_head:
            loss_fake = losses.masked_mean(
                losses.cross_entropy(strong["fake"], labels), mask & synthetic
            )
        # FreeMatch's fairness: of the real head, on the rows that it learns from.
        regulariser, reported = self.rule.regulariser(
            strong["real"], mask & ~synthetic, rule_buffers
        )
        # Eq. 7
        loss = (
            detector.loss
            + loss_sup
            + self.unsup_weight * (loss_real + self.fake_weight * loss_fake)
            + regulariser
        )
        _, confidence = losses.pseudo_label(weak["real"])
        queue = self._push(queue, push_key, batch, labels, confidence, detector.score)
        metrics = {
            "loss": loss,
            "loss_sup": loss_sup,
            "loss_unsup": loss_real,
            "loss_unsup_fake": loss_fake,
            "utilisation": jnp.mean(mask.astype(jnp.float32)),
            "routed_synthetic": jnp.mean(synthetic.astype(jnp.float32)),
            "queue_fill": csqueue.fill(queue),
            **detector.metrics,
            **reported,
        }
        return loss, (new_stats, {"queue": queue, "rule": rule_buffers}, metrics)

    @jax.named_scope("queue")
    def _sample(self, queue, batch, sample_key, view_key):
        """This device's B/D queue images, and 1.0 once the queue can give them.

        Until then the first images of the weak view hold the place, at weight 0.
        """
        local = batch.lab.shape[0]
        slots, ready = csqueue.SAMPLERS[self.queue_sample](
            queue, sample_key, local * parallel.num_devices()
        )
        images = csqueue.take(queue, slots)
        if self.queue_reaugment:
            images = on_device.weak_view(
                view_key, images, flip=self.flip, crop_pad=self.crop_pad
            )
        images = jnp.where(ready, parallel.local_rows(images), batch.weak[:local])
        return images, ready.astype(jnp.float32)

    def _detector_pass(self, nets, params, stats, batch, labelled, ready):
        """The detector's part with its own network, forward and backward; the batch
        that comes back is for the classifier, which waits for it."""

        def loss(detector_params):
            groups, weak, strong, new_stats = base.forward(
                DETECTOR,
                nets,
                {DETECTOR: detector_params},
                stats,
                labelled,
                batch,
                self.weak_forward,
            )
            part = self._detector_losses(*groups, weak, strong, ready)
            return part.loss, part._replace(stats={DETECTOR: new_stats})

        images = {"lab": batch.lab, "weak": batch.weak, "strong": batch.strong}
        value, part, images = backward_first.differentiated_first(
            loss, params[DETECTOR], images
        )
        return part._replace(loss=value), batch.replace(**images)

    def _detector_losses(self, lab, queued, weak, strong, ready):
        """Eq. 1 to 3 from the outputs for labelled, queued, weak and strong images."""
        lab, queued, weak, strong = (
            outputs.logits[DETECTOR] for outputs in (lab, queued, weak, strong)
        )
        origin, confidence = losses.pseudo_label(weak)  # q-hat', q'
        score = jax.nn.softmax(jax.lax.stop_gradient(weak))[:, 1]  # Eq. 1
        # Eq. 2: half of the rows are labelled images (real), half come from the queue.
        rows = lab.shape[0]
        is_real, is_synthetic = jnp.zeros(rows, jnp.int32), jnp.ones(rows, jnp.int32)
        sup = 0.5 * (
            jnp.mean(losses.cross_entropy(lab, is_real))
            + jnp.mean(losses.cross_entropy(queued, is_synthetic)) * ready
        )
        # Eq. 3
        mask = confidence >= self.detector_threshold
        unsup = losses.masked_mean(losses.cross_entropy(strong, origin), mask)
        metrics = {
            "detector_loss_sup": sup,
            "detector_loss_unsup": unsup,
            "detector_utilisation": jnp.mean(mask.astype(jnp.float32)),
            "detector_synthetic": jnp.mean(origin.astype(jnp.float32)),
        }
        loss = sup + self.detector_unsup_weight * unsup
        return _Detector(loss, origin, confidence, score, metrics, stats={})

    def _route(self, detector, batch, key, step):
        """Which unlabelled images go to the fake head, bool [U/D]."""
        if self.routing == "oracle":
            synthetic = batch.synthetic
        elif self.routing == "random":
            count = detector.origin.shape[0] * parallel.num_devices()
            coin = jax.random.bernoulli(key, self.synthetic_share, (count,))
            synthetic = parallel.local_rows(coin)
        else:
            sure = detector.confidence >= self.route_threshold
            synthetic = (detector.origin == 1) & sure
        return synthetic & (step >= self.route_warmup_steps)

    @jax.named_scope("queue")
    def _push(self, queue, key, batch, labels, confidence, score):
        """Updating strategy of section 4.3, after the losses: no second forward."""
        eligible = (confidence >= self.queue_min_confidence) & (
            score >= self.queue_min_score
        )
        if self.classwise_queue:
            classes, select, top = labels, self.queue_classes, self.queue_push
        else:  # Table 3's single queue, at the same number of images a step
            classes = jnp.zeros_like(labels)
            select, top = 1, self.queue_classes * self.queue_push
        return csqueue.push(
            queue,
            key,
            batch.weak,
            batch.indices,
            classes,
            jnp.where(eligible, score, -jnp.inf),
            select=select,
            top=top,
        )


def make(config: base.Config, dims: base.Dims) -> RSMatch:
    """From the whole config: `method`, `method.rsmatch` and the weak view's keys.

    P is at most K.
    """
    own = config.method.rsmatch
    elsewhere = {
        "rule": RULES[own.pseudo_label](config),
        "unsup_weight": config.method.unsup_weight,
        "weak_forward": config.train.weak_forward,
        "queue_classes": min(own.queue_classes, dims.num_classes),
        "synthetic_share": 0.0
        if config.data.real_only
        else config.data.synthetic_ratio,
        "flip": config.input.flip,
        "crop_pad": dims.crop_pad,
    }
    names = {field.name for field in dataclasses.fields(RSMatch)} - set(elsewhere)
    return RSMatch(**elsewhere, **{name: own[name] for name in names})
