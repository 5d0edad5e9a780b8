"""Where the encoded images of a TFDS dataset folder lie, and their labels.

Found once and cached: some 40 microseconds an image on one core, a minute for ImageNet
where the disk keeps up. The images themselves are not read. No TensorFlow.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from rsmatch_jax.data.stores import arrays, dataset_folder, tfrecord
from rsmatch_jax.data.stores.dataset_folder import Source
from rsmatch_jax.data.stores.encoded import EncodedImages
from rsmatch_jax.errors import RequestError

_ORDERS = ("id", "file_name")  # features by which images are sorted
_READERS = 16  # files searched at the same time


@dataclasses.dataclass(frozen=True)
class Index:
    """Where the images of a split are, sorted by `id` or `file_name` in natural order,
    else in file order.

    shards: file names; places: int64 [N, 3] as in EncodedImages; labels, generators:
    int32 [N] as in ImageArrays.
    """

    name: str
    shards: tuple[str, ...]
    places: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    generators: np.ndarray | None = None
    generator_names: tuple[str, ...] = ()

    def images(self, folder: str, size: int) -> arrays.ImageArrays:
        """The split as it lies in `folder`, its images seen at `size` px."""
        files = tuple(os.path.join(folder, shard) for shard in self.shards)
        return arrays.ImageArrays(
            name=self.name,
            images=EncodedImages(files, self.places, size),
            labels=self.labels,
            class_names=self.class_names,
            generators=self.generators,
            generator_names=self.generator_names,
        )


def build(source: Source, split: str, *, with_generators: bool) -> Index:
    """Searches the files of a split.

    Raises: RequestError where it is no TFRecord dataset of labelled images, or a shard
    is absent or damaged.
    """
    require_tfrecord(source)
    keys = ["image", "label"] + ["generator"] * with_generators
    classes = {key: dataset_folder.label_names(source.folder, key) for key in keys[1:]}
    shards = dataset_folder.shards(source, split)
    search = functools.partial(_search, source, keys)
    with ThreadPoolExecutor(min(len(shards), _READERS) or 1) as pool:
        parts = list(pool.map(search, range(len(shards)), shards))
    places = np.concatenate([p for p, _, _ in parts])
    labels = {
        key: np.concatenate([columns[key] for _, columns, _ in parts])
        for key in keys[1:]
    }
    ids = [name for _, _, names in parts for name in names]
    if len(ids) == len(places):
        sort_keys = [dataset_folder.natural_key(name) for name in ids]
        order = np.array(sorted(range(len(ids)), key=sort_keys.__getitem__))
        places = places[order]
        labels = {key: values[order] for key, values in labels.items()}
    for key, values in labels.items():
        out = (values < 0) | (values >= len(classes[key]))
        if out.any():
            raise RequestError(
                f"{source.folder}: {out.sum()} images of {split} have no {key}"
            )
    return Index(
        name=source.name,
        shards=tuple(os.path.basename(path) for path, _ in shards),
        places=places,
        labels=labels["label"],
        class_names=classes["label"],
        generators=labels.get("generator"),
        generator_names=classes.get("generator", ()),
    )


def require_tfrecord(source: Source):
    """Raises RequestError for a dataset folder in another of TFDS's file formats."""
    if not dataset_folder.is_tfrecord(source):
        raise RequestError(
            f"{source.folder} is in TFDS's format {source.info['fileFormat']}; with "
            "data.image_size images are read where they lie in tfrecord files, TFDS's "
            f"usual format: tfds build {source.name} --file_format=tfrecord "
            "--data_dir=DIR, then --config.data.data_dir=DIR"
        )


def save(folder: str, index: Index, extra: Mapping[str, Any] | None = None):
    """Writes an index to a folder; `load` reads it."""
    columns = {"places": index.places, "labels": index.labels}
    if index.generators is not None:
        columns["generators"] = index.generators
    meta = {
        "name": index.name,
        "shards": index.shards,
        "class_names": index.class_names,
        "generator_names": index.generator_names,
    }
    arrays.save_columns(folder, columns, meta, extra)


def load(folder: str) -> Index:
    """Opens a saved index, memory-mapped, after checking shapes and checksums.

    Raises: RequestError naming what is not so.
    """
    return arrays.load_columns(folder, _from_columns)


def _from_columns(meta: dict[str, Any], columns: dict[str, np.ndarray]) -> Index:
    names = ("shards", "class_names", "generator_names")
    index = Index(
        name=meta["name"], **{key: tuple(meta[key]) for key in names}, **columns
    )
    places, count = index.places, len(index.places)
    if places.dtype != np.int64 or places.shape != (count, 3):
        raise ValueError(f"places are {places.dtype} {places.shape}")
    # A path in place of a file's name would lead out of the dataset's folder.
    if any(os.path.basename(shard) != shard for shard in index.shards):
        raise ValueError("shards are no file names")
    if count and (places.min() < 0 or places[:, 0].max() >= len(index.shards)):
        raise ValueError("places lie in no shard")
    arrays.check_classes("labels", index.labels, count, index.class_names)
    if index.generators is not None:
        arrays.check_classes(
            "generators", index.generators, count, index.generator_names
        )
    return index


def _search(
    source: Source, keys: Sequence[str], number: int, shard: tuple[str, int]
) -> tuple[np.ndarray, dict[str, np.ndarray], list[str]]:
    """A shard's places [n, 3], class features int32 [n], and ids as far as it has."""
    path, length = shard
    places, ids = np.empty((length, 3), np.int64), []
    columns = {key: np.empty(length, np.int32) for key in keys[1:]}
    row = 0
    try:
        for found in tfrecord.records(path, (*keys, *_ORDERS)):
            if row == length:
                raise tfrecord.Damaged(f"more than the {length} records it should have")
            _require(found, keys)
            places[row] = (number, *found["image"])
            for key, values in columns.items():
                values[row] = found[key]
            name = next((found[key] for key in _ORDERS if key in found), None)
            if isinstance(name, tfrecord.Place):
                ids.append(tfrecord.read(path, name).decode(errors="replace"))
            row += 1
        if row < length:
            raise tfrecord.Damaged(f"{row} whole records of {length}")
    except tfrecord.Damaged as e:
        raise dataset_folder.damaged(source, path, str(e)) from None
    except OSError as e:
        raise RequestError(f"{path} cannot be read ({e})") from None
    return places, columns, ids


def _require(found: Mapping[str, tfrecord.Value], keys: Sequence[str]):
    for key in keys:
        kind = tfrecord.Place if key == "image" else int
        if not isinstance(found.get(key), kind):
            raise tfrecord.Damaged(f"a record has no {key}")
