"""Datasets of JPEG and PNG files of mixed sizes, for tests of encoded images."""

import io

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog", "owl", "yak")


def picture(number: int, height: int, width: int) -> Image.Image:
    """Smooth colours: decoders and kernels differ little on them."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def file(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **({"quality": 95} if kind == "JPEG" else {}))
    return buffer.getvalue()


def files(count: int, first: int) -> list[bytes]:
    """Every third a PNG, every fifth grey; sides of 20 to 59 px."""
    encoded = []
    for number in range(first, first + count):
        height, width = np.random.default_rng(number).integers(20, 60, 2)
        image = picture(number, height, width)
        image = image.convert("L") if number % 5 == 4 else image
        encoded.append(file(image, "PNG" if number % 3 == 2 else "JPEG"))
    return encoded


def write(folder, splits, *, generators=(), first=0):
    """A dataset folder of {split: number of images}; returns the files by split."""
    content = {}
    for split, count in splits.items():
        content[split] = files(count, first)
        first += count
    write_images(folder, content, CLASSES, (None, None), generators)
    return content


def write_images(folder, content, classes, size, generators=()):
    """A dataset folder of {split: files or pixels}; classes and generators in turn.

    Ids count from 1. Images are written in the text order of their ids: 1, 10, 11, 2.
    """
    from rsmatch_jax.data.stores import tf_write

    def examples(split, images):
        for i in sorted(range(len(images)), key=lambda i: str(i + 1)):
            generator = i // len(classes) % len(generators) if generators else None
            label = i % len(classes)
            yield tf_write.Example(images[i], label, f"{split}_{i + 1}", generator)

    tf_write.write(
        str(folder),
        {split: examples(split, images) for split, images in content.items()},
        class_names=classes,
        size=size,
        generator_names=generators,
        pool={"licence": "none"} if generators else None,
    )


def task(train, test, pool, **counts):
    """A task of which half of the unlabelled images are synthetic."""
    from rsmatch_jax.data import rs_ssl

    labels = {"pool_labels": pool.labels, "pool_generators": pool.generators}
    classes = train.num_classes
    split = rs_ssl.make_split(train.labels, classes, ratio=0.5, **labels, **counts)
    return rs_ssl.make_task(train, test, pool, split)


def write_records(path, records) -> str:
    """A TFRecord file of these bytes, by TensorFlow."""
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    return str(path)
