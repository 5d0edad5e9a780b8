"""Input from the host: a tf.data stream of augmented uint8 batches.

The batch of step t is a pure function of (seed, t), so resuming needs only the step.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from rsmatch_jax.augment import views
from rsmatch_jax.data import sampler, tf_augment, tf_crop
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.data.stores.encoded import EncodedImages
from rsmatch_jax.data.stores.tf_import import tf
from rsmatch_jax.errors import RunFailed
from rsmatch_jax.state import Batch

PARALLEL = tf.data.AUTOTUNE  # steps augmented, or images decoded, at the same time
Images = np.ndarray | EncodedImages


def batches(
    lab_images: Images,
    lab_labels: np.ndarray,
    unl_images: Images,
    spec: views.ViewSpec,
    *,
    seed: int,
    batch_size: int,
    unlabelled_rows: int,
    start_step: int,
    num_steps: int,
    prefetch: int,
    synthetic: np.ndarray | None = None,
    weak_views: int = 1,
    parts: sampler.Parts | None = None,
    own_rows: Callable[[int], np.ndarray] = np.arange,
) -> Iterator[Batch]:
    """Yields the batches of the steps start_step..num_steps - 1 as numpy arrays.

    The reading threads stop when the iterator is closed or dropped, or when the program
    ends. Raises RunFailed if an encoded image is damaged.

    Args:
        lab_images, unl_images: both encoded, or both uint8 [N, S, S, 1 or 3]. Of arrays
            only the rows of a step are copied, so read-only memory maps work.
        synthetic: bool, ground truth of the unlabelled images; only for an oracle.
        weak_views: 2 adds `weak2`, an independent draw of the weak view.
        parts: of the unlabelled images; None draws from all alike.
        own_rows: takes a number of rows n and returns the positions in a batch of n
            rows to make, in this order; no other row is read. A row's random numbers
            depend only on its position in the global batch.
    """
    purposes = ("weak", "strong", "weak2")[: 1 + weak_views]
    rows = unlabelled_rows
    streams = [
        sampler.Stream(name, images, seed, count, own_rows(count), views_of, parts_of)
        for name, images, count, views_of, parts_of in (
            ("labelled", lab_images, batch_size, ("labelled",), None),
            ("unlabelled", unl_images, rows, purposes, parts),
        )
    ]
    steps = tf.data.Dataset.range(start_step, num_steps)
    make = _encoded_views if isinstance(lab_images, EncodedImages) else _array_views
    made = (make(steps, stream, spec) for stream in streams)
    options = tf.data.Options()
    # Steps run side by side; threads within an operation would only add to them.
    options.threading.max_intra_op_parallelism = 1
    dataset = tf.data.Dataset.zip(tuple(made)).prefetch(prefetch)
    running = [dataset.with_options(options).as_numpy_iterator()]
    labels = np.asarray(lab_labels, np.int32)
    taken = _taken(running, streams, labels, synthetic, start_step)
    # Images are read in TensorFlow's threads. If the iterator were freed during the
    # interpreter's shutdown, when threads no longer run, the process would hang.
    weakref.finalize(taken, running.clear)
    return taken


def _taken(
    running: list[Iterator[Any]],
    streams: Sequence[sampler.Stream],
    lab_labels: np.ndarray,
    synthetic: np.ndarray | None,
    step: int,
) -> Iterator[Batch]:
    """Yields the batches from `step` on; RunFailed names a damaged image's place."""
    while running:
        try:
            # Only the list may hold a reference to the iterator beyond this call.
            labelled, fields = next(running[0], (None, None))
        except tf.errors.OpError as e:
            for stream in streams:
                if stream.batch and isinstance(stream.images, EncodedImages):
                    stream.images.check(stream.indices(step))
            raise RunFailed(f"the images of step {step + 1} cannot be made: {e}") from e
        if labelled is None or fields is None:
            return
        at = labelled["indices"]
        fields |= {"lab": labelled["labelled"], "labels": lab_labels[at]}
        if synthetic is not None:
            fields["synthetic"] = np.asarray(synthetic[fields["indices"]], bool)
        yield Batch(**fields, lab_indices=at)
        step += 1


