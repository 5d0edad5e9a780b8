"""Methods on networks whose outputs are looked up in tables, step by step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from support.helpers import build, leaves, step_inputs

from rsmatch_jax.methods import csqueue
from rsmatch_jax.models.networks import Network
from rsmatch_jax.runtime import parallel
from rsmatch_jax.state import Batch, Outputs

B, U, K = 4, 12, 10
TAU, TAU_DETECTOR = 0.5, 0.7
WEIGHTS = {
    "method.threshold": TAU,
    "method.unsup_weight": 0.7,
    "method.rsmatch.detector_threshold": TAU_DETECTOR,
    "method.rsmatch.detector_unsup_weight": 1.3,
    "method.rsmatch.fake_weight": 0.6,
    "method.rsmatch.queue_length": 2,
}


def softmax(z):
    z = np.asarray(z, np.float64)
    e = np.exp(z - z.max(axis=-1)[..., None])
    return e / e.sum(axis=-1)[..., None]


def log_softmax(z):
    return np.log(softmax(z))


def tables(heads):
    """{head: [256, its size]}"""
    keys = jax.random.split(jax.random.key(3), len(heads))
    sizes = {h: getattr(s, "size", s) for h, s in heads.items()}
    return {
        head: 2 * jax.random.normal(key, (256, size))
        for key, (head, size) in zip(keys, sorted(sizes.items()), strict=True)
    }


def apply(params, stats, images, train):
    """An image's outputs are rows of the tables; the number is its first pixel."""
    del train
    rows = images[:, 0, 0, 0].astype(jnp.int32)
    outputs = {head: table[rows] for head, table in params.items()}
    projections = {h: outputs.pop(h) for h in ("projector",) if h in outputs}
    return Outputs(jnp.zeros((len(images), 1)), outputs, projections), stats


def method_of(**overrides):
    """(dims, method, networks, parameters)"""
    _, _, exp = build(**{**WEIGHTS, **overrides})
    heads = exp.method.heads(K)
    params = {name: tables(h) for name, h in heads.items()}
    nets = {name: Network(lambda key, images: None, apply) for name in heads}
    return exp.dims, exp.method, nets, params


def picture(row):
    row = np.asarray(row, np.uint8)
    return np.broadcast_to(row[:, None, None, None], (len(row), 8, 8, 3))


def rows(images):
    return images[:, 0, 0, 0].astype(int)


def batch(rng, labelled=B, unlabelled=U):
    def images(n):
        return picture(rng.integers(0, 256, n))

    return Batch(
        lab=images(labelled),
        labels=rng.integers(0, K, labelled).astype(np.int32),
        lab_indices=np.arange(labelled, dtype=np.int32),
        weak=images(unlabelled),
        strong=images(unlabelled),
        indices=np.arange(unlabelled, dtype=np.int32),
        synthetic=rng.random(unlabelled) < 0.5,
    )


@dataclasses.dataclass
class Step:
    """One step: params before it, buffers after it by path and as a tree."""

    params: dict
    metrics: dict  # also "value", the loss, and "grads"
    extra: dict

    @property
    def buffers(self):
        return leaves(self.extra)


def step_key(t):
    return jax.random.fold_in(jax.random.key(7), t)


def drawn_rows(queue, t):
    """Table rows of the images that step t draws: the sampler has its own tests."""
    key = jax.random.split(step_key(t), 4)[0]
    queue = jax.tree.map(jnp.asarray, queue)
    slots, ready = csqueue.sample_distinct(queue, key, B)
    images = np.asarray(csqueue.take(queue, slots))
    return rows(images) if ready else []


def run(method, nets, params, extra, stream, num_devices=1, rate=0.0, ema=None):
    """Steps of plain SGD with this learning rate; the shadow `ema` stays as it is."""
    devices = jax.local_devices()[:num_devices]

    def one_step(state, batch):
        params, extra, t = state
        inputs = step_inputs(nets, extra, batch, step_key(t), t, ema=ema)
        loss_of = jax.value_and_grad(lambda p: method.loss(p, inputs), has_aux=True)
        (value, (_, extra, metrics)), grads = loss_of(params)
        out = parallel.mean({**metrics, "value": value, "grads": grads})
        params = jax.tree.map(lambda p, g: p - rate * g, params, out["grads"])
        return (params, extra, t + 1), out

    mapped = parallel.map_step(one_step, devices)
    state = jax.tree.map(jnp.copy, (params, extra, jnp.int32(0)))
    state, steps = parallel.replicate(state, devices), []
    for b in stream:
        before = jax.tree.map(np.array, state[0])
        state, metrics = mapped(state, parallel.shard_rows(b, devices))
        after = jax.tree.map(np.array, state[1])
        steps.append(Step(before, jax.device_get(metrics), after))
    return steps


def run_one(method, nets, params, extra, b, **options):
    """(metrics, buffers) of step 0."""
    (step,) = run(method, nets, params, extra, [b], **options)
    return step.metrics, step.extra
