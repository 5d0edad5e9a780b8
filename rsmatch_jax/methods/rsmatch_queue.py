"""How RSMatch fills its CSQueue and draws from it (section 4.3).

options are RSMatch's keys, `method.rsmatch.queue_*` and `classwise_queue`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from rsmatch_jax import losses
from rsmatch_jax.augment import on_device
from rsmatch_jax.methods import base, csqueue
from rsmatch_jax.runtime import parallel
from rsmatch_jax.state import CSQueue


def create(options: Any, dims: base.Dims) -> CSQueue:
    """Returns the empty queues, one a class, or a single one of the same size."""
    queues, length = dims.num_classes, options.queue_length
    if not options.classwise_queue:
        queues, length = 1, queues * length
    return csqueue.create(queues, length, dims.image_shape)


@jax.named_scope("queue")
def draw(
    options: Any, inputs: base.StepInputs, sample_key: jax.Array, view_key: jax.Array
) -> tuple[UInt8[Array, "labelled height width 3"], Float[Array, ""]]:
    """Returns this device's B/D queue images, and 1.0 if the queue can give them.
    Before that, the first weak images take their place, at weight 0."""
    batch, axis = inputs.batch, inputs.axis
    queue, local = inputs.extra["queue"], batch.lab.shape[0]
    slots, ready = csqueue.SAMPLERS[options.queue_sample](
        queue, sample_key, local * parallel.num_devices(axis)
    )
    images = csqueue.take(queue, slots)
    if options.queue_reaugment:  # all devices make the views of all B images
        images = on_device.weak_view(
            view_key, images, flip=options.flip, crop_pad=options.crop_pad, axis=None
        )
    images = parallel.local_rows(images, axis)
    images = csqueue.ready_or_weak(images, ready, batch.weak)
    return images, ready.astype(jnp.float32)


@jax.named_scope("queue")
def push(
    options: Any,
    inputs: base.StepInputs,
    key: jax.Array,
    labels: base.Labels,
    logits: base.Logits,
    origins: Float[Array, "unlabelled 2"],
) -> CSQueue:
    """Applies the updating strategy, without a second forward. labels: pseudo-labels;
    logits and origins (q') of the weak views."""
    score = origins[:, 1]  # Eq. 1: p'_s
    _, confidence = losses.pseudo_label(logits)
    eligible = (confidence >= options.queue_min_confidence) & (
        score >= options.queue_min_score
    )
    classes = labels if labels.ndim == 1 else jnp.argmax(labels, 1).astype("int32")
    select, top = options.queue_classes, options.queue_push
    if not options.classwise_queue:  # Table 3's single queue, as many images a step
        classes = jnp.zeros_like(classes)
        select, top = 1, options.queue_classes * options.queue_push
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
