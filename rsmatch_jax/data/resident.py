"""Input from the device: it holds the dataset as uint8 and makes every step's views.

Batches have the images of tf.data's at the same seed and step, and other views.
"""

import functools
import zlib
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32, Key

from rsmatch_jax.augment import on_device, views
from rsmatch_jax.data import sampler
from rsmatch_jax.data.rs_ssl import Task
from rsmatch_jax.methods.catalogue import Dims
from rsmatch_jax.runtime import parallel
from rsmatch_jax.state import Batch

_VIEWS = zlib.crc32(b"views")  # separates the views' keys from those of methods

AnyArray = jax.Array | np.ndarray  # on the host until it is placed
# Image positions of an epoch's steps, int32 [steps, B], by stream of the sampler.
Orders = dict[str, jax.Array]


@flax.struct.dataclass
class Resident:
    """A dataset, replicated on the devices and never donated.

    An image is a row, because a TPU would copy a dataset [N, S, S, 3] at every dispatch
    to a layout from which it can read single images, and pad it to four times the size.
    """

    lab_images: AnyArray  # uint8 [L, S * S * 3]
    lab_labels: AnyArray  # int32 [L]
    unl_images: AnyArray  # uint8 [N, S * S * 3]
    synthetic: AnyArray | None  # bool [N], ground truth, only for an oracle
    tables: on_device.Tables | None  # of the strong view, None without RandAugment
    size: int = flax.struct.field(pytree_node=False)  # S


def gather(
    task: Task, spec: views.ViewSpec, *, oracle: bool, unlabelled: bool
) -> Resident:
    """Returns the run's images in host memory; oracle: with the synthetic flags."""
    size = task.lab_images.shape[1]

    def rows(images):
        return np.ascontiguousarray(images).reshape(len(images), size * size * 3)

    return Resident(
        lab_images=rows(task.lab_images),
        lab_labels=np.asarray(task.lab_labels, np.int32),
        unl_images=rows(task.unl_images[: None if unlabelled else 0]),
        synthetic=np.asarray(task.unl_synthetic, bool) if oracle else None,
        tables=on_device.make_tables(size, spec) if unlabelled else None,
        size=size,
    )


def num_bytes(task: Task, *, unlabelled: bool) -> int:
    """Returns the bytes of a run's images on a device."""
    return task.lab_images.nbytes + (task.unl_images.nbytes if unlabelled else 0)


@functools.partial(jax.jit, static_argnames=("dims", "unlabelled", "candidates"))
def epoch_orders(
    seed: jax.typing.ArrayLike,
    epoch: jax.typing.ArrayLike,
    dims: Dims,
    *,
    unlabelled: bool = True,
    parts: sampler.Parts | None = None,
    candidates: int | None = None,
) -> Orders:
    """Returns the sampler's order of an epoch, computed where the arguments lie. With
    candidates, a step's row has so many unlabelled images instead of the batch's."""

    def order(stream, n, size):
        if not size:
            return jnp.zeros((sampler.STEPS_PER_EPOCH, 0), jnp.int32)
        return sampler.epoch_indices(seed, stream, epoch, n, size)

    labelled = order("labelled", dims.num_labeled, dims.batch_size)
    rows = candidates or dims.unlabeled_batch
    if unlabelled and parts is not None:
        in_parts = sampler.epoch_in_parts(seed, epoch, parts, rows)
        return {"labelled": labelled, "unlabelled": in_parts}
    rows = rows if unlabelled else 0
    return {
        "labelled": labelled,
        "unlabelled": order("unlabelled", dims.num_unlabeled, rows),
    }


@jax.named_scope("views")
def make_batch(
    data: Resident,
    orders: Orders,
    spec: views.ViewSpec,
    key: Key[Array, ""],
    step: Int32[Array, ""],
    *,
    weak_views: int = 1,
    screen: Callable[[Batch], Int32[Array, " u"]] | None = None,
) -> Batch:
    """Returns this device's share of a step's batch; everything random is global.

    orders: of the step's epoch. key: the run's root key. step: completed steps.
    weak_views: 2 adds `weak2`, an independent draw of the weak view. screen: the order
    of unlabelled images is one of candidates; takes their weak views, this device's,
    and returns which of all become the batch.
    """
    row = step % sampler.STEPS_PER_EPOCH
    key = jax.random.fold_in(key, _VIEWS)
    lab_at = parallel.local_rows(orders["labelled"][row])
    unlabelled_at = orders["unlabelled"][row]
    if screen is not None:
        shown = _candidates(data, parallel.local_rows(unlabelled_at), spec, key, step)
        unlabelled_at = unlabelled_at[screen(shown)]
    at = parallel.local_rows(unlabelled_at)
    unlabelled = _pictures(data, data.unl_images, at)
    images = {"labelled": _pictures(data, data.lab_images, lab_at)}
    if at.size:
        images |= dict.fromkeys(views.PURPOSES[1 : 2 + weak_views], unlabelled)
    strong = [purpose == "strong" for purpose in images]
    rows = [len(x) for x in images.values()]

    keys = jax.vmap(lambda purpose: _step_key(key, purpose, step))
    drawn = on_device.draw_together(
        keys(jnp.arange(len(images))), rows, spec, strong, parallel.AXIS
    )
    numbers = dict(zip(images, drawn, strict=True))

    def view(purpose):
        if purpose not in images:
            return unlabelled
        if purpose == "strong":
            return on_device.strong(unlabelled, numbers[purpose], data.tables, spec)
        return on_device.weak(images[purpose], numbers[purpose], spec)

    return Batch(
        lab=view("labelled"),
        labels=_take(data.lab_labels, lab_at),
        lab_indices=lab_at,
        weak=view("weak"),
        strong=view("strong"),
        indices=at,
        synthetic=_truth(data, at),
        weak2=view("weak2") if weak_views == 2 else None,
    )


def _candidates(data: Resident, at, spec, key, step) -> Batch:
    """Returns a batch of weak views of the candidates `at`, and of nothing else."""
    key = _step_key(key, views.PURPOSES.index("candidate"), step)
    numbers = on_device.draw(key, len(at), spec, False, parallel.AXIS)
    weak = on_device.weak(_pictures(data, data.unl_images, at), numbers, spec)
    return Batch(
        lab=weak[:0],
        labels=at[:0],
        lab_indices=at[:0],
        weak=weak,
        strong=weak[:0],
        indices=at,
        synthetic=_truth(data, at),
    )


def _step_key(key, purpose, step):
    return jax.random.fold_in(jax.random.fold_in(key, purpose), step)


def _pictures(data: Resident, rows: AnyArray, at: jax.Array) -> jax.Array:
    taken = _take(rows, at) if at.size else jnp.asarray(rows[:0])
    return taken.reshape(len(at), data.size, data.size, 3)


def _truth(data: Resident, at: jax.Array) -> jax.Array | None:
    return None if data.synthetic is None else _take(data.synthetic, at)


def _take(rows: AnyArray, at: jax.Array) -> jax.Array:
    return jnp.asarray(rows).at[at].get(mode="promise_in_bounds")
