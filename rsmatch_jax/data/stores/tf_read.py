"""Reads TFDS datasets: decodes each image once. Imports TensorFlow."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from rsmatch_jax.data.stores import dataset_folder
from rsmatch_jax.data.stores.arrays import ImageArrays
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
            f"data.name={name!r} is no dataset that TFDS knows: {_text(e)}"
        ) from e
    except Exception as e:  # of any kind, from requests' errors to AssertionError
        raise RequestError(
            f"TFDS cannot prepare {name} in {data_dir}: {_text(e)}; prepare it on "
            "another machine and pass --config.data.data_dir=DIR"
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
        raise RequestError(f"TFDS cannot describe {name}: {_text(e)}; {way_out}") from e
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


def read_split(folder: str, split: str, *, with_generators: bool) -> ImageArrays:
    """Decodes one split, sorted by `id` in natural order, or in file order without id.

    Returns:
        Images uint8 [N, H, W, 1 or 3], labels int32 [N], for a pool also generators
        int32 [N].

    Raises:
        RequestError: features do not fit, images differ in size or have no label, or a
            file is damaged.
    """
    builder = tfds.builder_from_directory(folder)
    features = builder.info.features
    keys = ["label"] + ["generator"] * with_generators
    classes = {key: dataset_folder.label_names(folder, key) for key in keys}
    _check_images(folder, features)
    has_ids = "id" in features
    columns = _read_columns(folder, builder, split, ["image", *keys] + ["id"] * has_ids)
    ids = [
        i.decode(errors="replace") if isinstance(i, bytes) else str(i)
        for i in columns.pop("id", np.array([])).tolist()
    ]
    columns = dataset_folder.sort_and_check(folder, split, columns, ids, classes)
    name, count = builder.info.name, len(columns["label"])
    logging.info("Decoded %d images of %s %s", count, name, split)
    return ImageArrays(
        name=name,
        images=columns["image"],
        labels=columns["label"].astype(np.int32),
        class_names=classes["label"],
        generators=columns["generator"].astype(np.int32) if with_generators else None,
        generator_names=classes.get("generator", ()),
    )


def batches(
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
            f"({_text(e)}); copy or prepare the dataset again (a synthetic pool: "
            "import it again)"
        ) from e


def _read_columns(
    folder: str, builder: tfds.core.DatasetBuilder, split: str, keys: list[str]
) -> dict[str, np.ndarray]:
    """The features `keys` of all examples, in file order."""
    # Images of one size decode fastest in batches; others need a look at each size.
    one_size = None not in builder.info.features["image"].shape
    total = builder.info.splits[split].num_examples
    images, done = None, 0
    columns = {key: [] for key in keys if key != "image"}
    for batch in batches(builder, split, keys, _BATCH if one_size else 1):
        pixels = batch["image"]
        if images is None:
            images = np.empty((total, *pixels.shape[1:]), np.uint8)
        _check_size(folder, pixels.shape[1:], images.shape[1:])
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


def _check_images(folder: str, features: tfds.features.FeaturesDict):
    if not isinstance(dict(features.items()).get("image"), tfds.features.Image):
        raise RequestError(
            f"{folder} has no feature image of kind Image, only {', '.join(features)}"
        )
    image = features["image"]
    if image.shape[-1] not in (1, 3) or image.np_dtype != np.uint8:
        raise RequestError(
            f"{folder} has images of {image.shape[-1]} channels, {image.np_dtype}; "
            "1 or 3 channels of uint8 are needed"
        )


def _check_size(folder: str, size: tuple[int, ...], first: tuple[int, ...]):
    if size != first:
        sizes = " and ".join(f"{h}x{w}" for h, w, _ in (first, size))
        raise RequestError(
            f"{folder} has images of differing sizes ({sizes}); resize them with "
            "python -m rsmatch_jax.data.import_images --layout=folders --size=N, or "
            "keep them with --config.data.image_size=N"
        )


def _damaged_file(builder: tfds.core.DatasetBuilder, split: str) -> str | None:
    """The first file of a split that has a record with a wrong checksum."""
    for path in builder.info.splits[split].filepaths:
        try:
            for _ in tf.data.TFRecordDataset(str(path)):
                pass
        except tf.errors.DataLossError:
            return str(path)
    return None


def _text(error: Exception) -> str:
    return one_line(error, _MESSAGE)
