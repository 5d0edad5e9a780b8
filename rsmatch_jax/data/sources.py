"""Loads datasets and synthetic pools by name. All images of a run come from here.

A TFDS dataset is decoded once into the cache folder, which later starts read without
TensorFlow. With an image size, images stay encoded and only their places are cached.
"""

import contextlib
import dataclasses
import os
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np

from rsmatch_jax import files
from rsmatch_jax.data import raw_folder
from rsmatch_jax.data.stores import (
    array_cache,
    arrays,
    dataset_folder,
    encoded_index,
    preflight,
)
from rsmatch_jax.data.stores.array_cache import Place
from rsmatch_jax.data.stores.arrays import ImageArrays
from rsmatch_jax.data.stores.dataset_folder import POOL_REPORT, Source
from rsmatch_jax.errors import RequestError

BUILT_IN = {"digits": arrays.digits, "fake": arrays.fake}  # made in memory
OWN = "own"  # data.name of a run on a user's pictures, see data/user_task.py
OWN_PLACES = ("labeled", "unlabeled", "test", "origins")  # its keys of `data`
_TRAIN_TEST = ("train", "test")
_UNLABELLED = ("unlabelled", "unlabeled")  # names of a third split; the first is ours


def load_real(name: str, **places: Any) -> tuple[ImageArrays, ImageArrays]:
    """Loads the labelled training images and the test images of a real dataset; the
    arguments of `load_splits`."""
    train, test, _ = load_splits(name, **places)
    return train.labelled(), test


def load_splits(
    name: str,
    *,
    data_dir: str | None = None,
    download: bool = True,
    cache_dir: str | None = None,
    image_size: int | None = None,
) -> tuple[ImageArrays, ImageArrays, ImageArrays | None]:
    """Loads the training, test and unlabelled images of a real dataset, memory-mapped.

    Training images may have the label -1. The unlabelled images are the dataset's split
    `unlabelled` (or `unlabeled`), as in STL-10; None without it. They count as real,
    but of unknown origin if the dataset folder has an `origins.json` that says
    {"unlabelled": "unknown"}, as import_images writes it for collected pictures.

    Args:
        name: `digits`, `fake`, a TFDS name, or a folder (a TFDS dataset, or array
            folders train/, test/ and maybe unlabelled/).
        image_size: None for arrays in the stored size. Otherwise images of any sizes
            stay encoded, and views have this size (`encoded.EncodedImages`).
    """
    if name in BUILT_IN:
        if image_size is not None:
            reason = f"data.name={name} is made in memory, in a fixed size"
            raise RequestError(f"data.image_size={image_size}: {reason}; leave it None")
        splits = [BUILT_IN[name](split) for split in _TRAIN_TEST]
    else:
        with raw_folder.explained("data.name", name):
            place = locate(name, data_dir)
            splits = _load(place, _TRAIN_TEST, cache_dir, image_size)
            if splits is None and place.kind == "folders":
                raise RequestError(f"data.name={name}: there is no such folder")
            if splits is None:
                folder = _prepare(name, data_dir, download)
                place = dataclasses.replace(place, folder=folder)
                splits = _load(place, _TRAIN_TEST, cache_dir, image_size)
    assert splits is not None
    train, test, *more = splits
    for what, data in zip(("test", "unlabelled"), splits[1:], strict=False):
        if train.class_names != data.class_names:
            raise RequestError(
                f"{name}: training and {what} images differ in their classes"
            )
        if train.images.shape[1:] != data.images.shape[1:]:
            sizes = f"{train.images.shape[1:]} and {data.images.shape[1:]}"
            raise RequestError(f"{name} has images of {sizes}; bring them to one size")
    height, width = train.images.shape[1:3]
    if height != width:
        raise RequestError(
            f"{name} has images of {height}x{width}, and a run takes square ones: crop "
            "them by `rsmatch import --layout=folders --size=N`, or as they are read "
            "by --config.data.image_size=N"
        )
    if nameless := int((test.labels < 0).sum()):
        raise RequestError(
            f"{name}: {nameless} of its test images have no label; leave them out, or "
            "give them one"
        )
    return train, test, more[0] if more else None


def load_pool(
    folder: str, *, cache_dir: str | None = None, image_size: int | None = None
) -> ImageArrays:
    """Loads a pool: a TFDS dataset folder, an array folder, or `fake`."""
    if folder == "fake" and image_size is None:
        return arrays.fake("pool")
    folder = files.absolute(folder)
    with raw_folder.explained("data.synthetic_pool", folder):
        pools = _load(_at("pools", folder), ("train",), cache_dir, image_size)
    if pools is None:
        raise _no_pool(folder)
    pool = pools[0]
    if pool.generators is None:
        way_out = "a pool names generators (import it with --generator=NAME)"
        raise RequestError(f"{folder} is a dataset of real images; {way_out}")
    if ((pool.labels < 0) | (pool.generators < 0)).any():
        lack = "has images without a class or a generator"
        raise RequestError(f"{folder} {lack}; make it again")
    return pool


def check_places(data_dir: str | None, synthetic_pool: str | None):
    """Raises RequestError for a folder that a user has named and that does not exist: a
    cached copy of its name may be of other images."""
    if data_dir is not None and not os.path.isdir(os.path.expanduser(data_dir)):
        raise RequestError(
            f"data.data_dir={data_dir}: there is no such folder; name the one that "
            "holds the TFDS datasets, or make it for a download"
        )
    if synthetic_pool not in (None, "fake"):
        folder = files.absolute(synthetic_pool)
        if not os.path.exists(folder):
            raise _no_pool(folder)


