"""Prepares and decodes TFDS datasets."""

import os
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
    """Lets TFDS download and prepare a dataset; returns its folder."""
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
    return builder.data_dir


def class_names(name: str) -> tuple[str, ...]:
    """Returns the class names of a TFDS dataset that is not prepared here."""
    way_out = "prepare it (by a training run or tfds build) and pass --data_dir=DIR"
    try:
        features = dict((tfds.builder(name).info.features or {}).items())
    except tfds.core.DatasetNotFoundError:
        raise RequestError(
            f"--dataset={name} is neither a dataset that TFDS knows nor a folder"
        ) from None
    except Exception as e:  # of any kind: a dataset may need a package that is missing
        reason = one_line(e, _MESSAGE)
        raise RequestError(f"TFDS cannot describe {name}: {reason}; {way_out}") from e
    label = features.get("label")
    if not isinstance(label, tfds.features.ClassLabel) or not label.num_classes:
        raise RequestError(f"{name} has no class label; it must have one")
    names = tuple(label.names)
    if names == tuple(str(i) for i in range(len(names))):
        reason = f"TFDS does not know the class names of {name} before it is prepared"
        raise RequestError(f"{reason}; {way_out}")
    return names


def read_split(
    source: Source, split: str, classes: dict[str, tuple[str, ...]]
) -> ImageArrays:
    """Decodes one split, sorted by `id` in natural order, or in file order without id.
    classes: names of `label`, and of `generator` in a pool."""
    builder = tfds.builder_from_directory(source.folder)
    features = dict(builder.info.features.items())
    image = features.get("image")
    is_image = isinstance(image, tfds.features.Image) and image.np_dtype == np.uint8
    if image is None or not is_image or image.shape[-1] not in (1, 3):
        kinds = ", ".join(f"{name} {kind!r}" for name, kind in features.items())
        raise RequestError(
            f"{source.folder} has no feature image of kind Image with 1 or 3 channels "
            f"of uint8, only {kinds}"
        )
    columns = _read_columns(builder, split, [*classes] + ["id"] * ("id" in features))
    stored = columns.pop("id", np.array([])).tolist()
    ids = [
        i.decode(errors="replace") if isinstance(i, bytes) else str(i) for i in stored
    ]
    data = dataset_folder.assemble(source, split, columns, ids, classes)
    logging.info("Decoded %d images of %s %s", len(data.labels), data.name, split)
    return data


def read_files(folder: str, split: str) -> Iterator[tuple[bytes, int]]:
    """Yields (file, generator, -1 if there is none) of each image, in file order."""
    dataset_folder.check_shards(dataset_folder.inspect(folder), [split])
    builder = tfds.builder_from_directory(folder)
    keys = ["image"] + ["generator"] * ("generator" in builder.info.features)
    decoders = {"image": tfds.decode.SkipDecoding()}
    for batch in _batches(builder, split, keys, _BATCH, decoders):
        files = batch["image"].tolist()
        yield from zip(files, batch.get("generator", [-1] * len(files)), strict=True)


def _batches(
    builder: tfds.core.DatasetBuilder,
    split: str,
    keys: Sequence[str],
    batch_size: int,
    decoders: Mapping[str, Any] | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the features `keys` in file order; RequestError names a damaged file."""
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
        paths = builder.info.splits[split].filepaths
        path = next(filter(_has_wrong_checksum, paths), builder.data_dir)
        reason = f"{path} cannot be decoded ({one_line(e, _MESSAGE)})"
        raise RequestError(
            f"{reason}; copy or prepare the dataset again (a pool: import it again)"
        ) from e


def _has_wrong_checksum(path: os.PathLike[str]) -> bool:
    try:
        for _ in tf.data.TFRecordDataset(str(path)):
            pass
    except tf.errors.DataLossError:
        return True
    return False


def _read_columns(
    builder: tfds.core.DatasetBuilder, split: str, keys: list[str]
) -> dict[str, np.ndarray]:
    """Returns the image and the features `keys` of all examples, in file order."""
    folder = builder.data_dir
    # Images of one size decode fastest in batches; others need a look at each size.
    one_size = None not in builder.info.features["image"].shape
    total = builder.info.splits[split].num_examples
    images: np.ndarray | None = None
    done = 0
    columns: dict[str, list[np.ndarray]] = {key: [] for key in keys}
    for batch in _batches(builder, split, ["image", *keys], _BATCH if one_size else 1):
        pixels = batch["image"]
        if images is None:
            images = np.empty((total, *pixels.shape[1:]), np.uint8)
        if pixels.shape[1:] != images.shape[1:]:
            sizes = (f"{h}x{w}" for _, h, w, _ in (images.shape, pixels.shape))
            raise RequestError(
                f"{folder} has images of differing sizes ({' and '.join(sizes)}): "
                "resize them by `rsmatch import --layout=folders --size=N`, or keep "
                "their sizes by --config.data.image_size=N"
            )
        images[done : done + len(pixels)] = pixels
        done += len(pixels)
        for key, values in columns.items():
            values.append(batch[key])
    if images is None or done != total:
        count = f"{done} images in {split}, but its description says {total}"
        raise RequestError(f"{folder} has {count}; copy or prepare the dataset again")
    return {"image": images, **{k: np.concatenate(v) for k, v in columns.items()}}
