"""Input without a host: the whole dataset lies on the device as uint8, and every step
draws its images and makes its views there.

The batch of step t is a pure function of (seed, t), with the images that the tf.data
input takes at that step; its views follow the same law from other random bits.
"""

import functools
import zlib

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from rsmatch_jax.augment import on_device, views
from rsmatch_jax.data import sampler
from rsmatch_jax.data.rs_ssl import Task
from rsmatch_jax.runtime import parallel
from rsmatch_jax.state import Batch

_VIEWS = zlib.crc32(b"views")  # sets their keys apart from a method's own draws


@flax.struct.dataclass
class Resident:
    """A dataset on the device; never donated, the same on all of them.

    lab_images: uint8 [L, S, S, 3]; lab_labels: int32 [L]; unl_images: uint8
    [N, S, S, 3]; synthetic: bool [N], ground truth, None but for an oracle; tables:
    what the strong view looks up, None without RandAugment.
    """

    lab_images: jax.Array
    lab_labels: jax.Array
    unl_images: jax.Array
    synthetic: jax.Array | None
    tables: on_device.Tables | None


@flax.struct.dataclass
class Orders:
    """Image positions of the steps of one epoch: int32 [steps, B] and [steps, U]."""

    labelled: jax.Array
    unlabelled: jax.Array


def gather(
    task: Task, spec: views.ViewSpec, *, oracle: bool, unlabelled: bool
) -> Resident:
    """The run's images in host memory, ready to be placed.

    oracle: with the flags of synthetic images; unlabelled: False leaves those images
    out, for a method that never looks at them.
    """
    size = task.lab_images.shape[1]
    return Resident(
        lab_images=np.ascontiguousarray(task.lab_images),
        lab_labels=np.asarray(task.lab_labels, np.int32),
        unl_images=np.ascontiguousarray(task.unl_images[: None if unlabelled else 0]),
        synthetic=np.asarray(task.unl_synthetic, bool) if oracle else None,
        tables=on_device.make_tables(size, spec) if unlabelled else None,
    )


def num_bytes(task: Task, *, unlabelled: bool) -> int:
    """What the images of a run take on a device; unlabelled as in `gather`."""
    return task.lab_images.nbytes + (task.unl_images.nbytes if unlabelled else 0)


@functools.partial(
    jax.jit,
    static_argnames=("num_labelled", "num_unlabelled", "batch", "unlabelled_batch"),
)
def epoch_orders(
    seed: jax.typing.ArrayLike,
    epoch: jax.typing.ArrayLike,
    *,
    num_labelled: int,
    num_unlabelled: int,
    batch: int,
    unlabelled_batch: int,
) -> Orders:
    """The sampler's law, computed where the arguments are."""

    def order(stream, n, size):
        if not size:
            return jnp.zeros((sampler.STEPS_PER_EPOCH, 0), jnp.int32)
        return sampler.epoch_indices(seed, stream, epoch, n, size)

    return Orders(
        order("labelled", num_labelled, batch),
        order("unlabelled", num_unlabelled, unlabelled_batch),
    )


@jax.named_scope("views")
def make_batch(
    data: Resident,
    orders: Orders,
    spec: views.ViewSpec,
    key: jax.Array,
    step: jax.Array,
) -> Batch:
    """This device's share of a step's batch (in a step).

    orders: of the step's epoch; key: the run's root key, equal on all devices; step:
    int32 scalar. Everything random is drawn for the global batch.
    """
    row = step % orders.labelled.shape[0]
    lab_at, unl_at = orders.labelled[row], orders.unlabelled[row]
    key = jax.random.fold_in(key, _VIEWS)

    def numbers(purpose, rows):
        own = jax.random.fold_in(key, views.PURPOSES.index(purpose))
        drawn = on_device.draw(
            jax.random.fold_in(own, step), rows, spec, strong=purpose == "strong"
        )
        return jax.tree.map(parallel.local_rows, drawn)

    def weak(images, at, purpose):
        drawn = numbers(purpose, at.shape[0])
        return on_device.weak(_take(images, parallel.local_rows(at)), drawn, spec)

    local = parallel.local_rows(unl_at)
    if unl_at.shape[0]:
        unl_weak = weak(data.unl_images, unl_at, "weak")
        unl_strong = on_device.strong(
            _take(data.unl_images, local),
            numbers("strong", unl_at.shape[0]),
            data.tables,
            spec,
        )
    else:
        unl_weak = unl_strong = data.unl_images[:0]
    lab_local = parallel.local_rows(lab_at)
    return Batch(
        lab=weak(data.lab_images, lab_at, "labelled"),
        labels=_take(data.lab_labels, lab_local),
        lab_indices=lab_local,
        weak=unl_weak,
        strong=unl_strong,
        indices=local,
        synthetic=None if data.synthetic is None else _take(data.synthetic, local),
    )


def _take(rows: jax.Array, at: jax.Array) -> jax.Array:
    return jnp.asarray(rows).at[at].get(mode="promise_in_bounds")
