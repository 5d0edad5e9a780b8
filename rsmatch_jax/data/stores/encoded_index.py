"""An index of the encoded images in a TFDS dataset folder: their places and labels.

Searching takes some 40 microseconds per image on one core, a minute for ImageNet if the
disk keeps up. The images themselves are not read.
"""

import dataclasses
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from rsmatch_jax.data.stores import dataset_folder, tfrecord
from rsmatch_jax.data.stores.arrays import ImageArrays
from rsmatch_jax.data.stores.dataset_folder import Source
from rsmatch_jax.data.stores.encoded import EncodedImages
from rsmatch_jax.errors import RequestError

_ORDERS = ("id", "file_name")  # features by which images are sorted
_READERS = 16  # files searched at the same time


def build(
    source: Source, split: str, size: int, classes: dict[str, tuple[str, ...]]
) -> ImageArrays:
    """Searches the files of a split; returns encoded images with views of `size` px.

    They are in the natural order of `id` or `file_name`, or else in file order.
    classes: names of `label`, and of `generator` in a pool.
    """
    if source.file_format != "tfrecord":
        raise RequestError(
            f"{source.folder} is in format {source.file_format}, but data.image_size "
            f"needs tfrecord: run tfds build {source.name} --file_format=tfrecord "
            "--data_dir=DIR, then pass --config.data.data_dir=DIR"
        )
    keys = ["image", *classes]
    shards = dataset_folder.shards(source, split)
    search = functools.partial(_search, source, keys)
    with ThreadPoolExecutor(min(len(shards), _READERS) or 1) as pool:
        parts = list(pool.map(search, range(len(shards)), shards))
    columns = {key: np.concatenate([part[key] for part, _ in parts]) for key in keys}
    ids = [name for _, names in parts for name in names]
    data = dataset_folder.assemble(source, split, columns, ids, classes)
    places, paths = data.images, tuple(path for path, _ in shards)
    assert isinstance(places, np.ndarray)
    return dataclasses.replace(data, images=EncodedImages(paths, places, size))


def _search(
    source: Source, keys: Sequence[str], number: int, shard: tuple[str, int]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns a shard's columns (`image`: places [n, 3]; classes: [n]) and ids."""
    path, _ = shard
    columns: dict[str, list[Any]] = {key: [] for key in keys}
    ids = []
    for record in dataset_folder.records(source, shard, (*keys, *_ORDERS)):
        for key, column in columns.items():
            value = record.get(key)
            if not isinstance(value, tfrecord.Place if key == "image" else int):
                raise dataset_folder.damaged(source, path, f"a record has no {key}")
            column.append((number, *value) if isinstance(value, tuple) else value)
        name = next((record[key] for key in _ORDERS if key in record), None)
        if isinstance(name, tfrecord.Place):
            ids.append(tfrecord.read(path, name).decode(errors="replace"))
    parts = {key: np.array(column, np.int64) for key, column in columns.items()}
    return {**parts, "image": parts["image"].reshape(-1, 3)}, ids
