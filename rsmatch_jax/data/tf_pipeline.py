"""Input from the host: a tf.data stream of augmented uint8 batches.

The batch of step t is a pure function of (seed, t): the sampler chooses its images, and
the step keys the augmentation's random numbers. Resuming needs only the step.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from rsmatch_jax.augment import views
from rsmatch_jax.data import sampler, tf_augment, tf_crop
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.data.stores.encoded import EncodedImages
from rsmatch_jax.data.stores.tf_import import tf
from rsmatch_jax.errors import RunFailed
from rsmatch_jax.state import Batch

Images = np.ndarray | EncodedImages


def batches(
    lab_images: Images,
    lab_labels: np.ndarray,
    unl_images: Images,
    spec: views.ViewSpec,
    *,
    seed: int,
    batch_size: int,
    unlabeled_ratio: int,
    start_step: int,
    num_steps: int,
    prefetch: int,
    synthetic: np.ndarray | None = None,
    weak_views: int = 1,
    parallel_steps: int = tf.data.AUTOTUNE,
    own_rows: Callable[[int], np.ndarray] = np.arange,
) -> Iterator[Batch]:
    """Yields the batches of the steps start_step..num_steps - 1 as numpy arrays.

    The reading threads stop when the iterator is closed or dropped, or when the program
    ends. parallel_steps and prefetch change no batch.

    Args:
        lab_images, unl_images: both encoded, or both uint8 [N, S, S, 1 or 3]. Arrays
            are never copied as a whole, so read-only memory maps work, and anything
            else with `shape` that an index array can read. Grey images are repeated to
            three channels.
        batch_size: labelled images per step.
        prefetch: finished batches to keep ready.
        synthetic: bool, ground truth of the unlabelled images; only for an oracle.
        weak_views: 2 adds `weak2`, an independent draw of the weak view.
        parallel_steps: steps augmented, or images decoded, at the same time.
        own_rows: takes a number of rows n and returns the positions in a batch of n
            rows to make, in this order; no other row is read. A row's random numbers
            depend only on its position in the global batch.

    Raises:
        RequestError: the crop padding is as wide as the images.
        RunFailed: an encoded image is damaged; raised by the iterator.
    """
    unl_batch = batch_size * unlabeled_ratio
    purposes = ("weak", "strong", "weak2")[: 1 + weak_views]
    streams = [
        sampler.Stream(name, images, seed, count, own_rows(count), views_of)
        for name, images, count, views_of in (
            ("labelled", lab_images, batch_size, ("labelled",)),
            ("unlabelled", unl_images, unl_batch, purposes),
        )
    ]
    steps = tf.data.Dataset.range(start_step, num_steps)
    encoded = isinstance(lab_images, EncodedImages)
    make = _encoded_views if encoded else _array_views
    parts = (make(steps, stream, spec, parallel_steps) for stream in streams)
    dataset = tf.data.Dataset.zip(tuple(parts))
    running = _start(dataset, prefetch, np.asarray(lab_labels, np.int32), synthetic)
    if encoded:
        return _named_failures(running, streams, start_step)
    return running


def _array_views(
    steps: tf.data.Dataset,
    stream: sampler.Stream,
    spec: views.ViewSpec,
    parallel_steps: int,
) -> tf.data.Dataset:
    """A dataset of {purpose: uint8 [rows, S, S, 3], "indices": int32 [rows]}."""
    rows, size = len(stream.rows), stream.images.shape[1]
    views.check(spec, size)

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

    many = {"num_parallel_calls": parallel_steps, "deterministic": True}
    return steps.map(_plain(make), **many)


def _encoded_views(
    steps: tf.data.Dataset,
    stream: sampler.Stream,
    spec: views.ViewSpec,
    parallel_steps: int,
) -> tf.data.Dataset:
    """As `_array_views`. Images are read, decoded and cropped one by one, in threads.

    A weak view is a random-resized crop (spec.crop_area) and flip; the strong view an
    independent such crop and flip, then the operations. spec.crop_pad is unused.
    """
    rows, size, purposes = len(stream.rows), stream.images.size, stream.purposes
    if not rows:
        nothing = dict.fromkeys(purposes, tf.zeros([0, size, size, 3], tf.uint8))
        nothing["indices"] = tf.zeros([0], tf.int32)
        return steps.map(lambda step: nothing)

    def plan(step):
        """Positions and random numbers of the step's views, the rows first."""
        at = tf.numpy_function(stream.indices, [step], tf.int32)
        drawn = {}
        for purpose in purposes:
            numbers = _draw(stream, step, purpose, spec)
            tries = [stream.batch, tf_crop.TRIES, 4]
            crops = tf_augment.draw_uniform(stream.seed, step, purpose, tries)
            numbers["crop"] = tf.gather(crops, stream.rows)
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

    many = {"num_parallel_calls": parallel_steps, "deterministic": True}
    dataset = steps.map(_plain(plan), **many).unbatch()
    dataset = dataset.map(_plain(crop), **many).batch(rows, drop_remainder=True)
    return dataset.map(_plain(finish), **many)


def _draw(stream, step, purpose, spec):
    """The random numbers of the rows of one step's views."""
    numbers = tf_augment.draw(stream.seed, step, purpose, stream.batch, spec)
    return {name: tf.gather(value, stream.rows) for name, value in numbers.items()}


def _plain(function):
    """The function without AutoGraph, which adds a second to the start."""
    return tf.autograph.experimental.do_not_convert(function)


def _start(
    dataset: tf.data.Dataset,
    prefetch: int,
    lab_labels: np.ndarray,
    synthetic: np.ndarray | None,
) -> Iterator[Batch]:
    """The batches of a dataset of both streams' views, with its threads."""
    options = tf.data.Options()
    # Steps run side by side; threads within an operation would only add to them.
    options.threading.max_intra_op_parallelism = 1
    dataset = dataset.prefetch(prefetch).with_options(options)
    running = [dataset.as_numpy_iterator()]
    stream = _stream(running, lab_labels, synthetic)
    # `read` runs in TensorFlow's threads. If the iterator were freed during the
    # interpreter's shutdown, when threads no longer run, the process would hang.
    weakref.finalize(stream, running.clear)
    return stream


def _stream(running, lab_labels, synthetic) -> Iterator[Batch]:
    while running:
        # Only the list may hold a reference to the iterator beyond this call.
        labelled, fields = next(running[0], (None, None))
        if fields is None:
            return
        at = labelled["indices"]
        fields |= {"lab": labelled["labelled"], "labels": lab_labels[at]}
        if synthetic is not None:
            fields["synthetic"] = np.asarray(synthetic[fields["indices"]], bool)
        yield Batch(**fields, lab_indices=at)


def _named_failures(
    batches: Iterator[Batch], streams: Sequence[sampler.Stream], step: int
) -> Iterator[Batch]:
    """The batches from `step` on; RunFailed names the place of a damaged image."""
    try:
        for batch in batches:
            yield batch
            step += 1
    except tf.errors.OpError as e:
        for stream in streams:
            if stream.batch:
                stream.images.check(stream.indices(step))
        raise RunFailed(f"the images of step {step + 1} cannot be made: {e}") from e
