"""The CSQueue against a Python model of deques."""

from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsmatch_jax.methods import csqueue
from rsmatch_jax.runtime import parallel

K, LENGTH, U, SHAPE = 5, 4, 24, (2, 2, 3)


def mapped_push(num_devices, **kw):
    """push() as a train step would call it: rows dealt, queue donated."""
    devices = jax.local_devices()[:num_devices]

    def step(queue, batch):
        key, images, indices, classes, scores = batch
        queue = csqueue.push(queue, key[0], images, indices, classes, scores, **kw)
        return queue, {}

    mapped = parallel.map_step(step, devices)

    def push(queue, key, *rows):
        keys = np.stack([jax.random.key_data(key)] * num_devices)
        keys = jax.random.wrap_key_data(jnp.asarray(keys))[:, None]
        rows = [parallel.deal(x, num_devices) for x in rows]
        return mapped(queue, (keys, *rows))[0]

    return push, lambda queue: parallel.replicate(queue, devices)


def batch(rng, ties=False):
    """Random rows; index and picture agree, so a mix-up shows."""
    indices = rng.integers(0, 200, U).astype(np.int32)
    images = np.broadcast_to(indices[:, None, None, None], (U, *SHAPE)).astype(np.uint8)
    classes = rng.integers(0, K, U).astype(np.int32)
    scores = rng.random(U).astype(np.float32)
    if ties:
        scores = np.round(scores * 3) / 3
    scores[rng.random(U) < 0.2] = -np.inf  # not eligible
    return images, indices, classes, scores.astype(np.float32)


def oracle_push(model, chosen, indices, classes, scores, top):
    for c in chosen:
        mine = [i for i in range(U) if classes[i] == c and np.isfinite(scores[i])]
        mine.sort(key=lambda i: -scores[i])  # stable: the earlier row wins a tie
        for i in mine[:top]:
            model[c].append(int(indices[i]))


def content(queue, k):
    """Indices in a queue from oldest to newest, as the ring stands."""
    head, count = int(queue.head[k]), int(queue.count[k])
    slots = [(head - count + j) % queue.indices.shape[1] for j in range(count)]
    return [int(queue.indices[k, s]) for s in slots]


