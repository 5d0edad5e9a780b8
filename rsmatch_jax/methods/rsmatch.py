"""RSMatch (Wang et al. 2024, arXiv 2405.16930, section 4): Equations 4 to 7.

A deepfake detector learns from labelled real images and from the CSQueue
(rsmatch_queue.py with Eq. 1, csqueue.py), which mines images that are probably
synthetic from the unlabelled batches: Equations 2 and 3, and what may replace Eq. 2,
are in detector_losses.py. The classifier has a real and a fake head on one encoder; the
detector, or another judge in routing.py, decides which of them an unlabelled image
trains. Class 0 of the detector is real, 1 synthetic. The paper trusts pseudo-labels by
FixMatch's rule; any other can replace it.
"""

import dataclasses

import jax
import jax.numpy as jnp

from rsmatch_jax import losses
from rsmatch_jax.augment import on_device
from rsmatch_jax.methods import (
    backward_first,
    base,
    csqueue,
    detector_losses,
    keys,
    routing,
    rsmatch_checks,
    rsmatch_queue,
    rsmatch_routes,
    rules,
    training_value,
)
from rsmatch_jax.methods.rsmatch_routes import PRIOR, STATISTICS, Origins, route
from rsmatch_jax.state import PyTree

DETECTOR = "detector"


