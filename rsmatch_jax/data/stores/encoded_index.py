"""An index of the encoded images in a TFDS dataset folder: their places and labels.

It is made once and cached: some 40 microseconds per image on one core, a minute for
ImageNet if the disk keeps up. The images themselves are not read. Needs no TensorFlow.
"""

import dataclasses
import functools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from rsmatch_jax.data.stores import arrays, dataset_folder, tfrecord
from rsmatch_jax.data.stores.dataset_folder import Source
from rsmatch_jax.data.stores.encoded import EncodedImages
from rsmatch_jax.errors import RequestError

_ORDERS = ("id", "file_name")  # features by which images are sorted
_READERS = 16  # files searched at the same time


@dataclasses.dataclass(frozen=True)
class Index:
    """The places of a split's images, sorted by `id` or `file_name` in natural order.

    Without these features they are in file order. `arrays.save` and `arrays.load` keep
    an index on disk.

    shards: file names. places: int64 [N, 3] as in EncodedImages. labels, generators:
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
        """Returns the split of the dataset in `folder`, with images of `size` px."""
        files = tuple(os.path.join(folder, shard) for shard in self.shards)
        return arrays.ImageArrays(
            name=self.name,
            images=EncodedImages(files, self.places, size),
            labels=self.labels,
            class_names=self.class_names,
            generators=self.generators,
            generator_names=self.generator_names,
        )

    def check(self):
        """Raises ValueError if arrays have wrong dtypes, shapes or values."""
        places, count = self.places, len(self.places)
        if places.dtype != np.int64 or places.shape != (count, 3):
            raise ValueError(f"places are {places.dtype} {places.shape}")
        # A path in place of a file name could lead out of the dataset's folder.
        if any(os.path.basename(shard) != shard for shard in self.shards):
            raise ValueError("shards are no file names")
        if count and (places.min() < 0 or places[:, 0].max() >= len(self.shards)):
            raise ValueError("places lie in no shard")
        arrays.check_classes(self, count)


def build(source: Source, split: str, *, with_generators: bool) -> Index:
    """Searches the files of a split.

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
    columns = dataset_folder.sort_and_check(source.folder, split, columns, ids, classes)
    return Index(
        name=source.name,
        shards=tuple(os.path.basename(path) for path, _ in shards),
        places=columns["image"],
        labels=columns["label"],
        class_names=classes["label"],
        generators=columns.get("generator"),
        generator_names=classes.get("generator", ()),
    )


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