@pytest.mark.parametrize(
    ("num_queues", "select", "top"),
    [(K, 5, 1), (K, 2, 3), (K, 3, 4), (1000, 200, 2)],  # most without a candidate
)
@pytest.mark.parametrize("num_devices", [1, 4])
def test_steps_equal_a_model_of_deques(num_queues, select, top, num_devices):
    push, place = mapped_push(num_devices, select=select, top=top)
    for ties in (False, True):
        rng = np.random.default_rng(select * 10 + top)
        queue = place(csqueue.create(num_queues, LENGTH, SHAPE))
        model = [deque(maxlen=LENGTH) for _ in range(num_queues)]
        for t in range(40):
            key = jax.random.key(t)
            chosen = np.asarray(csqueue.draw_queues(key, num_queues, select))
            assert len(set(chosen.tolist())) == select and chosen.max() < num_queues
            images, indices, classes, scores = batch(rng, ties)
            classes = (classes * (num_queues // K) + t % K) % num_queues
            queue = push(queue, key, images, indices, classes, scores)
            oracle_push(model, chosen, indices, classes, scores, top)
            for k in set(classes.tolist()):
                assert content(queue, k) == list(model[k])
        check_full(queue, model)


def check_full(queue, model):
    """Fill, pictures, indices and a draw of everything are the model's."""
    size = sum(map(len, model))
    assert csqueue.fill(queue) == np.float32(size / (len(model) * LENGTH)) and size > 10
    held = np.asarray(queue.indices)
    images = np.asarray(queue.images)[held >= 0]
    np.testing.assert_array_equal(images[:, 0, 0, 0], held[held >= 0])
    assert sorted(held[held >= 0]) == sorted(i for m in model for i in m)
    slots, ready = csqueue.sample_distinct(queue, jax.random.key(0), size)
    assert bool(ready)
    assert sorted(held.reshape(-1)[slots]) == sorted(held[held >= 0])


@pytest.mark.parametrize("num_devices", [1, 4])
def test_scores_stay_beside_their_images(num_devices):
    """Also when the ring wraps; every push has scores of its own."""
    push, place = mapped_push(num_devices, select=K, top=3)
    rng = np.random.default_rng(0)
    queue = place(csqueue.with_scores(csqueue.create(K, LENGTH, SHAPE)))
    score_of = {}
    for t in range(20):
        images, indices, classes, scores = batch(rng)
        indices = np.arange(t * U, (t + 1) * U, dtype=np.int32)
        score_of |= dict(zip(indices.tolist(), scores.tolist(), strict=True))
        queue = push(queue, jax.random.key(t), images, indices, classes, scores)
    held, scores = np.asarray(queue.indices), np.asarray(queue.scores)
    assert (held >= 0).all() and len(np.unique(scores)) == K * LENGTH
    for index, score in zip(held.ravel().tolist(), scores.ravel(), strict=True):
        assert score == np.float32(score_of[index])


def test_work_of_a_push_does_not_grow_with_the_classes():
    """Beside the draw of P queues nothing is as long as K: no [K, U], no [K, K]."""

    def largest(num_queues):
        """Most elements of any value in a push but the queue's own."""

        def step(queue, *rows):
            return csqueue.push(queue, *rows, select=10, top=1)

        queue = jax.eval_shape(lambda: csqueue.create(num_queues, LENGTH, SHAPE))
        rows = (
            jax.eval_shape(lambda: jax.random.key(0)),
            jax.ShapeDtypeStruct((U, *SHAPE), np.uint8),
            *(jax.ShapeDtypeStruct((U,), t) for t in (np.int32, np.int32, np.float32)),
        )
        program = jax.make_jaxpr(step, axis_env=[(parallel.AXIS, 1)])(queue, *rows)
        of_queue = {x.shape for x in jax.tree.leaves(queue)}
        return max(
            v.aval.size
            for equation in program.eqns
            for v in equation.outvars
            if v.aval.shape not in of_queue
        )

    assert largest(1000) == largest(4000) <= U * 10 * 12


def test_queues_are_drawn_uniformly_and_once():
    draw = jax.jit(lambda key: csqueue.draw_queues(key, K, 2))
    drawn = np.asarray(jax.vmap(draw)(jax.random.split(jax.random.key(0), 2000)))
    pairs = np.zeros((K, K), int)
    np.add.at(pairs, tuple(np.sort(drawn, axis=1).T), 1)
    assert (np.diag(pairs) == 0).all(), "a queue twice"
    # each of 10 pairs with probability 0.1: sd 13.4
    assert np.abs(pairs[np.triu_indices(K, 1)] - 200).max() < 5 * 13.4
    assert csqueue.draw_queues(jax.random.key(0), K, K).tolist() == list(range(K))


def partly_filled(counts):
    counts = jnp.asarray(counts, jnp.int32)
    queue = csqueue.create(len(counts), LENGTH, SHAPE)
    return queue.replace(count=counts, head=counts % LENGTH)


def test_distinct_slots_are_distinct_filled_and_uniform():
    queue = partly_filled([4, 0, 3, 1, 2])
    filled = [k * LENGTH + j for k in range(K) for j in range(queue.count[k])]
    draw = jax.jit(lambda k: csqueue.sample_distinct(queue, k, 6))
    slots, ready = jax.vmap(draw)(jax.random.split(jax.random.key(0), 2000))
    assert bool(ready.all())
    assert all(len(set(row)) == 6 for row in np.asarray(slots))
    counts = np.bincount(np.asarray(slots).reshape(-1), minlength=K * LENGTH)
    assert set(np.flatnonzero(counts)) == set(filled)
    # each of 10 filled slots is in a draw of 6 with probability 0.6: sd 22
    assert np.abs(counts[filled] - 1200).max() < 5 * 22
    for batch, ready in ((10, True), (11, False)):  # not before it holds so many
        assert csqueue.sample_distinct(queue, jax.random.key(0), batch)[1] == ready


@pytest.mark.parametrize(
    "sampler", [csqueue.sample_uniform, csqueue.sample_class_balanced]
)
def test_sampling_with_replacement_follows_its_law(sampler):
    counts = [4, 0, 3, 1, 2]
    queue = partly_filled(counts)
    slots, ready = sampler(queue, jax.random.key(1), 8000)
    assert bool(ready)
    seen = np.bincount(np.asarray(slots), minlength=K * LENGTH).reshape(K, LENGTH)
    for k, count in enumerate(counts):
        assert (seen[k, count:] == 0).all()
        each = 1 / 10 if sampler is csqueue.sample_uniform else 1 / 4 / max(count, 1)
        sd = np.sqrt(8000 * each)
        assert np.abs(seen[k, :count] - 8000 * each).max(initial=0) < 5 * sd
    empty = partly_filled([0] * K)
    assert not bool(sampler(empty, jax.random.key(0), 8)[1])
