"""The host input path: a tf.data stream of augmented uint8 batches.

The batch of step t is a pure function of (seed, t): the sampler names its images, and
the augmentation's random numbers are keyed by the step. Resuming needs only the step.
"""

import weakref
from collections.abc import Callable, Iterator

import numpy as np

from rsmatch_jax.augment import views
from rsmatch_jax.data import sampler, tf_augment
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.data.stores.tf_import import tf
from rsmatch_jax.state import Batch


def batches(
    lab_images: np.ndarray,
    lab_labels: np.ndarray,
    unl_images: np.ndarray,
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

    Args:
      lab_images, unl_images: uint8 [N, S, S, 1 or 3], never copied whole: read-only
        memory maps do, as does anything with `shape` that an index array can read.
        Grey images are repeated to three channels.
      lab_labels: integers [N of the labelled set].
      batch_size: labelled images a step; unlabeled_ratio times as many unlabelled.
      prefetch: finished batches to keep ready.
      synthetic: bool [N of the unlabelled set], ground truth; only for an oracle.
      parallel_steps: steps augmented at the same time. Neither it nor prefetch changes
        any batch.
      own_rows: positions in a batch of n rows, given n, of those that are wanted; no
        other is read or augmented. What is drawn for a row depends on its position in
        the whole batch alone.

    The reading threads stop when the iterator is closed, dropped or the program ends.

    Raises: RequestError for crop padding as wide as the images.
    """
    for images in (lab_images, unl_images):
        views.check(spec, images.shape[1])
    unl_batch = batch_size * unlabeled_ratio
    lab_own, unl_own = own_rows(batch_size), own_rows(unl_batch)
    size = lab_images.shape[1]

    def read(step):
        lab_at = sampler.step_indices(
            seed, "labelled", step, lab_images.shape[0], batch_size
        )[lab_own]
        unl_at = sampler.step_indices(
            seed, "unlabelled", step, unl_images.shape[0], unl_batch
        )[unl_own]
        return (
            arrays.to_rgb(lab_images[lab_at]),
            np.asarray(lab_labels[lab_at], np.int32),
            lab_at,
            arrays.to_rgb(unl_images[unl_at]),
            unl_at,
        )

    def make(step):
        lab, labels, lab_at, unl, unl_at = tf.numpy_function(
            read, [step], [tf.uint8, tf.int32, tf.int32, tf.uint8, tf.int32]
        )
        lab = tf.ensure_shape(lab, [len(lab_own), size, size, 3])
        unl = tf.ensure_shape(unl, [len(unl_own), size, size, 3])

        def numbers(purpose, rows, own):
            drawn = tf_augment.draw(seed, step, purpose, rows, spec)
            return tf_augment.take(drawn, own) if len(own) < rows else drawn

        return (
            tf_augment.weak(lab, numbers("labelled", batch_size, lab_own), spec),
            tf.ensure_shape(labels, [len(lab_own)]),
            tf.ensure_shape(lab_at, [len(lab_own)]),
            tf_augment.weak(unl, numbers("weak", unl_batch, unl_own), spec),
            tf_augment.strong(unl, numbers("strong", unl_batch, unl_own), spec),
            tf.ensure_shape(unl_at, [len(unl_own)]),
        )

    dataset = tf.data.Dataset.range(start_step, num_steps)
    # Plain Python decides what is traced; AutoGraph would cost a second at the start.
    make = tf.autograph.experimental.do_not_convert(make)
    dataset = dataset.map(make, num_parallel_calls=parallel_steps, deterministic=True)
    return start(dataset, prefetch, synthetic)


def start(
    dataset: tf.data.Dataset, prefetch: int, synthetic: np.ndarray | None
) -> Iterator[Batch]:
    """The batches of a dataset of (lab, labels, lab_indices, weak, strong, indices);
    prefetch, synthetic and the threads as in `batches`."""
    options = tf.data.Options()
    # Whole steps run side by side; threads inside one operation would only add to them.
    options.threading.max_intra_op_parallelism = 1
    dataset = dataset.prefetch(prefetch).with_options(options)
    running = [dataset.as_numpy_iterator()]
    stream = _stream(running, synthetic)
    # `read` runs in TensorFlow's threads. Were the iterator freed while the interpreter
    # shuts down, when threads get no turn any more, the process would never end.
    weakref.finalize(stream, running.clear)
    return stream


def _stream(running, synthetic) -> Iterator[Batch]:
    while running:
        # No reference but the list's may outlive the call.
        arrived = next(running[0], None)
        if arrived is None:
            return
        lab, labels, lab_at, weak, strong, unl_at = arrived
        flags = None if synthetic is None else np.asarray(synthetic[unl_at], bool)
        yield Batch(lab, labels, lab_at, weak, strong, unl_at, flags)
