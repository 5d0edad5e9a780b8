"""CSQueue (section 4.3): class-wise first-in first-out queues of likely synthetic
images, as one fixed-shape ring buffer on the device.

K queues of N_q slots hold weakly augmented images as uint8, before normalisation
(lossless and a quarter of float32). Everything has a static shape: rows that do not
count are ranked with -inf and written out of range, where `mode="drop"` discards them.
With the state donated, a push writes P*Q slots in place, whatever K is.
"""

import flax.struct
import jax
import jax.numpy as jnp

from rsmatch_jax.runtime import parallel


@flax.struct.dataclass
class CSQueue:
    """images: uint8 [K, N_q, S, S, C]; indices: int32 [K, N_q], the images' positions
    in the unlabelled set, -1 in an empty slot; head: int32 [K], the slot to be written
    next; count: int32 [K], filled slots."""

    images: jax.Array
    indices: jax.Array
    head: jax.Array
    count: jax.Array

    @property
    def capacity(self) -> int:
        return self.indices.size


def create(num_queues: int, length: int, image_shape: tuple[int, int, int]) -> CSQueue:
    """An empty queue: K = num_queues, N_q = length."""
    return CSQueue(
        images=jnp.zeros((num_queues, length, *image_shape), jnp.uint8),
        indices=jnp.full((num_queues, length), -1, jnp.int32),
        head=jnp.zeros((num_queues,), jnp.int32),
        count=jnp.zeros((num_queues,), jnp.int32),
    )


def push(
    queue: CSQueue,
    key: jax.Array,
    images: jax.Array,
    indices: jax.Array,
    classes: jax.Array,
    scores: jax.Array,
    *,
    select: int,
    top: int,
) -> CSQueue:
    """Updating strategy: into each of P random queues, the top-Q of its class.

    images: uint8 [U/D, S, S, C], indices: int32 [U/D], classes: int32 [U/D] (which
    queue a row belongs to), scores: float32 [U/D] (p'_s, Eq. 1; -inf = not eligible):
    this device's rows. key: equal on all devices; it draws the P = select queues
    without replacement. top = Q. The candidates are ranked over the global batch, so
    the result depends neither on the number of devices nor on which one asks; on equal
    scores the earlier row of the batch wins.
    """
    num_queues, length = queue.indices.shape
    queues = draw_queues(key, num_queues, select)  # P
    local_top = min(top, scores.shape[0])
    ranked = jnp.where(classes[None, :] == queues[:, None], scores[None, :], -jnp.inf)
    score, row = jax.lax.top_k(ranked, local_top)  # [P, min(Q, U/D)]
    index, image = indices[row], images[row]
    if parallel.num_devices() > 1:
        position = parallel.global_positions(scores.shape[0])[row]
        score, index, image = _best_of_all_devices(score, position, index, image, top)

    pushed = jnp.isfinite(score)  # a prefix of each row, as scores descend
    slot = (queue.head[queues][:, None] + jnp.arange(score.shape[1])[None, :]) % length
    slot = jnp.where(pushed, slot, length)  # out of range: dropped
    added = jnp.sum(pushed, axis=1, dtype=jnp.int32)
    return CSQueue(
        images=queue.images.at[queues[:, None], slot].set(image, mode="drop"),
        indices=queue.indices.at[queues[:, None], slot].set(index, mode="drop"),
        head=queue.head.at[queues].set((queue.head[queues] + added) % length),
        count=queue.count.at[queues].set(
            jnp.minimum(queue.count[queues] + added, length)
        ),
    )


def draw_queues(key: jax.Array, num_queues: int, select: int) -> jax.Array:
    """P different queues of K, uniformly: int32 [P]. All of them where P = K."""
    if select == num_queues:
        return jax.lax.iota("int32", num_queues)
    # The largest of K random numbers: a permutation would sort all of them, which at
    # K = 1000 took twice as long as the rest of a push.
    return jax.lax.top_k(jax.random.uniform(key, (num_queues,)), select)[1]


def sample_distinct(
    queue: CSQueue, key: jax.Array, batch: int
) -> tuple[jax.Array, jax.Array]:
    """B different filled slots, uniformly.

    Returns (slots int32 [B], flat over [K * N_q]; ready bool scalar: the queue holds
    at least B images). Where it is not ready the slots mean nothing.
    """
    rank = jnp.where(
        filled(queue).reshape(-1), jax.random.uniform(key, (queue.capacity,)), -1.0
    )
    slots = jax.lax.top_k(rank, batch)[1]
    return slots, jnp.sum(queue.count) >= batch


def sample_uniform(
    queue: CSQueue, key: jax.Array, batch: int
) -> tuple[jax.Array, jax.Array]:
    """B filled slots with replacement, each with the same probability.

    As `sample_distinct`, but ready from the first image on.
    """
    ends = jnp.cumsum(queue.count)
    draw = jax.random.randint(key, (batch,), 0, jnp.maximum(ends[-1], 1))
    k = jnp.searchsorted(ends, draw, side="right").astype(jnp.int32)
    within = draw - (ends[k] - queue.count[k])  # slots 0..count-1 are the filled ones
    return k * queue.indices.shape[1] + within, ends[-1] > 0


def sample_class_balanced(
    queue: CSQueue, key: jax.Array, batch: int
) -> tuple[jax.Array, jax.Array]:
    """B slots with replacement: first a non-empty queue, then one of its slots.

    As `sample_distinct`, but ready from the first image on.
    """
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


def take(queue: CSQueue, slots: jax.Array) -> jax.Array:
    """Images of flat slots [n] -> uint8 [n, S, S, C]."""
    return queue.images.reshape(-1, *queue.images.shape[2:])[slots]


def filled(queue: CSQueue) -> jax.Array:
    """Which slots hold an image, bool [K, N_q]: a queue fills from slot 0."""
    return jnp.arange(queue.indices.shape[1])[None, :] < queue.count[:, None]


def fill(queue: CSQueue) -> jax.Array:
    """Share of slots that hold an image, float32 scalar."""
    return jnp.sum(queue.count).astype(jnp.float32) / queue.capacity


def _best_of_all_devices(score, position, index, image, top):
    """Each device's candidates [P, q, ...] -> the best of all, [P, min(top, D q), ...].

    Only these rows travel, never the batch. Two sort keys: a plain top-k over gathered
    rows would break ties by device.
    """
    score, position, index, image = (
        _join_candidates(parallel.gather(x)) for x in (score, position, index, image)
    )
    order = jax.lax.sort(
        (-score, position, jax.lax.broadcasted_iota(jnp.int32, score.shape, 1)),
        dimension=1,
        num_keys=2,
    )[2][:, :top]
    return (
        jnp.take_along_axis(score, order, axis=1),
        jnp.take_along_axis(index, order, axis=1),
        jnp.take_along_axis(image, order[:, :, None, None, None], axis=1),
    )


def _join_candidates(x: jax.Array) -> jax.Array:
    """[D, P, q, ...] -> [P, D * q, ...]."""
    x = x.swapaxes(0, 1)
    return x.reshape(x.shape[0], x.shape[1] * x.shape[2], *x.shape[3:])
