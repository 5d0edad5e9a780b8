"""TFDS datasets to arrays: decodes each image once. Imports TensorFlow."""

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from rsmatch_jax.data.stores.arrays import ImageArrays
from rsmatch_jax.data.stores.dataset_folder import natural_key
from rsmatch_jax.data.stores.tf_import import tf
from rsmatch_jax.errors import RequestError

_CHUNK = 512


def prepare(name: str, data_dir: str) -> str:
    """Lets TFDS download and prepare `name`; returns the folder it made."""
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        builder.download_and_prepare()
    except tfds.core.DatasetNotFoundError as e:
        raise RequestError(
            f"data.name={name!r} is no dataset that TFDS knows: {_first_line(e)}"
        ) from e
    except Exception as e:
        # TFDS raises anything here, from requests' errors to AssertionError.
        raise RequestError(
            f"TFDS cannot prepare {name} in {data_dir}: {_first_line(e)} Prepare it "
            "elsewhere and pass --config.data.data_dir=DIR"
        ) from e
    return str(builder.data_dir)


def read_split(folder: str, split: str, *, with_generators: bool) -> ImageArrays:
    """Decodes one split, sorted by `id` in natural order, else in file order.

    Returns: images uint8 [N, H, W, 1 or 3], labels int32 [N], for a pool generators
    int32 [N]. Raises: RequestError on features that do not fit, images of differing
    sizes, unlabelled images and damaged files.
    """
    builder = tfds.builder_from_directory(folder)
    features = builder.info.features
    wanted = ["image", "label"] + ["generator"] * with_generators
    _check_features(folder, features, wanted)
    columns = _read_columns(
        folder, builder, split, wanted + ["id"] * ("id" in features)
    )
    order = _order(columns)
    labels = columns["label"][order].astype(np.int32)
    if labels.min() < 0:
        raise RequestError(
            f"{folder}: {(labels < 0).sum()} images of {split} have no label"
        )
    generators, generator_names = None, ()
    if with_generators:
        generators = columns["generator"][order].astype(np.int32)
        generator_names = tuple(features["generator"].names)
    logging.info("Decoded %d images of %s %s", len(labels), builder.info.name, split)
    return ImageArrays(
        name=builder.info.name,
        images=columns["image"][order],
        labels=labels,
        class_names=tuple(features["label"].names),
        generators=generators,
        generator_names=generator_names,
    )


def _read_columns(
    folder: str, builder, split: str, keys: list[str]
) -> dict[str, np.ndarray]:
    """The features `keys` of all examples, in file order."""
    dataset = builder.as_dataset(
        split,
        shuffle_files=False,
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
    )
    dataset = dataset.map(lambda example: {key: example[key] for key in keys})
    # Images of one size decode fastest in batches; others must be looked at singly.
    one_size = None not in builder.info.features["image"].shape
    dataset = dataset.batch(_CHUNK if one_size else 1).prefetch(tf.data.AUTOTUNE)
    total = builder.info.splits[split].num_examples
    images, done = None, 0
    columns = {key: [] for key in keys if key != "image"}
    try:
        for chunk in dataset.as_numpy_iterator():
            batch = chunk["image"]
            if images is None:
                images = np.empty((total, *batch.shape[1:]), np.uint8)
            _check_size(folder, batch.shape[1:], images.shape[1:])
            images[done : done + len(batch)] = batch
            done += len(batch)
            for key, values in columns.items():
                values.append(chunk[key])
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as e:
        raise RequestError(
            f"{_damaged_file(builder, split) or folder} cannot be decoded "
            f"({_first_line(e)}); copy or prepare the dataset again"
        ) from e
    if done != total or not total:
        raise RequestError(
            f"{folder} has {done} images in {split}, its description says {total}; "
            "copy or prepare the dataset again"
        )
    return {"image": images, **{k: np.concatenate(v) for k, v in columns.items()}}


def _check_features(folder: str, features, wanted: list[str]):
    for key in wanted:
        kind = tfds.features.Image if key == "image" else tfds.features.ClassLabel
        if key not in features or not isinstance(features[key], kind):
            hint = (
                "; import its images with --generator=NAME" * (key == "generator")
                or "; only labelled images can be used"
            )
            raise RequestError(
                f"{folder} has no feature {key} of kind {kind.__name__}, only "
                f"{', '.join(features)}{hint}"
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
            f"{folder} has images of differing sizes ({sizes}); bring them to one with "
            "python -m rsmatch_jax.data.import_images --layout=folders --size=N, or "
            "keep them as they are with --config.data.image_size=N"
        )


def _order(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Positions sorted by id in natural order (stable); without ids, as they are."""
    positions = np.arange(len(columns["image"]))
    if "id" not in columns:
        return positions
    keys = [
        natural_key(i.decode(errors="replace") if isinstance(i, bytes) else str(i))
        for i in columns["id"].tolist()
    ]
    return np.array(sorted(positions, key=keys.__getitem__))


def _damaged_file(builder, split: str) -> str | None:
    """The first file of a split whose records' checksums do not hold."""
    for path in builder.info.splits[split].filepaths:
        try:
            for _ in tf.data.TFRecordDataset(str(path)):
                pass
        except tf.errors.DataLossError:
            return str(path)
    return None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
