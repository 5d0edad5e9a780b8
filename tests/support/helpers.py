"""Small experiments for tests: networks without blocks, 8 px, few rows."""

import functools
import importlib

import jax
import numpy as np

from rsmatch_jax.engine import experiment
from rsmatch_jax.methods.base import StepInputs
from rsmatch_jax.models import networks
from rsmatch_jax.runtime import parallel
from rsmatch_jax.state import Batch

# The family's smallest, without blocks: compiles in a third of the time. Only this
# process knows it, no child does.
TINY = {"model.classifier": "tiny", "model.detector": "tiny"}
networks.MODELS["tiny"] = functools.partial(networks.WideResNet, 4, 1)
# With a block in each of three stages, for tests that look at these, and for children.
BLOCKS = {"model.classifier": "wrn_10_1", "model.detector": "wrn_10_1"}
SMALL = {  # 4 labelled and 8 unlabelled images a step
    **TINY,
    "data.labels_per_class": 4,
    "train.batch_size": 4,
    "train.unlabeled_ratio": 2,
    "train.num_steps": 50,
    "eval.batch_size": 160,  # of 320 test and 640 unlabelled images: nothing padded
    "log.tensorboard": False,  # it imports TensorFlow
}


def config(name="common", **overrides):
    """A config file's ConfigDict with {"group.key": value} overrides, SMALL by
    default."""
    c = importlib.import_module(f"configs.{name}").get_config()
    for key, value in {**SMALL, **overrides}.items():
        *path, last = key.split(".")
        group = c
        for part in path:
            group = group[part]
        assert last in group, f"{key} is no key"
        group[last] = value
    return c.lock()


def build(num_devices=1, **overrides):
    """(config, task of the `fake` set, experiment) on the first devices."""
    c = config(**overrides)
    task = experiment.load_task(c)
    devices = jax.local_devices()[:num_devices]
    dims = experiment.task_dims(c, task)
    return c, task, experiment.build(c, dims, task.name, devices)


def batches(exp, count, seed=0):
    """Random global batches; independent of any input pipeline."""
    rng = np.random.default_rng(seed)
    d = exp.dims

    def images(n):
        return rng.integers(0, 256, (n, *d.image_shape)).astype(np.uint8)

    for _ in range(count):
        yield Batch(
            lab=images(d.batch_size),
            labels=rng.integers(0, d.num_classes, d.batch_size).astype(np.int32),
            lab_indices=rng.integers(0, d.num_labeled, d.batch_size).astype(np.int32),
            weak=images(d.unlabeled_batch),
            strong=images(d.unlabeled_batch),
            indices=rng.integers(0, d.num_unlabeled, d.unlabeled_batch).astype(
                np.int32
            ),
            weak2=images(d.unlabeled_batch) if exp.method.weak_views == 2 else None,
        )


def step_inputs(nets, extra, batch, key, step, axis=parallel.AXIS, ema=None):
    """What a loss reads in a step, of networks without statistics."""
    stats = {name: {} for name in nets}
    return StepInputs(nets, stats, extra, batch, key, step, axis, ema)


def train(exp, stream, state=None):
    """Runs the mapped step of a run over batches: (final state, list of metrics)."""
    step = exp.train_step()
    state = exp.pack(exp.init_state() if state is None else state)
    metrics = []
    for batch in stream:
        state, m = step(state, parallel.shard_rows(batch, exp.devices))
        metrics.append(jax.device_get(m))
    return exp.unpack(state), metrics


def leaves(tree):
    """{path: numpy array}, typed keys as their bits."""
    return {
        jax.tree_util.keystr(path): np.asarray(
            jax.random.key_data(x)
            if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
            else x
        )
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def assert_bit_equal(a, b):
    a, b = leaves(a), leaves(b)
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_array_equal(a[path], b[path], err_msg=path)
