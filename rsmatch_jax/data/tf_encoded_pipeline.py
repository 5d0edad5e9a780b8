"""Views of encoded images for `tf_pipeline`.

Images are read, decoded and cropped one by one, in as many threads as there are cores;
the other operations of the strong view run on batches. A weak view is a random-resized
crop (spec.crop_area) and flip; the strong view is an independent such crop and flip,
spec.randaugment_ops operations and Cutout. spec.crop_pad is unused.
"""

from collections.abc import Iterator, Sequence

from rsmatch_jax.augment import views
from rsmatch_jax.data import sampler, tf_augment, tf_crop
from rsmatch_jax.data.stores.tf_import import tf
from rsmatch_jax.errors import RunFailed
from rsmatch_jax.state import Batch


def make_views(
    steps: tf.data.Dataset,
    stream: sampler.Stream,
    spec: views.ViewSpec,
    parallel_steps: int,
) -> tf.data.Dataset:
    """Returns a dataset of {purpose: uint8 [rows, S, S, 3], "indices": int32 [rows]}.

    stream.images: EncodedImages. parallel_steps: images decoded, and batches augmented,
    at the same time.
    """
    rows, size, purposes = len(stream.rows), stream.images.size, stream.purposes
    if not rows:
        nothing = dict.fromkeys(purposes, tf.zeros([0, size, size, 3], tf.uint8))
        nothing["indices"] = tf.zeros([0], tf.int32)
        return steps.map(lambda step: nothing)

    def plan(step):
        """Positions and random numbers of the step's views, the rows first."""
        at = tf.numpy_function(stream.indices, [step], tf.int32)
        drawn = {p: _draw(stream, step, p, spec) for p in purposes}
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
            crops["strong"] = _strong(crops["strong"], drawn["strong"], spec)
        return {**crops, "indices": at}

    many = {"num_parallel_calls": parallel_steps, "deterministic": True}
    dataset = steps.map(plain(plan), **many).unbatch()
    dataset = dataset.map(plain(crop), **many).batch(rows, drop_remainder=True)
    return dataset.map(plain(finish), **many)


def named_failures(
    batches: Iterator[Batch], streams: Sequence[sampler.Stream], step: int
) -> Iterator[Batch]:
    """Yields the batches from `step` on; a failure to decode names the image's place.

    Raises:
        RunFailed: an image is damaged.
    """
    try:
        for batch in batches:
            yield batch
            step += 1
    except tf.errors.OpError as e:
        for stream in streams:
            if stream.batch:
                stream.images.check(stream.indices(step))
        raise RunFailed(f"the images of step {step + 1} cannot be made: {e}") from e


def plain(function):
    """Returns the function without AutoGraph, which adds a second to the start."""
    return tf.autograph.experimental.do_not_convert(function)


def _draw(stream, step, purpose, spec):
    """Random numbers of one step's views, the rows first."""
    seed, batch = stream.seed, stream.batch
    numbers = tf_augment.draw(seed, step, purpose, batch, spec)
    tries = tf_augment.draw_uniform(seed, step, purpose, [batch, tf_crop.TRIES, 4])
    used = {"crop": tries, "flip": numbers["flip"]}
    if purpose == "strong":
        # Only used numbers: TensorFlow's unbatch crashes on tensors without elements.
        if spec.randaugment_ops:
            used |= {key: tf.transpose(numbers[key]) for key in ("ops", "values")}
        if spec.cutout:
            used["cutout"] = numbers["cutout"]
    return {name: tf.gather(drawn, stream.rows) for name, drawn in used.items()}


def _strong(images, numbers, spec):
    for slot in range(spec.randaugment_ops):
        ops, values = numbers["ops"][:, slot], numbers["values"][:, slot]
        images = tf_augment.apply_ops(images, ops, values)
    return tf_augment.cutout(images, numbers["cutout"]) if spec.cutout else images
