"""The host input path for encoded images: a tf.data stream of augmented uint8 batches.

As in `tf_pipeline` the batch of step t is a pure function of (seed, t). Images are
read, decoded and cropped one by one, in as many threads as there are cores; what is
left of the strong view is made of whole batches.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from rsmatch_jax.augment import views
from rsmatch_jax.data import sampler, tf_augment, tf_crop, tf_pipeline
from rsmatch_jax.data.stores.encoded import EncodedImages
from rsmatch_jax.data.stores.tf_import import tf
from rsmatch_jax.errors import RunFailed
from rsmatch_jax.state import Batch


class _Stream(NamedTuple):
    """One of the sampler's streams: its images, views, and rows of the global batch."""

    name: str
    images: EncodedImages
    purposes: tuple[str, ...]
    batch: int
    rows: np.ndarray


def batches(
    lab_images: EncodedImages,
    lab_labels: np.ndarray,
    unl_images: EncodedImages,
    spec: views.ViewSpec,
    *,
    seed: int,
    batch_size: int,
    unlabeled_ratio: int,
    start_step: int,
    num_steps: int,
    prefetch: int,
    synthetic: np.ndarray | None = None,
    parallel_steps: int = tf.data.AUTOTUNE,
    own_rows: Callable[[int], np.ndarray] = np.arange,
) -> Iterator[Batch]:
    """Batches of the steps start_step..num_steps - 1, in order, as numpy arrays.

    The weak view is a random-resized crop (spec.crop_area) and flip, the strong one an
    own such crop and flip, spec.randaugment_ops operations and Cutout. spec.crop_pad is
    of no meaning here. Arguments as in `tf_pipeline.batches`; moreover

      parallel_steps: images decoded, and batches augmented, at the same time.
      own_rows: positions in a batch of n rows, given n, of those that are wanted, in
        this order; no other image is read. What is drawn for a row depends on its
        position in the whole batch alone.

    Raises: RunFailed, while it runs, naming a damaged image.
    """
    unl_batch = batch_size * unlabeled_ratio
    purposes = ("weak", "strong")
    streams = (
        _Stream(
            "labelled", lab_images, ("labelled",), batch_size, own_rows(batch_size)
        ),
        _Stream("unlabelled", unl_images, purposes, unl_batch, own_rows(unl_batch)),
    )
    steps = tf.data.Dataset.range(start_step, num_steps)
    parts = [_views(steps, s, spec, seed, parallel_steps) for s in streams]

    def join(labelled, unlabelled):
        lab, lab_at = labelled
        weak, strong, unl_at = unlabelled
        labels = tf.gather(tf.constant(lab_labels, tf.int32), lab_at)
        return lab, labels, lab_at, weak, strong, unl_at

    dataset = tf.data.Dataset.zip(tuple(parts)).map(_plain(join))
    stream = tf_pipeline.start(dataset, prefetch, synthetic)
    return _named_failures(stream, streams, seed, start_step)


def _views(
    steps: tf.data.Dataset,
    stream: _Stream,
    spec: views.ViewSpec,
    seed: int,
    parallel_steps: int,
) -> tf.data.Dataset:
    """A dataset of (views of each purpose uint8 [rows, S, S, 3], positions [rows])."""
    rows, size = len(stream.rows), stream.images.size
    if not rows:
        empty = tf.zeros([0, size, size, 3], tf.uint8)
        nothing = (*[empty] * len(stream.purposes), tf.zeros([0], tf.int32))
        return steps.map(lambda step: nothing)

    def plan(step):
        """Which images, and the random numbers of their views: rows lead everywhere."""
        at = tf.numpy_function(lambda t: _indices(stream, seed, t), [step], tf.int32)
        at = tf.ensure_shape(at, [stream.batch])
        # Tuples: a list would be taken for one tensor.
        drawn = tuple(_draw(seed, step, p, stream.batch, spec) for p in stream.purposes)
        return tf.nest.map_structure(lambda x: tf.gather(x, stream.rows), (at, drawn))

    def crop(at, drawn):
        data = tf.numpy_function(stream.images.read, [at], tf.string)
        image = tf_crop.decode(tf.ensure_shape(data, []))
        height, width = tf.unstack(tf.shape(image)[:2])
        crops = []
        for numbers in drawn:
            box = tf_crop.box(numbers["crop"], height, width, spec.crop_area)
            view = tf_crop.resized(image, box, size)
            crops.append(tf.where(numbers["flip"], view[:, ::-1], view))
        return tuple(crops), at, drawn

    def finish(crops, at, drawn):
        made = [
            _strong(x, numbers, spec) if purpose == "strong" else x
            for x, numbers, purpose in zip(crops, drawn, stream.purposes, strict=True)
        ]
        return *made, at

    many = {"num_parallel_calls": parallel_steps, "deterministic": True}
    dataset = steps.map(_plain(plan), **many).unbatch()
    dataset = dataset.map(_plain(crop), **many).batch(rows, drop_remainder=True)
    return dataset.map(_plain(finish), **many)


def _draw(seed, step, purpose, rows, spec):
    """Random numbers of one step's views, the rows leading."""
    numbers = tf_augment.draw(seed, step, purpose, rows, spec)
    tries = tf_augment.draw_uniform(seed, step, purpose, [rows, tf_crop.TRIES, 4])
    wanted = {"crop": tries, "flip": numbers["flip"]}
    if purpose == "strong":
        # Only what is used: TensorFlow's unbatch crashes on tensors without elements.
        if spec.randaugment_ops:
            wanted |= {key: tf.transpose(numbers[key]) for key in ("ops", "values")}
        if spec.cutout:
            wanted["cutout"] = numbers["cutout"]
    return wanted


def _strong(images, numbers, spec):
    for slot in range(spec.randaugment_ops):
        ops, values = numbers["ops"][:, slot], numbers["values"][:, slot]
        images = tf_augment.apply_ops(images, ops, values)
    return tf_augment.cutout(images, numbers["cutout"]) if spec.cutout else images


def _named_failures(stream, streams, seed, step) -> Iterator[Batch]:
    """The stream, whose failure to decode an image is told with its place."""
    try:
        for batch in stream:
            yield batch
            step += 1
    except tf.errors.OpError as e:
        for part in streams:
            if part.batch:
                part.images.check(_indices(part, seed, step)[part.rows])
        raise RunFailed(f"the images of step {step + 1} cannot be made: {e}") from e


def _indices(stream: _Stream, seed: int, step: int) -> np.ndarray:
    return sampler.step_indices(
        seed, stream.name, step, len(stream.images), stream.batch
    )


def _plain(function):
    # Plain Python decides what is traced; AutoGraph would cost a second at the start.
    return tf.autograph.experimental.do_not_convert(function)
