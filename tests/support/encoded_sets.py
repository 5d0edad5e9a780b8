"""Datasets of JPEG and PNG files of mixed sizes, for tests of encoded images."""

import numpy as np
from support import pictures

CLASSES = ("cat", "dog", "owl", "yak")


def files(count: int, first: int) -> list[bytes]:
    """Every third a PNG, every fifth grey; sides of 20 to 59 px."""
    encoded = []
    for number in range(first, first + count):
        height, width = np.random.default_rng(number).integers(20, 60, 2)
        image = pictures.smooth(number, height, width)
        image = image.convert("L") if number % 5 == 4 else image
        kind = "PNG" if number % 3 == 2 else "JPEG"
        encoded.append(pictures.encode(image, kind))
    return encoded


def write(folder, splits, *, generators=(), first=0):
    """A dataset folder of {split: number of images}; returns the files by split."""
    content = {}
    for split, count in splits.items():
        content[split] = files(count, first)
        first += count
    write_images(folder, content, CLASSES, (None, None), generators)
    return content


def write_images(folder, content, classes, size, generators=(), unlabelled=None):
    """A dataset folder of {split: files or pixels}; classes and generators in turn.

    Ids count from 1. Images are written in the text order of their ids: 1, 10, 11, 2.
    unlabelled: the split whose images have no class.
    """
    from rsmatch_jax.data.stores import tf_write

    def examples(split, images):
        for i in sorted(range(len(images)), key=lambda i: str(i + 1)):
            generator = i // len(classes) % len(generators) if generators else None
            label = -1 if split == unlabelled else i % len(classes)
            yield tf_write.Example(images[i], label, f"{split}_{i + 1}", generator)

    tf_write.write(
        str(folder),
        {split: examples(split, images) for split, images in content.items()},
        class_names=classes,
        size=size,
        generator_names=generators,
        pool={"licence": "none"} if generators else None,
    )


def stored(folder, split="train"):
    """The examples of a dataset folder as TFDS reads them; images stay files."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(folder))
    decoders = {"image": tfds.decode.SkipDecoding()}
    return list(tfds.as_numpy(builder.as_dataset(split, decoders=decoders)))


def task(train, test, pool, **counts):
    """A task of which half of the unlabelled images are synthetic."""
    from rsmatch_jax.data import rs_ssl

    split = rs_ssl.make_split(train, pool, ratio=0.5, **counts)
    return rs_ssl.make_task(train, test, pool, split)


def check_task(task, train, pool):
    """The images, flags and generators of a task are those of its split."""
    real, synthetic = task.split.unlabeled_real, task.split.unlabeled_synthetic
    count = len(real)
    for images, expected in (
        (task.unl_images[:count], train.images[real]),
        (task.unl_images[count:], pool.images[synthetic]),
        (task.lab_images[:], train.images[task.split.labeled]),
        (task.val_images[:], train.images[task.split.validation]),
    ):
        np.testing.assert_array_equal(images, expected)
    of_pool = np.arange(len(task.unl_images)) >= count
    np.testing.assert_array_equal(task.unl_synthetic, of_pool)
    generators = [-1] * count + pool.generators[synthetic].tolist()
    assert len(synthetic) and task.unl_origins.tolist() == generators


def write_records(path, records) -> str:
    """A TFRecord file of these bytes, by TensorFlow."""
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    return str(path)
