"""SimMatch (Zheng et al. 2022): two views agree on classes and on similar images.

A bank keeps an embedding of every labelled image. An unlabelled image's similarities
to them smooth its pseudo-label, and those of the weak view are the target of the strong
view. As in USB (semilearn algorithms/simmatch/simmatch.py, hooks/dist_align.py) on its
CIFAR path: the live model is the teacher.
"""

import dataclasses
import zlib

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rsmatch_jax import losses
from rsmatch_jax.methods import alignment, base, keys
from rsmatch_jax.models.networks import Projector
from rsmatch_jax.runtime import parallel

PROJECTOR = "projector"
EPASS_PROJECTORS = 3
# Axis of the rows [P, B] written into the bank that gets unit length. "usb" repeats
# USB's slip: each of the P entries is normalised over the batch, so that embeddings are
# about sqrt(P / B) long and the effective temperature is lower than the key says.
BANK_NORMS = {"fixed": 0, "usb": 1}


@dataclasses.dataclass(frozen=True)
class SimMatch(base.Method):
    """configs/common.py describes the keys. The seed decides the bank before step 0."""

    threshold: float = keys.key("method.threshold")
    unsup_weight: float = keys.key("method.unsup_weight")
    weak_forward: str = keys.key("train.weak_forward")
    seed: int = keys.key("seed")
    temperature: float = keys.key(above=0)
    smoothing: float = keys.key(least=0, most=1)
    projection_size: int = keys.key(least=1)
    instance_weight: float = keys.key(least=0)
    da_length: int = keys.key(least=1)
    warmup_steps: int = keys.key(least=0)
    bank_decay: float = keys.key(least=0, most=1)
    bank_norm: str = keys.key(choices=tuple(BANK_NORMS))
    epass: bool = keys.key()
    hidden_width: int | None = None  # of the projectors, None = the encoder's features

    def as_saved(self, shapes):
        """Keeps the width of a run of an earlier version, which was projection_size."""
        for path, shape in shapes.items():
            if path.endswith(f"projectors/{PROJECTOR}_0/hidden/bias"):
                return dataclasses.replace(self, hidden_width=shape[0])
        return self

    def heads(self, num_classes):
        count = EPASS_PROJECTORS if self.epass else 1
        projector = Projector(self.projection_size, count, self.hidden_width)
        return {"classifier": {"real": num_classes, PROJECTOR: projector}}

    def init_extra(self, dims):
        key = jax.random.key(self.seed, impl="threefry2x32")  # as in step.py
        key = jax.random.fold_in(key, zlib.crc32(b"bank"))
        shape = (self.projection_size, dims.num_labeled)
        return {
            # A unit column per labelled image.
            "bank": _unit(jax.random.normal(key, shape, jnp.float32), axis=0),
            "bank_labels": jnp.zeros((dims.num_labeled,), jnp.int32),
            **alignment.queue(dims.num_classes, self.da_length),
        }

    def loss(self, params, inputs):
        extra, batch = inputs.extra, inputs.batch
        (lab,), weak, strong, new_stats = base.forward(
            "classifier", params, inputs, [batch.lab], self.weak_forward
        )
        groups = [out.projections[PROJECTOR] for out in (lab, weak, strong)]
        lab_embedding, weak_embedding, strong_embedding = base.split(
            _unit(jnp.concatenate(groups), axis=1), groups
        )
        bank, bank_labels = extra["bank"], extra["bank_labels"]  # of the last step

        # Weak views give constants: soft_cross_entropy stops the gradient.
        log_p, queue = alignment.by_queue(weak.logits["real"], extra, inputs.axis)
        p = jnp.exp(log_p)
        similarity = self._similarity(weak_embedding, bank)
        # Similarities times p of the bank images' classes, scaled to sum 1. In
        # logarithms, because p of a class may be too small for float32.
        teacher = jax.nn.softmax(similarity + log_p[:, bank_labels])
        aggregated = jnp.dot(
            jax.nn.softmax(similarity),
            jax.nn.one_hot(bank_labels, p.shape[1], dtype=jnp.float32),
            precision=jax.lax.Precision.HIGHEST,
        )
        smoothed = self.smoothing * p + (1 - self.smoothing) * aggregated
        started = inputs.step >= self.warmup_steps
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
        bank_update = self._remember(extra, batch, lab_embedding, inputs.axis)
        new_extra = {**bank_update, **queue}
        metrics = {
            "loss": loss,
            "loss_sup": loss_sup,
            "loss_unsup": loss_unsup,
            "loss_instance": loss_instance,
            "utilisation": jnp.mean(mask.astype(jnp.float32)),
        }
        return loss, ({"classifier": new_stats}, new_extra, metrics)

    def _similarity(
        self, embedding: Float[Array, "rows size"], bank: Float[Array, "size labelled"]
    ) -> Float[Array, "rows labelled"]:
        """Returns logits over the bank's images, at full precision, because the
        temperature would multiply TF32's error by ten."""
        similarity = jnp.dot(embedding, bank, precision=jax.lax.Precision.HIGHEST)
        return similarity / self.temperature

    def _remember(self, extra, batch, embedding, axis):
        """Returns the bank after the labelled images of the global batch; if an image
        is in it twice, its last row counts."""
        embedding, labels, indices = (
            parallel.gather_rows(x, axis)
            for x in (embedding, batch.labels, batch.lab_indices)
        )
        bank, bank_labels = extra["bank"], extra["bank_labels"]
        new = self.bank_decay * bank[:, indices] + (1 - self.bank_decay) * embedding.T
        new = _unit(new, axis=BANK_NORMS[self.bank_norm])
        slot = base.written_once(indices, bank_labels.shape[0])
        return {
            "bank": bank.at[:, slot].set(new, mode="drop"),
            "bank_labels": bank_labels.at[slot].set(labels, mode="drop"),
        }


def _unit(x: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
    """Divides x by its Euclidean norm along `axis`; zeros stay zeros."""
    square = jnp.sum(x * x, axis=axis, keepdims=True)
    safe = jnp.where(square > jnp.finfo(x.dtype).tiny, square, 1.0)
    return x * jax.lax.rsqrt(safe)
