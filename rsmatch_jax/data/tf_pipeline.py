"""Input from the host: a tf.data stream of augmented uint8 batches.

The batch of step t is a pure function of (seed, t): the sampler chooses its images, and
the step keys the augmentation's random numbers. Resuming needs only the step.
"""

import weakref
from collections.abc import Callable, Iterator

import numpy as np

from rsmatch_jax.augment import views
from rsmatch_jax.data import sampler, tf_augment, tf_encoded_pipeline
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.data.stores.encoded import EncodedImages
from rsmatch_jax.data.stores.tf_import import tf
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

    `tf_augment` makes views of arrays, `tf_encoded_pipeline` those of encoded images.
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
    make = tf_encoded_pipeline.make_views if encoded else _make_views
    parts = [make(steps, stream, spec, parallel_steps) for stream in streams]
    dataset = _join(*parts, np.asarray(lab_labels, np.int32))
    running = _start(dataset, prefetch, synthetic)
    if encoded:
        return tf_encoded_pipeline.named_failures(running, streams, start_step)
    return running


def _make_views(
    steps: tf.data.Dataset,
    stream: sampler.Stream,
    spec: views.ViewSpec,
    parallel_steps: int,
) -> tf.data.Dataset:
    """As tf_encoded_pipeline.make_views, for arrays."""
    views.check(spec, stream.images.shape[1])
    rows, size = len(stream.rows), stream.images.shape[1]

    def read(step):
        at = stream.indices(step)
        return arrays.to_rgb(stream.images[at]), at

    def make(step):
        images, at = tf.numpy_function(read, [step], [tf.uint8, tf.int32])
        images = tf.ensure_shape(images, [rows, size, size, 3])
        made = {"indices": tf.ensure_shape(at, [rows])}
        for purpose in stream.purposes:
            drawn = tf_augment.draw(stream.seed, step, purpose, stream.batch, spec)
            if rows < stream.batch:
                drawn = tf_augment.take(drawn, stream.rows)
            view = tf_augment.strong if purpose == "strong" else tf_augment.weak
            made[purpose] = view(images, drawn, spec)
        return made

    return steps.map(
        tf_encoded_pipeline.plain(make),
        num_parallel_calls=parallel_steps,
        deterministic=True,
    )


def _join(labelled, unlabelled, lab_labels: np.ndarray) -> tf.data.Dataset:
    """A dataset of {field of Batch: array} of the views of both streams."""
    all_labels = tf.constant(lab_labels)

    def join(lab, unl):
        at = lab["indices"]
        labels = tf.gather(all_labels, at)
        return {**unl, "lab": lab["labelled"], "labels": labels, "lab_indices": at}

    dataset = tf.data.Dataset.zip((labelled, unlabelled))
    return dataset.map(tf_encoded_pipeline.plain(join))


def _start(
    dataset: tf.data.Dataset, prefetch: int, synthetic: np.ndarray | None
) -> Iterator[Batch]:
    """The batches of the dataset, with its threads."""
    options = tf.data.Options()
    # Steps run side by side; threads within an operation would only add to them.
    options.threading.max_intra_op_parallelism = 1
    dataset = dataset.prefetch(prefetch).with_options(options)
    running = [dataset.as_numpy_iterator()]
    stream = _stream(running, synthetic)
    # `read` runs in TensorFlow's threads. If the iterator were freed during the
    # interpreter's shutdown, when threads no longer run, the process would hang.
    weakref.finalize(stream, running.clear)
    return stream


def _stream(running, synthetic) -> Iterator[Batch]:
    while running:
        # Only the list may hold a reference to the iterator beyond this call.
        fields = next(running[0], None)
        if fields is None:
            return
        if synthetic is not None:
            fields["synthetic"] = np.asarray(synthetic[fields["indices"]], bool)
        yield Batch(**fields)