def _array_views(
    steps: tf.data.Dataset, stream: sampler.Stream, spec: views.ViewSpec
) -> tf.data.Dataset:
    """Returns a dataset of {purpose: uint8 [rows, S, S, 3], "indices": [rows]}."""
    rows, size = len(stream.rows), stream.images.shape[1]

    def read(step):
        at = stream.indices(step)
        return arrays.to_rgb(stream.images[at]), at

    def make(step):
        images, at = tf.numpy_function(read, [step], [tf.uint8, tf.int32])
        images = tf.ensure_shape(images, [rows, size, size, 3])
        made = {"indices": tf.ensure_shape(at, [rows])}
        for purpose in stream.purposes:
            view = tf_augment.strong if purpose == "strong" else tf_augment.weak
            made[purpose] = view(images, _draw(stream, step, purpose, spec), spec)
        return made

    return _map(steps, make)


def _encoded_views(
    steps: tf.data.Dataset, stream: sampler.Stream, spec: views.ViewSpec
) -> tf.data.Dataset:
    """As `_array_views`, but images are read, decoded and cropped one by one.

    A weak view is a random-resized crop (spec.crop_area) and flip; the strong view an
    independent such crop and flip, then the operations. spec.crop_pad is unused.
    """
    rows, size, purposes = len(stream.rows), stream.images.size, stream.purposes
    if not rows:
        nothing = dict.fromkeys(purposes, tf.zeros([0, size, size, 3], tf.uint8))
        nothing["indices"] = tf.zeros([0], tf.int32)
        return steps.map(lambda step: nothing)

    def plan(step):
        """Returns positions and random numbers of the step's views, the rows first."""
        at = tf.numpy_function(stream.indices, [step], tf.int32)
        drawn = {}
        for purpose in purposes:
            numbers = _draw(stream, step, purpose, spec, tf_crop.TRIES)
            drawn[purpose] = {
                # TensorFlow's unbatch crashes on tensors without elements.
                name: value
                for name, value in numbers.items()
                if value.shape.num_elements()
            }
        return tf.ensure_shape(at, [rows]), drawn

    def crop(at, drawn):
        data = tf.numpy_function(stream.images.read, [at], tf.string)
        image = tf_crop.decode(tf.ensure_shape(data, []))
        height, width = tf.unstack(tf.shape(image)[:2])
        crops = {}
        for purpose, numbers in drawn.items():
            box = tf_crop.box(numbers["crop"], height, width, spec.crop_area)
            view = tf_crop.resized(image, box, size)
            crops[purpose] = tf.where(numbers["flip"], view[:, ::-1], view)
        return crops, at, drawn

    def finish(crops, at, drawn):
        if "strong" in crops:
            numbers = drawn["strong"]
            crops["strong"] = tf_augment.distort(crops["strong"], numbers, spec)
        return {**crops, "indices": at}

    dataset = _map(steps, plan).unbatch()
    return _map(_map(dataset, crop).batch(rows, drop_remainder=True), finish)


def _draw(stream, step, purpose, spec, tries=0):
    """Returns the random numbers of the rows of one step's views."""
    numbers = tf_augment.draw(stream.seed, step, purpose, stream.batch, spec, tries)
    return {name: tf.gather(value, stream.rows) for name, value in numbers.items()}


def _map(dataset: tf.data.Dataset, function: Callable[..., Any]) -> tf.data.Dataset:
    """Applies a function to several elements at the same time, in order."""
    # AutoGraph would add a second to the start.
    function = tf.autograph.experimental.do_not_convert(function)
    return dataset.map(function, num_parallel_calls=PARALLEL, deterministic=True)
