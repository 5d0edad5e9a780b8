"""CSQueue (section 4.3): class-wise queues of images that are probably synthetic.

A ring buffer on the device: K first-in first-out queues of N_q slots hold weakly
augmented images as uint8, before normalisation (lossless and a quarter of float32). All
shapes are static: rows that do not count are ranked with -inf and written out of range,
where `mode="drop"` discards them. With the state donated, a push writes P*Q slots in
place, for any K.
"""

import dataclasses
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from rsmatch_jax.runtime import parallel
from rsmatch_jax.state import CSQueue, ScoredQueue

Slots = tuple[Int[Array, " batch"], Bool[Array, ""]]
Queue = TypeVar("Queue", bound=CSQueue)


def create(num_queues: int, length: int, image_shape: tuple[int, int, int]) -> CSQueue:
    """Returns an empty queue with K = num_queues and N_q = length."""
    return CSQueue(
        images=jnp.zeros((num_queues, length, *image_shape), jnp.uint8),
        indices=jnp.full((num_queues, length), -1, jnp.int32),
        head=jnp.zeros((num_queues,), jnp.int32),
        count=jnp.zeros((num_queues,), jnp.int32),
    )


def with_scores(queue: CSQueue) -> ScoredQueue:
    """Returns an empty queue that keeps scores."""
    scores = jnp.zeros(queue.indices.shape, jnp.float32)
    return ScoredQueue(**vars(queue), scores=scores)


def push(
    queue: Queue,
    key: jax.Array,
    images: UInt8[Array, "unlabelled height width channels"],
    indices: Int[Array, " unlabelled"],
    classes: Int[Array, " unlabelled"],
    scores: Float[Array, " unlabelled"],
    *,
    select: int,
    top: int,
    axis: str | None = parallel.AXIS,
) -> Queue:
    """Updating strategy: pushes the top-Q rows of a class into each of P random queues.

    P = select, Q = top. images, indices, classes (the queue of a row) and scores (p'_s;
    -inf = not eligible) are this device's rows; queue and key are equal on all devices.
    Ranks are of the global batch, so the result does not depend on the number of
    devices; on equal scores the earlier row wins. A `ScoredQueue` keeps the scores.
    axis: the mapped axis, None = one device.
    """
    num_queues, length = queue.indices.shape
    queues = draw_queues(key, num_queues, select)  # P
    local_top = min(top, scores.shape[0])
    ranked = jnp.where(classes[None, :] == queues[:, None], scores[None, :], -jnp.inf)
    score, row = jax.lax.top_k(ranked, local_top)  # [P, min(Q, U/D)]
    index, image = indices[row], images[row]
    if parallel.num_devices(axis) > 1:
        position = parallel.global_positions(scores.shape[0], axis)[row]
        candidates = (score, position, index, image)
        score, index, image = _best_of_all_devices(candidates, top, axis)

    pushed = jnp.isfinite(score)  # a prefix of each row, as scores descend
    slot = (queue.head[queues][:, None] + jnp.arange(score.shape[1])[None, :]) % length
    slot = jnp.where(pushed, slot, length)  # out of range: dropped
    added = jnp.sum(pushed, axis=1, dtype=jnp.int32)

    def written(old, new):
        return old.at[queues[:, None], slot].set(new, mode="drop")

    kept = {}
    if isinstance(queue, ScoredQueue):
        kept["scores"] = written(queue.scores, score)
    return dataclasses.replace(
        queue,
        images=written(queue.images, image),
        indices=written(queue.indices, index),
        head=queue.head.at[queues].set((queue.head[queues] + added) % length),
        count=queue.count.at[queues].set(
            jnp.minimum(queue.count[queues] + added, length)
        ),
        **kept,
    )


def draw_queues(key: jax.Array, num_queues: int, select: int) -> Int[Array, " select"]:
    """Draws P different queues of K, uniformly; returns all of them if P = K."""
    if select == num_queues:
        return jax.lax.iota("int32", num_queues)
    # The largest of K random numbers. A permutation would sort all of them, which took
    # twice as long as the other operations of a push at K = 1000.
    return jax.lax.top_k(jax.random.uniform(key, (num_queues,)), select)[1]


def sample_distinct(queue: CSQueue, key: jax.Array, batch: int) -> Slots:
    """Draws B different filled slots, uniformly: (slots, flat over [K * N_q]; ready, if
    the queue holds at least B images). The slots mean nothing if it is not ready."""
    # A queue fills from slot 0.
    filled = jnp.arange(queue.indices.shape[1])[None, :] < queue.count[:, None]
    random = jax.random.uniform(key, (queue.capacity,))
    slots = jax.lax.top_k(jnp.where(filled.reshape(-1), random, -1.0), batch)[1]
    return slots, jnp.sum(queue.count) >= batch


def sample_uniform(queue: CSQueue, key: jax.Array, batch: int) -> Slots:
    """As `sample_distinct` with replacement; ready from the first image on."""
    ends = jnp.cumsum(queue.count)
    draw = jax.random.randint(key, (batch,), 0, jnp.maximum(ends[-1], 1))
    k = jnp.searchsorted(ends, draw, side="right").astype(jnp.int32)
    within = draw - (ends[k] - queue.count[k])  # slots 0..count-1 are the filled ones
    return k * queue.indices.shape[1] + within, ends[-1] > 0


def sample_class_balanced(queue: CSQueue, key: jax.Array, batch: int) -> Slots:
    """As `sample_uniform`, but draws first a non-empty queue, then one of its slots."""
    class_key, slot_key = jax.random.split(key)
    present = (queue.count > 0).astype(jnp.float32)
    k = jax.random.categorical(class_key, jnp.log(present), shape=(batch,))
    within = jax.random.randint(slot_key, (batch,), 0, jnp.maximum(queue.count[k], 1))
    return k * queue.indices.shape[1] + within, jnp.any(queue.count > 0)


SAMPLERS = {
    "distinct": sample_distinct,
    "uniform": sample_uniform,
    "class_balanced": sample_class_balanced,
}


def take(
    queue: CSQueue, slots: Int[Array, " batch"]
) -> UInt8[Array, "batch height width channels"]:
    """Returns the images of flat slots."""
    return queue.images.reshape(-1, *queue.images.shape[2:])[slots]


def ready_or_weak(
    images: UInt8[Array, "batch height width channels"],
    ready: Bool[Array, ""],
    weak: UInt8[Array, "unlabelled height width channels"],
) -> UInt8[Array, "batch height width channels"]:
    """Returns the images once the queue can give them, until then as many weak ones,
    over again where a step has fewer."""
    rows = len(images)
    return jnp.where(
        ready, images, jnp.tile(weak, (-(-rows // len(weak)), 1, 1, 1))[:rows]
    )


def fill(queue: CSQueue) -> Float[Array, ""]:
    """Returns the share of slots that hold an image."""
    return jnp.sum(queue.count).astype(jnp.float32) / queue.capacity


def _best_of_all_devices(candidates, top, axis):
    """Merges all devices' (score, position, ...) [P, q, ...] to the best `top`, without
    position. Only these rows travel, never the batch. Two sort keys, because a plain
    top-k over gathered rows would break ties by device."""
    score, position, *others = (
        jax.lax.all_gather(x, axis, axis=1, tiled=True) for x in candidates
    )
    best = jnp.lexsort((position, -score), axis=1)[:, :top]
    queue = jnp.arange(best.shape[0])[:, None]
    return [x[queue, best] for x in (score, *others)]