@dataclasses.dataclass(frozen=True)
class RSMatch(base.Method):
    """configs/common.py describes the keys."""

    rule_key = "method.rsmatch.pseudo_label"
    screens = True
    splits = True
    memory_keys = {"queue": "method.rsmatch.queue_length"}
    progress = ("loss", "utilisation", "detector_utilisation", "routed_synthetic")

    rule: base.Rule  # that `pseudo_label` names
    synthetic_share: float  # probability of routing="random"
    crop_pad: int  # of the weak view of queue_reaugment
    unsup_weight: float = keys.key("method.unsup_weight")  # lambda
    weak_forward: str = keys.key("train.weak_forward")
    split_bn: bool = keys.key("model.split_bn")
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
    detector_turns: bool = keys.key()
    fake_weight: float = keys.key(least=0)
    synthetic_weight: str = keys.key(choices=training_value.CHOICES)
    route_threshold: float = keys.key(least=0, most=1)
    route_warmup_steps: int = keys.key(least=0)
    individual_models: bool = keys.key()
    classwise_queue: bool = keys.key()
    fake_head: bool = keys.key()
    prior: str = keys.key(choices=routing.PRIORS)
    routing: str = keys.key(choices=routing.CHOICES)  # hides the module below
    detector_loss: str = keys.key(choices=detector_losses.CHOICES)
    synthetic_prior: float | None = keys.key(above=0, below=1)  # None = estimated

    @classmethod
    def make(cls, config, dims):
        options, share = config.method.rsmatch, keys.synthetic_share(config)
        prior = options.synthetic_prior
        if prior is None and config.train.real_rows is not None:
            prior = share  # of every step, known
        return keys.from_config(
            cls,
            "rsmatch",
            config,
            rule=rules.make(options.pseudo_label, config),
            synthetic_share=share,
            synthetic_prior=prior,
            crop_pad=dims.crop_pad,
            queue_classes=min(options.queue_classes, dims.num_classes),  # P <= K
        )

    check = staticmethod(rsmatch_checks.check)
    idle = staticmethod(rsmatch_checks.idle)
    check_data = staticmethod(rsmatch_checks.check_data)
    alarms = staticmethod(rsmatch_checks.alarms)

    @property
    def needs_truth(self):
        return self.routing == "oracle"

    @property
    def reads_images(self):
        return "statistics" in (self.routing, self.prior)

    @property
    def of_detector(self) -> detector_losses.DetectorLoss:
        """The detector's loss."""
        return detector_losses.DetectorLoss(
            self.detector_loss,
            self.detector_threshold,
            self.detector_unsup_weight,
            self.synthetic_prior,
        )

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
        extra: PyTree = {
            "rule": self.rule.init(dims),
            **self.of_detector.buffers(),
        }
        if self.of_detector.has_queue:
            extra["queue"] = rsmatch_queue.create(self, dims)
        if self.routing == "statistics":
            extra[STATISTICS] = jnp.zeros((dims.num_unlabeled,), bool)
        if self.prior == "statistics":
            extra[PRIOR] = jnp.zeros((dims.num_unlabeled,), jnp.float32)
        return extra

    def prepared(self, images):
        made = routing.by_statistics(images)
        buffers = {STATISTICS: made.synthetic, PRIOR: made.logit}
        wanted = {STATISTICS: self.routing, PRIOR: self.prior}
        return {k: v for k, v in buffers.items() if wanted[k] == "statistics"}

    def after_evaluation(self, scores):
        return self.of_detector.after_evaluation(scores)

    def routed_synthetic(self, state, at, scores, truth):
        return rsmatch_routes.in_evaluation(self, state, at, scores, truth)

    def queue(self, extra):
        return extra.get("queue")

    def loss(self, params, inputs):
        sample_key, view_key, route_key, push_key = jax.random.split(inputs.key, 4)
        new_stats, synthetic = {}, None
        labelled, ready = self._examples(inputs, sample_key, view_key)
        if self.individual_models:
            detector_loss, (origins, detector_metrics, new_stats), inputs = (
                self._detector_pass(params, inputs, labelled, ready)
            )
            labelled = [inputs.batch.lab]
            if self.split_bn:  # rsmatch_checks refuses entropy then
                synthetic = route(self, origins, None, inputs, route_key)
        groups, weak, strong, new_stats["classifier"] = base.forward(
            "classifier", params, inputs, labelled, self.weak_forward, synthetic
        )
        if not self.individual_models:
            detector_loss, origins, detector_metrics = self._detector_losses(
                groups, weak, strong, ready, inputs
            )
        lab, weak, strong = groups[0].logits, weak.logits, strong.logits

        # q-hat and [max q > tau], from the weak views: constants for the gradient.
        labels, weights, rule_buffers = self.rule.select(
            base.rule_inputs(lab["real"], weak["real"], inputs), inputs.extra["rule"]
        )
        # Eq. 4
        loss_sup = jnp.mean(losses.cross_entropy(lab["real"], inputs.batch.labels))
        # Eq. 5: a row's weight goes to the head that the row is routed to.
        if synthetic is None:
            synthetic = route(self, origins, weak["real"], inputs, route_key)
        to_real = jnp.where(synthetic, 0.0, weights)
        to_fake = jnp.where(synthetic, weights, 0.0)
        loss_real = base.pseudo_label_loss(strong["real"], labels, to_real)
        loss_fake = self._fake_loss(labels, to_fake, weak["real"], strong)
        # FreeMatch's fairness: of the real head, on the rows that it learns from.
        fairness, rule_metrics = self.rule.regulariser(
            strong["real"], to_real, rule_buffers, inputs.axis
        )
        # Eq. 7
        loss = (
            detector_loss
            + loss_sup
            + self.unsup_weight * (loss_real + self.fake_weight * loss_fake)
            + fairness
        )
        pushed, filled = self._push(inputs, push_key, labels, weak["real"], origins)
        metrics = {
            "loss": loss,
            "loss_sup": loss_sup,
            "loss_unsup": loss_real,
            "loss_unsup_fake": loss_fake,
            "utilisation": jnp.mean(weights),
            "routed_synthetic": jnp.mean(synthetic.astype(jnp.float32)),
            **filled,
            **detector_metrics,
            **rule_metrics,
        }
        new_extra = {**inputs.extra, **pushed, "rule": rule_buffers}
        return loss, (new_stats, new_extra, metrics)

    def _examples(self, inputs, sample_key, view_key):
        """Returns the detector's real and, with a queue, synthetic images, and whether
        the queue could give them."""
        images, ready = [inputs.batch.lab], None
        if self.of_detector.has_queue:
            queued, ready = rsmatch_queue.draw(self, inputs, sample_key, view_key)
            images.append(queued)
        if self.detector_turns:
            turn_keys = jax.random.split(jax.random.fold_in(view_key, 1), len(images))
            turn = on_device.turned
            images = [
                turn(k, x, inputs.axis) for k, x in zip(turn_keys, images, strict=True)
            ]
        return images, ready

    def _fake_loss(self, labels, weights, weak, strong) -> base.Loss:
        """Eq. 6: the labels are still those of the real head."""
        if not self.fake_head:
            return jnp.float32(0.0)
        weights *= training_value.weights(
            self.synthetic_weight, labels, weak, strong["real"]
        )
        return base.pseudo_label_loss(strong["fake"], labels, weights)

    def _push(self, inputs, key, labels, logits, origins):
        """Returns the queue's buffer and metrics after the step, none without one."""
        if not self.of_detector.has_queue:
            return {}, {}
        queue = rsmatch_queue.push(self, inputs, key, labels, logits, origins)
        return {"queue": queue}, {"queue_fill": csqueue.fill(queue)}

    def _detector_pass(self, params, inputs, labelled, ready):
        """Runs the detector's network, forward and backward: its loss, (origins,
        metrics, new stats), and the inputs for the classifier, which waits for it."""

        def loss(detector_params):
            params = {DETECTOR: detector_params}
            groups, weak, strong, new_stats = base.forward(
                DETECTOR, params, inputs, labelled, self.weak_forward
            )
            value, *others = self._detector_losses(groups, weak, strong, ready, inputs)
            return value, (*others, {DETECTOR: new_stats})

        batch = inputs.batch
        images = {"lab": batch.lab, "weak": batch.weak, "strong": batch.strong}
        value, parts, images = backward_first.differentiated_first(
            loss, params[DETECTOR], images
        )
        return value, parts, dataclasses.replace(inputs, batch=batch.replace(**images))

    def _detector_losses(
        self, groups, weak, strong, ready, inputs
    ) -> tuple[base.Loss, Origins, base.Metrics]:
        """Returns the detector's loss, q' of the weak views and metrics, of outputs."""
        outputs = (*groups, weak, strong)
        *supervised, weak, strong = (x.logits[DETECTOR] for x in outputs)
        loss, metrics = self.of_detector.total(
            supervised, weak, strong, ready, inputs.extra, inputs.axis
        )
        return loss, self._origins(weak, inputs), metrics

    def _origins(self, logits, inputs) -> Origins:
        """Returns q' of the detector's logits of weak views, joined to the prior's."""
        origins = losses.probabilities(logits)
        at = inputs.batch.indices
        return rsmatch_routes.with_prior(self, origins, inputs.extra, at)

    def screen(self, params, inputs):
        """Judges as `routing` does, by truth, by statistics or by the detector with its
        prior: in training mode, as in the step, but without learning."""
        batch, extra = inputs.batch, inputs.extra
        if self.routing == "oracle":
            return batch.synthetic.astype(jnp.float32)
        if self.routing == "statistics":
            score = extra[PRIOR if PRIOR in extra else STATISTICS]
            return score[batch.indices].astype(jnp.float32)
        outputs, _ = inputs.nets[DETECTOR].apply(
            params[DETECTOR], inputs.stats[DETECTOR], batch.weak, True
        )
        return self._origins(outputs.logits[DETECTOR], inputs)[:, 1]