def _no_pool(folder: str) -> RequestError:
    return RequestError(
        f"there is no synthetic pool at {folder} (data.synthetic_pool). Import one "
        f"(rsmatch import --layout=cifake --source=ZIP --out={shlex.quote(folder)}, or "
        "--layout=folders), generate one (rsmatch generate), or set "
        "--config.data.synthetic_ratio=0"
    )


def default_pool(name: str, data_dir: str | None) -> str:
    """Returns the folder where the synthetic pool of dataset `name` is expected."""
    if name == "fake":
        return "fake"
    if name == "digits":
        return os.path.join(os.path.dirname(os.path.abspath(__file__)), "digits_pool")
    if is_path(name):
        name = os.path.basename(files.absolute(name))
    root = dataset_folder.default_data_dir(data_dir)
    return os.path.join(root, "rsmatch_pools", name.split(":")[0])


def is_path(name: str) -> bool:
    """Whether a dataset's name is a folder, not a TFDS name."""
    is_prepared = dataset_folder.is_dataset(name)
    is_prepared |= arrays.is_array_folder(os.path.join(name, "train"))
    return is_prepared or name.startswith(("/", ".", "~"))


def locate(name: str, data_dir: str | None) -> Place:
    """Returns where a real dataset is. Raises RequestError if `name` is no name."""
    if is_path(name):
        return _at("folders", files.absolute(name))
    base, config, version = dataset_folder.split_name(name)
    folder = dataset_folder.find(name, dataset_folder.default_data_dir(data_dir))
    return Place("datasets", f"{base}/{config}" if config else base, version, folder)


def prepared_folder(name: str, data_dir: str | None) -> str | None:
    """Returns the TFDS dataset folder of a real dataset, or None."""
    if name in BUILT_IN:
        return None
    folder = locate(name, data_dir).folder
    return folder if folder and dataset_folder.is_dataset(folder) else None


def _at(kind: str, folder: str) -> Place:
    parent, name = os.path.split(folder)
    if dataset_folder.is_version(name):
        name = f"{os.path.basename(parent)}/{name}"
    path = folder if kind == "folders" else None
    return Place(kind, name, None, folder if os.path.exists(folder) else None, path)


def _prepare(name: str, data_dir: str | None, download: bool) -> str:
    """Lets TFDS download a dataset; returns its folder."""
    root = dataset_folder.default_data_dir(data_dir)
    preflight.check_download(name, root, allowed=download)
    return _tf_read().prepare(name, root)


def _load(
    place: Place, splits: Sequence[str], cache_dir: str | None, image_size: int | None
) -> list[ImageArrays] | None:
    """Returns the splits of a dataset, and its unlabelled one if it has that; None if
    the dataset and its decoded copy are absent."""
    cache = files.default_cache_dir(cache_dir)
    folder, is_pool = place.folder, place.kind == "pools"
    optional = () if is_pool else _UNLABELLED[:1]
    if folder is None:
        return None if image_size else array_cache.find(cache, place, splits, optional)
    parts = [folder] if is_pool else [os.path.join(folder, s) for s in splits]
    if all(arrays.is_array_folder(part) for part in parts):
        if image_size is None:
            extra = () if is_pool else (os.path.join(folder, s) for s in _UNLABELLED)
            parts += [part for part in extra if arrays.is_array_folder(part)][:1]
            return [arrays.load(part) for part in parts]
        key = "data.synthetic_pool" if is_pool else "data.name"
        raise RequestError(
            f"{key}={folder} holds decoded arrays, which data.image_size={image_size} "
            "cannot crop; leave that None, or use a TFDS dataset folder (`rsmatch "
            "import` or `rsmatch generate` with --full_size writes one)"
        )
    source = dataset_folder.inspect(folder)
    stored = {split: _stored_split(source, split) for split in splits}
    if optional and (names := set(_UNLABELLED) & set(source.splits)):
        stored[optional[0]] = max(names)
    unknown = dataset_folder.unknown_origins(folder)
    keys = ("label", "generator") if is_pool else ("label",)

    def build(split: str) -> tuple[ImageArrays, dict]:
        name = stored[split]
        classes = {key: dataset_folder.label_names(folder, key) for key in keys}
        if image_size is not None:
            data = encoded_index.build(source, name, image_size, classes)
        else:
            dataset_folder.check_shards(source, [name])
            data = _tf_read().read_split(source, name, classes)
        if name in unknown:
            origins = np.full(len(data.labels), arrays.UNKNOWN, np.int32)
            data = dataclasses.replace(data, generators=origins)
        report = files.read_json(os.path.join(folder, POOL_REPORT))
        return data, {} if report is None else {"pool": report}

    names = list(stored)
    return array_cache.get_or_build(cache, place, source, names, build, image_size)


def _stored_split(source: Source, split: str) -> str:
    """Returns the stored split: `validation` if `test` is absent or has no labels."""
    can_validate = split == "test" and "validation" in source.splits
    if split in source.splits and not (can_validate and _is_unlabelled(source, split)):
        return split
    if can_validate:
        return "validation"
    raise RequestError(
        f"{source.folder} has no {split} split, only {', '.join(source.splits)}; a "
        "real dataset needs train and test (or validation), a synthetic pool train"
    )


def _is_unlabelled(source: Source, split: str) -> bool:
    """Whether the first image of a split has no label, as in ImageNet's test split."""
    if source.file_format == "tfrecord":
        with contextlib.suppress(RequestError):  # a later read names the damage
            for shard in dataset_folder.shards(source, split):
                for record in dataset_folder.records(source, shard, ("label",)):
                    return record.get("label") == -1
    return False


def _tf_read():
    other_way = ", or copy the cache folder of a machine that has decoded it"
    with dataset_folder.needs_tensorflow("decoding a dataset", other_way):
        from rsmatch_jax.data.stores import tf_read  # lazy: training needs no TF
    return tf_read
