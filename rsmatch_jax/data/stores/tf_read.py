"""Reads TFDS datasets: decodes each image once. Imports TensorFlow."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from rsmatch_jax.data.stores import dataset_folder
from rsmatch_jax.data.stores.arrays import ImageArrays
from rsmatch_jax.data.stores.dataset_folder import Source
from rsmatch_jax.data.stores.tf_import import tf
from rsmatch_jax.errors import RequestError, one_line

_BATCH = 512
_MESSAGE = 300  # characters of an error of TFDS that are shown


def prepare(name: str, data_dir: str) -> str:
    """Lets TFDS download and prepare a dataset; returns its folder.

    Raises:
        RequestError: TFDS does not know the dataset or fails to prepare it.
    """
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        builder.download_and_prepare()
    except tfds.core.DatasetNotFoundError as e:
        raise RequestError(
            f"data.name={name!r} is no dataset that TFDS knows: {one_line(e, _MESSAGE)}"
        ) from e
    except Exception as e:  # of any kind, from requests' errors to AssertionError
        raise RequestError(
            f"TFDS cannot prepare {name} in {data_dir}: {one_line(e, _MESSAGE)}; "
            "prepare it on another machine and pass --config.data.data_dir=DIR"
        ) from e
    return str(builder.data_dir)


def class_names(name: str) -> tuple[str, ...]:
    """Returns the class names of a TFDS dataset that is not prepared here.

    Raises:
        RequestError: TFDS does not know the dataset, or reads its class names from the
            download only, as for many datasets.
    """
    way_out = (
        "prepare it (a training run does, or tfds build) and pass --data_dir=DIR of "
        "the prepared copy"
    )
    try:
        features = tfds.builder(name).info.features
    except tfds.core.DatasetNotFoundError:
        raise RequestError(
            f"--dataset={name} is neither a dataset that TFDS knows nor a folder"
        ) from None
    except Exception as e:  # of any kind: a dataset may need a package that is missing
        raise RequestError(
            f"TFDS cannot describe {name}: {one_line(e, _MESSAGE)}; {way_out}"
        ) from e
    label = features["label"] if features and "label" in features else None
    if not isinstance(label, tfds.features.ClassLabel) or not label.num_classes:
        raise RequestError(
            f"{name} has no class label; only labelled images can be used"
        )
    names = tuple(label.names)
    if names == tuple(str(i) for i in range(len(names))):
        raise RequestError(
            f"TFDS does not know the class names of {name} before it is prepared; "
            f"{way_out}"
        )
    return names


def read_split(source: Source, split: str, *, with_generators: bool) -> ImageArrays:
    """Decodes one split, sorted by `id` in natural order, or in file order without id.

    Raises:
        RequestError: features do not fit, images differ in size or have no label, or a
            file is damaged.
    """
    folder = source.folder
    builder = tfds.builder_from_directory(folder)
    features = dict(builder.info.features.items())
    keys = ["label"] + ["generator"] * with_generators
    classes = {key: dataset_folder.label_names(folder, key) for key in keys}
    image = features.get("image")
    if not isinstance(image, tfds.features.Image):
        raise RequestError(
            f"{folder} has no feature image of kind Image, only {', '.join(features)}"
        )
    if image.shape[-1] not in (1, 3) or image.np_dtype != np.uint8:
        raise RequestError(
            f"{folder} has images of {image.shape[-1]} channels, {image.np_dtype}; "
            "1 or 3 channels of uint8 are needed"
        )
    columns = _read_columns(builder, split, keys + ["id"] * ("id" in features))
    ids = [
        i.decode(errors="replace") if isinstance(i, bytes) else str(i)
        for i in columns.pop("id", np.array([])).tolist()
    ]
    data = dataset_folder.assemble(source, split, columns, ids, classes)
    logging.info("Decoded %d images of %s %s", len(data.labels), data.name, split)
    return data


def read_files(
    folder: str, split: str, *, with_generators: bool
) -> Iterator[tuple[list[bytes], np.ndarray]]:
    """Yields batches of (image files, generators int32 [B]) in file order.

    Generators are -1 if with_generators is False.

    Raises:
        RequestError: a shard is damaged.
    """
    dataset_folder.check_shards(dataset_folder.inspect(folder), [split])
    builder = tfds.builder_from_directory(folder)
    keys = ["image"] + ["generator"] * with_generators
    decoders = {"image": tfds.decode.SkipDecoding()}
    for batch in _batches(builder, split, keys, _BATCH, decoders):
        files = batch["image"].tolist()
        generators = batch.get("generator", np.full(len(files), -1))
        yield files, generators.astype(np.int32)


def _batches(
    builder: tfds.core.DatasetBuilder,
    split: str,
    keys: Sequence[str],
    batch_size: int,
    decoders: Mapping[str, Any] | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields batches of the features `keys`, in file order.

    Raises:
        RequestError: a file is damaged.
    """
    dataset = builder.as_dataset(
        split,
        decoders=decoders,
        shuffle_files=False,
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
    )
    dataset = dataset.map(lambda example: {key: example[key] for key in keys})
    dataset = dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)
    try:
        yield from dataset.as_numpy_iterator()
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as e:
        raise RequestError(
            f"{_damaged_file(builder, split) or builder.data_dir} cannot be decoded "
            f"({one_line(e, _MESSAGE)}); copy or prepare the dataset again (a "
            "synthetic pool: import it again)"
        ) from e


def _read_columns(
    builder: tfds.core.DatasetBuilder, split: str, keys: list[str]
) -> dict[str, np.ndarray]:
    """The image and the features `keys` of all examples, in file order."""
    folder = builder.data_dir
    # Images of one size decode fastest in batches; others need a look at each size.
    one_size = None not in builder.info.features["image"].shape
    total = builder.info.splits[split].num_examples
    images, done = None, 0
    columns = {key: [] for key in keys}
    for batch in _batches(builder, split, ["image", *keys], _BATCH if one_size else 1):
        pixels = batch["image"]
        if images is None:
            images = np.empty((total, *pixels.shape[1:]), np.uint8)
        if pixels.shape[1:] != images.shape[1:]:
            sizes = [f"{h}x{w}" for _, h, w, _ in (images.shape, pixels.shape)]
            raise RequestError(
                f"{folder} has images of differing sizes ({' and '.join(sizes)}); "
                "resize them with python -m rsmatch_jax.data.import_images "
                "--layout=folders --size=N, or keep them with "
                "--config.data.image_size=N"
            )
        images[done : done + len(pixels)] = pixels
        done += len(pixels)
        for key, values in columns.items():
            values.append(batch[key])
    if done != total or not total:
        raise RequestError(
            f"{folder} has {done} images in {split}, but its description says {total}; "
            "copy or prepare the dataset again"
        )
    return {"image": images, **{k: np.concatenate(v) for k, v in columns.items()}}


def _damaged_file(builder: tfds.core.DatasetBuilder, split: str) -> str | None:
    """The first file of a split that has a record with a wrong checksum."""
    for path in builder.info.splits[split].filepaths:
        try:
            for _ in tf.data.TFRecordDataset(str(path)):
                pass
        except tf.errors.DataLossError:
            return str(path)
    return None
