"""SimMatch (Zheng et al. 2022): two views agree on classes and on similar images.

A bank keeps an embedding of every labelled image. An unlabelled image's similarities
to them are a second prediction: they smooth the pseudo-label, and the weak view's
teach the strong view's. As in USB (semilearn algorithms/simmatch/simmatch.py,
hooks/dist_align.py) on its CIFAR path: the live model is the teacher.
"""

import dataclasses
import zlib
from typing import ClassVar

import jax
import jax.numpy as jnp

from rsmatch_jax import losses
from rsmatch_jax.methods import base
from rsmatch_jax.models.networks import Projector
from rsmatch_jax.runtime import parallel

PROJECTOR = "projector"
EPASS_PROJECTORS = 3
ALIGNMENT_EPSILON = 1e-6
# Axis of the rows [P, B] written into the bank that gets unit length. "usb" repeats
# its slip: each of the P entries is normalised over the batch, so that embeddings are
# about sqrt(P / B) long and the temperature is lower than it says.
BANK_NORMS = {"fixed": 0, "usb": 1}


@dataclasses.dataclass(frozen=True)
class SimMatch:
    """Fields are the keys of `method` and `method.simmatch` (configs/common.py), and
    seed, which decides the bank before step 0."""

    uses_unlabeled: ClassVar[bool] = True

    threshold: float
    unsup_weight: float
    weak_forward: str
    temperature: float
    smoothing: float
    projection_size: int
    instance_weight: float
    da_length: int
    warmup_steps: int
    bank_decay: float
    bank_norm: str
    epass: bool
    seed: int

    def heads(self, num_classes):
        count = EPASS_PROJECTORS if self.epass else 1
        projector = Projector(self.projection_size, count)
        return {"classifier": {"real": num_classes, PROJECTOR: projector}}

    def init_extra(self, dims):
        """bank: float32 [P, n_lb], a unit column per labelled image; bank_labels: int32
        [n_lb]; da_queue: float32 [da_length, K], mean predictions of the last steps;
        da_pointer: int32 [], its row to be written next."""
        key = jax.random.fold_in(jax.random.key(self.seed), zlib.crc32(b"bank"))
        shape = (self.projection_size, dims.num_labeled)
        return {
            "bank": _unit(jax.random.normal(key, shape, jnp.float32), axis=0),
            "bank_labels": jnp.zeros((dims.num_labeled,), jnp.int32),
            "da_queue": jnp.zeros((self.da_length, dims.num_classes), jnp.float32),
            "da_pointer": jnp.zeros((), jnp.int32),
        }

    def loss(self, nets, params, stats, extra, batch, key, step):
        del key
        (lab,), weak, strong, new_stats = base.forward(
            "classifier", nets, params, stats, [batch.lab], batch, self.weak_forward
        )
        lab_embedding, weak_embedding, strong_embedding = (
            _unit(out.projections[PROJECTOR], axis=1) for out in (lab, weak, strong)
        )
        bank, bank_labels = extra["bank"], extra["bank_labels"]  # of the last step

        # What weak views predict is a constant: soft_cross_entropy stops the gradient.
        log_p, alignment = self._align(extra, weak.logits["real"])
        p = jnp.exp(log_p)
        similarity = self._similarity(weak_embedding, bank)
        # Similarities times p of the bank images' classes, to sum one; in logarithms,
        # as no class of the bank need have a p that float32 can hold.
        teacher = jax.nn.softmax(similarity + log_p[:, bank_labels])
        aggregated = jnp.dot(
            jax.nn.softmax(similarity),
            jax.nn.one_hot(bank_labels, p.shape[1], dtype=jnp.float32),
            precision=jax.lax.Precision.HIGHEST,
        )
        smoothed = self.smoothing * p + (1 - self.smoothing) * aggregated
        started = step >= self.warmup_steps
        targets = jnp.where(started, smoothed, p)
        mask = jnp.max(targets, axis=1) >= self.threshold

        loss_sup = jnp.mean(losses.cross_entropy(lab.logits["real"], batch.labels))
        loss_unsup = losses.masked_mean(
            losses.soft_cross_entropy(strong.logits["real"], targets), mask
        )
        loss_instance = started.astype(jnp.float32) * jnp.mean(
            losses.soft_cross_entropy(self._similarity(strong_embedding, bank), teacher)
        )
        loss = (
            loss_sup
            + self.unsup_weight * loss_unsup
            + self.instance_weight * loss_instance
        )
        new_extra = {**self._remember(extra, batch, lab_embedding), **alignment}
        metrics = {
            "loss": loss,
            "loss_sup": loss_sup,
            "loss_unsup": loss_unsup,
            "loss_instance": loss_instance,
            "utilisation": jnp.mean(mask.astype(jnp.float32)),
        }
        return loss, ({"classifier": new_stats}, new_extra, metrics)

    def _similarity(self, embedding, bank):
        """Logits over the bank's images: [N, P] and [P, n_lb] -> [N, n_lb].

        At full precision: the temperature would multiply TF32's error by ten.
        """
        similarity = jnp.dot(embedding, bank, precision=jax.lax.Precision.HIGHEST)
        return similarity / self.temperature

    def _align(self, extra, logits):
        """Distribution alignment towards equal classes, after the queue's update.

        Returns (log of the aligned prediction [U/D, K], the new queue and pointer). The
        mean is over all rows of the queue: those still zero scale it, which cancels.
        """
        log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
        mean = parallel.mean(jnp.mean(jnp.exp(log_p), axis=0))  # of the global batch
        queue = extra["da_queue"].at[extra["da_pointer"]].set(mean)
        ratio = (1 / mean.shape[0] + ALIGNMENT_EPSILON) / (
            jnp.mean(queue, axis=0) + ALIGNMENT_EPSILON
        )
        pointer = (extra["da_pointer"] + 1) % self.da_length
        log_p = jax.nn.log_softmax(log_p + jnp.log(ratio)[None, :])
        return log_p, {"da_queue": queue, "da_pointer": pointer}

    def _remember(self, extra, batch, embedding):
        """The bank after the labelled images of the global batch, on every device.

        Where an image is in the batch twice, its last row counts.
        """
        embedding, labels, indices = (
            parallel.gather_rows(x)
            for x in (embedding, batch.labels, batch.lab_indices)
        )
        bank, bank_labels = extra["bank"], extra["bank_labels"]
        new = self.bank_decay * bank[:, indices] + (1 - self.bank_decay) * embedding.T
        new = _unit(new, axis=BANK_NORMS[self.bank_norm])
        rows = jnp.arange(indices.shape[0])
        again = (indices[:, None] == indices[None, :]) & (rows[:, None] < rows[None, :])
        # Out of range: dropped. A scatter to one column twice has no defined winner.
        slot = jnp.where(jnp.any(again, axis=1), bank_labels.shape[0], indices)
        return {
            "bank": bank.at[:, slot].set(new, mode="drop"),
            "bank_labels": bank_labels.at[slot].set(labels, mode="drop"),
        }


def _unit(x: jax.Array, axis: int) -> jax.Array:
    """x divided by its Euclidean norm along `axis`; zeros stay zeros."""
    square = jnp.sum(x * x, axis=axis, keepdims=True)
    safe = jnp.where(square > jnp.finfo(x.dtype).tiny, square, 1.0)
    return x * jax.lax.rsqrt(safe)


def make(config: base.Config, dims: base.Dims) -> SimMatch:
    """From the whole config: `method`, `method.simmatch` and the seed."""
    del dims
    elsewhere = {
        "threshold": config.method.threshold,
        "unsup_weight": config.method.unsup_weight,
        "weak_forward": config.train.weak_forward,
        "seed": config.seed,
    }
    return SimMatch(**elsewhere, **config.method.simmatch)
