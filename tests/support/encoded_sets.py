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
    made = []
    for number in range(first, first + count):
        height, width = np.random.default_rng(number).integers(20, 60, 2)
        image = picture(number, height, width)
        image = image.convert("L") if number % 5 == 4 else image
        made.append(file(image, "PNG" if number % 3 == 2 else "JPEG"))
    return made


def write(folder, splits, *, generators=(), first=0):
    """A dataset folder of {split: images}, classes in turn, ids counted from 1.

    They are written in the text order of their ids: 1, 10, 11, 2, ... Returns the files
    of each split in the order of their numbers.
    """
    from rsmatch_jax.data.stores import tf_write

    content, made = {}, {}
    for split, count in splits.items():
        data = made[split] = files(count, first)
        first += count
        content[split] = [
            tf_write.Example(
                image=data[i - 1],
                label=(i - 1) % len(CLASSES),
                id=f"{split}_{i}",
                generator=(i - 1) // len(CLASSES) % 2 if generators else None,
            )
            for i in sorted(range(1, count + 1), key=str)
        ]
    tf_write.write(
        str(folder),
        content,
        class_names=CLASSES,
        size=(None, None),
        generator_names=generators,
        pool={"licence": "none"} if generators else None,
    )
    return made


def write_records(path, records) -> str:
    """A TFRecord file of these bytes, by TensorFlow."""
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    return str(path)
