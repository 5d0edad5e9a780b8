"""An index of the encoded images in a TFDS dataset folder: their places and labels.

It is made once and cached: some 40 microseconds per image on one core, a minute for
ImageNet if the disk keeps up. The images themselves are not read. Needs no TensorFlow.
"""

import dataclasses
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from rsmatch_jax.data.stores import dataset_folder, tfrecord
from rsmatch_jax.data.stores.arrays import ImageArrays
from rsmatch_jax.data.stores.dataset_folder import Source
from rsmatch_jax.data.stores.encoded import EncodedImages
from rsmatch_jax.errors import RequestError

_ORDERS = ("id", "file_name")  # features by which images are sorted
_READERS = 16  # files searched at the same time


def build(
    source: Source, split: str, size: int, *, with_generators: bool
) -> ImageArrays:
    """Searches the files of a split; returns encoded images with views of `size` px.

    They are sorted by `id` or `file_name` in natural order; without these features they
    are in file order.

    Raises:
        RequestError: the dataset has another format, an image has no label, or a shard
            is absent or damaged.
    """
    if source.file_format != "tfrecord":
        raise RequestError(
            f"{source.folder} is in TFDS's format {source.file_format}, but "
            "data.image_size reads images from tfrecord files, TFDS's usual format: "
            f"run tfds build {source.name} --file_format=tfrecord --data_dir=DIR, then "
            "pass --config.data.data_dir=DIR"
        )
    keys = ["image", "label"] + ["generator"] * with_generators
    classes = {key: dataset_folder.label_names(source.folder, key) for key in keys[1:]}
    shards = dataset_folder.shards(source, split)
    search = functools.partial(_search, source, keys)
    with ThreadPoolExecutor(min(len(shards), _READERS) or 1) as pool:
        parts = list(pool.map(search, range(len(shards)), shards))
    columns = {key: np.concatenate([part[key] for part, _ in parts]) for key in keys}
    ids = [name for _, names in parts for name in names]
    data = dataset_folder.assemble(source, split, columns, ids, classes)
    paths = tuple(path for path, _ in shards)
    return dataclasses.replace(data, images=EncodedImages(paths, data.images, size))


def _search(
    source: Source, keys: Sequence[str], number: int, shard: tuple[str, int]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """A shard's columns (`image`: places int64 [n, 3]; classes: int32 [n]) and ids."""
    path, length = shard
    columns = {key: np.empty(length, np.int32) for key in keys}
    columns["image"] = np.empty((length, 3), np.int64)
    ids, row = [], 0
    try:
        for record in tfrecord.records(path, (*keys, *_ORDERS)):
            if row == length:
                raise tfrecord.Damaged(f"more than the {length} records it should have")
            for key in keys:
                kind = tfrecord.Place if key == "image" else int
                if not isinstance(record.get(key), kind):
                    raise tfrecord.Damaged(f"a record has no {key}")
                value = record[key]
                columns[key][row] = (number, *value) if key == "image" else value
            name = next((record[key] for key in _ORDERS if key in record), None)
            if isinstance(name, tfrecord.Place):
                ids.append(tfrecord.read(path, name).decode(errors="replace"))
            row += 1
        if row < length:
            raise tfrecord.Damaged(f"{row} complete records of {length}")
    except tfrecord.Damaged as e:
        raise dataset_folder.damaged(source, path, str(e)) from None
    except OSError as e:
        raise RequestError(f"{path} cannot be read ({e}); restore it") from None
    return columns, ids
