"""RSMatch (Wang et al. 2024, arXiv 2405.16930, section 4): Equations 1 to 7.

A deepfake detector learns from labelled real images and from the CSQueue (csqueue.py),
which mines images that are probably synthetic from the unlabelled batches. The
classifier has a real and a fake head on one encoder; the detector decides which of them
an unlabelled image trains. Class 0 of the detector is real, 1 synthetic. The paper
trusts pseudo-labels by FixMatch's rule; any other can replace it.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rsmatch_jax import losses
from rsmatch_jax.augment import on_device
from rsmatch_jax.methods import (
    backward_first,
    base,
    csqueue,
    keys,
    rsmatch_checks,
    rules,
)
from rsmatch_jax.runtime import parallel

DETECTOR = "detector"
Origins = Float[Array, "unlabelled 2"]  # q' = softmax(C'(F'(u))): real, synthetic


@dataclasses.dataclass(frozen=True)
class RSMatch(base.Method):
    """configs/common.py describes the keys."""

    rule_key = "method.rsmatch.pseudo_label"
    memory_keys = {"queue": "method.rsmatch.queue_length"}
    progress = ("loss", "utilisation", "detector_utilisation", "routed_synthetic")

    rule: base.Rule  # that `pseudo_label` names
    synthetic_share: float  # probability of routing="random"
    crop_pad: int  # of the weak view of queue_reaugment
    unsup_weight: float = keys.key("method.unsup_weight")  # lambda
    weak_forward: str = keys.key("train.weak_forward")
    flip: bool = keys.key("input.flip")
    pseudo_label: str = keys.key(choices=tuple(rules.RULES))
    queue_length: int = keys.key(least=1)  # N_q
    queue_classes: int = keys.key(least=1)  # P
    queue_push: int = keys.key(least=1)  # Q
    queue_sample: str = keys.key(choices=tuple(csqueue.SAMPLERS))
    queue_min_confidence: float = keys.key(least=0, most=1)
    queue_min_score: float = keys.key(least=0, most=1)
    queue_reaugment: bool = keys.key()
    detector_threshold: float = keys.key(least=0, most=1)  # tau of Eq. 3
    detector_unsup_weight: float = keys.key(least=0)
    detector_learning_rate: float | None = keys.key(least=0)
    detector_weight_decay: float | None = keys.key(least=0)
    fake_weight: float = keys.key(least=0)
    route_threshold: float = keys.key(least=0, most=1)
    route_warmup_steps: int = keys.key(least=0)
    individual_models: bool = keys.key()
    classwise_queue: bool = keys.key()
    fake_head: bool = keys.key()
    routing: str = keys.key(choices=("detector", "oracle", "random"))

    @classmethod
    def make(cls, config, dims):
        data, options = config.data, config.method.rsmatch
        return keys.from_config(
            cls,
            "rsmatch",
            config,
            rule=rules.make(options.pseudo_label, config),
            synthetic_share=0.0 if data.real_only else data.synthetic_ratio,
            crop_pad=dims.crop_pad,
            queue_classes=min(options.queue_classes, dims.num_classes),  # P <= K
        )

    check = staticmethod(rsmatch_checks.check)
    check_data = staticmethod(rsmatch_checks.check_data)
    alarms = staticmethod(rsmatch_checks.alarms)

    @property
    def needs_truth(self):
        return self.routing == "oracle"

    def optimiser(self):
        options = {
            "learning_rate": self.detector_learning_rate,
            "weight_decay": self.detector_weight_decay,
        }
        return {DETECTOR: {k: v for k, v in options.items() if v is not None}}

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
        queue = csqueue.create(queues, length, dims.image_shape)
        return {"queue": queue, "rule": self.rule.init(dims)}

    def queue(self, extra):
        return extra["queue"]

    def loss(self, params, inputs):
        sample_key, view_key, route_key, push_key = jax.random.split(inputs.key, 4)
        queued, ready = self._sample(inputs, sample_key, view_key)
        labelled, new_stats = [inputs.batch.lab, queued], {}
        if self.individual_models:
            detector_loss, (origins, detector_metrics, new_stats), inputs = (
                self._detector_pass(params, inputs, labelled, ready)
            )
            labelled = [inputs.batch.lab]
        groups, weak, strong, new_stats["classifier"] = base.forward(
            "classifier", params, inputs, labelled, self.weak_forward
        )
        if not self.individual_models:
            detector_loss, origins, detector_metrics = self._detector_losses(
                *groups, weak, strong, ready
            )
        lab, weak, strong = groups[0].logits, weak.logits, strong.logits

        # q-hat and [max q > tau], from the weak views: constants for the gradient.
        labels, weights, rule_buffers = self.rule.select(
            base.rule_inputs(lab["real"], weak["real"], inputs), inputs.extra["rule"]
        )
        # Eq. 4
        loss_sup = jnp.mean(losses.cross_entropy(lab["real"], inputs.batch.labels))
        # Eq. 5: a row's weight goes to the head that the row is routed to.
        synthetic = self._route(origins, inputs, route_key)
        to_real = jnp.where(synthetic, 0.0, weights)
        to_fake = jnp.where(synthetic, weights, 0.0)
        loss_real = base.pseudo_label_loss(strong["real"], labels, to_real)
        # Eq. 6: the labels are still those of the real head.
        loss_fake = jnp.float32(0.0)
        if self.fake_head:
            loss_fake = base.pseudo_label_loss(strong["fake"], labels, to_fake)
        # FreeMatch's fairness: of the real head, on the rows that it learns from.
        regulariser, rule_metrics = self.rule.regulariser(
            strong["real"], to_real, rule_buffers, inputs.axis
        )
        # Eq. 7
        loss = (
            detector_loss
            + loss_sup
            + self.unsup_weight * (loss_real + self.fake_weight * loss_fake)
            + regulariser
        )
        queue = self._push(inputs, push_key, labels, weak["real"], origins)
        metrics = {
            "loss": loss,
            "loss_sup": loss_sup,
            "loss_unsup": loss_real,
            "loss_unsup_fake": loss_fake,
            "utilisation": jnp.mean(weights),
            "routed_synthetic": jnp.mean(synthetic.astype(jnp.float32)),
            "queue_fill": csqueue.fill(queue),
            **detector_metrics,
            **rule_metrics,
        }
        return loss, (new_stats, {"queue": queue, "rule": rule_buffers}, metrics)

    @jax.named_scope("queue")
    def _sample(self, inputs, sample_key, view_key):
        """Returns this device's B/D queue images, and 1.0 if the queue can give them.
        Before that, the first weak images take their place, at weight 0."""
        batch, axis = inputs.batch, inputs.axis
        queue, local = inputs.extra["queue"], batch.lab.shape[0]
        slots, ready = csqueue.SAMPLERS[self.queue_sample](
            queue, sample_key, local * parallel.num_devices(axis)
        )
        images = csqueue.take(queue, slots)
        if self.queue_reaugment:  # all devices make the views of all B images
            images = on_device.weak_view(
                view_key, images, flip=self.flip, crop_pad=self.crop_pad, axis=None
            )
        images = parallel.local_rows(images, axis)
        return jnp.where(ready, images, batch.weak[:local]), ready.astype(jnp.float32)

    def _detector_pass(self, params, inputs, labelled, ready):
        """Runs the detector's network, forward and backward: its loss, (origins,
        metrics, new stats), and the inputs for the classifier, which waits for it."""

        def loss(detector_params):
            params = {DETECTOR: detector_params}
            groups, weak, strong, new_stats = base.forward(
                DETECTOR, params, inputs, labelled, self.weak_forward
            )
            value, *others = self._detector_losses(*groups, weak, strong, ready)
            return value, (*others, {DETECTOR: new_stats})

        batch = inputs.batch
        images = {"lab": batch.lab, "weak": batch.weak, "strong": batch.strong}
        value, parts, images = backward_first.differentiated_first(
            loss, params[DETECTOR], images
        )
        return value, parts, dataclasses.replace(inputs, batch=batch.replace(**images))

    def _detector_losses(
        self, lab, queued, weak, strong, ready
    ) -> tuple[base.Loss, Origins, base.Metrics]:
        """Returns Eq. 2 + 3, q' of the weak views and metrics, from the outputs for the
        four groups of images."""
        lab, queued, weak, strong = (
            outputs.logits[DETECTOR] for outputs in (lab, queued, weak, strong)
        )
        # Eq. 2: half of the rows are labelled images (real), half come from the queue.
        rows = lab.shape[0]
        is_real, is_synthetic = jnp.zeros(rows, jnp.int32), jnp.ones(rows, jnp.int32)
        sup = 0.5 * (
            jnp.mean(losses.cross_entropy(lab, is_real))
            + jnp.mean(losses.cross_entropy(queued, is_synthetic)) * ready
        )
        # Eq. 3
        origin, confidence = losses.pseudo_label(weak)  # q-hat', max q'
        mask = confidence >= self.detector_threshold
        unsup = losses.masked_mean(losses.cross_entropy(strong, origin), mask)
        metrics = {
            "detector_loss_sup": sup,
            "detector_loss_unsup": unsup,
            "detector_utilisation": jnp.mean(mask.astype(jnp.float32)),
            "detector_synthetic": jnp.mean(origin.astype(jnp.float32)),
        }
        loss = sup + self.detector_unsup_weight * unsup
        return loss, losses.probabilities(weak), metrics

    def _route(self, origins: Origins, inputs, key) -> Bool[Array, " unlabelled"]:
        """Returns [q-hat' = 1]: which unlabelled images go to the fake head."""
        if self.routing == "oracle":
            synthetic = inputs.batch.synthetic
        elif self.routing == "random":
            count = origins.shape[0] * parallel.num_devices(inputs.axis)
            coin = jax.random.bernoulli(key, self.synthetic_share, (count,))
            synthetic = parallel.local_rows(coin, inputs.axis)
        else:
            sure = jnp.max(origins, axis=1) >= self.route_threshold
            synthetic = (jnp.argmax(origins, axis=1) == 1) & sure
        return synthetic & (inputs.step >= self.route_warmup_steps)

    @jax.named_scope("queue")
    def _push(self, inputs, key, labels, logits: base.Logits, origins: Origins):
        """Applies the updating strategy of section 4.3, without a second forward."""
        score = origins[:, 1]  # Eq. 1: p'_s
        _, confidence = losses.pseudo_label(logits)
        eligible = (confidence >= self.queue_min_confidence) & (
            score >= self.queue_min_score
        )
        classes = labels if labels.ndim == 1 else jnp.argmax(labels, 1).astype("int32")
        select, top = self.queue_classes, self.queue_push
        if not self.classwise_queue:  # Table 3's single queue, as many images a step
            classes = jnp.zeros_like(classes)
            select, top = 1, self.queue_classes * self.queue_push
        return csqueue.push(
            inputs.extra["queue"],
            key,
            inputs.batch.weak,
            inputs.batch.indices,
            classes,
            jnp.where(eligible, score, -jnp.inf),
            select=select,
            top=top,
            axis=inputs.axis,
        )
