"""Loads datasets and synthetic pools by name. All images of a run come from here.

The result is always `ImageArrays`. A TFDS dataset is decoded once into the cache
folder. Later starts, or a machine that has only that folder, need no TensorFlow. With
an image size the images stay encoded, and only their places are cached.
"""

import dataclasses
import os
from collections.abc import Sequence

from rsmatch_jax import files
from rsmatch_jax.data.stores import (
    array_cache,
    arrays,
    dataset_folder,
    encoded_index,
    preflight,
    tfrecord,
)
from rsmatch_jax.data.stores.arrays import ImageArrays
from rsmatch_jax.data.stores.dataset_folder import POOL_REPORT, Source
from rsmatch_jax.errors import RequestError

BUILT_IN = {"digits": arrays.digits, "fake": arrays.fake}  # made in memory
TINY_IMAGENET = "tiny_imagenet"  # made by a layout of import_images
_TRAIN_TEST = ("train", "test")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a dataset is; folder: None if it does not exist.

    kind: `datasets` for a TFDS name, `folders` or `pools` for a path. name, version: in
    the cache; version None for any.
    """

    kind: str
    name: str
    version: str | None
    folder: str | None


def load_real(
    name: str,
    *,
    data_dir: str | None = None,
    download: bool = True,
    cache_dir: str | None = None,
    image_size: int | None = None,
) -> tuple[ImageArrays, ImageArrays]:
    """Loads the training and test images of a real dataset, memory-mapped.

    A dataset without a labelled `test` split is tested on `validation`.

    Args:
        name: `digits`, `fake`, a TFDS name, or a folder (a TFDS dataset, or array
            folders train/ and test/).
        image_size: None for arrays in the stored size. Otherwise images of any sizes
            stay encoded, and views have this size (`encoded.EncodedImages`).

    Raises:
        RequestError: a file, folder or host is missing or wrong.
    """
    if name in BUILT_IN:
        if image_size is not None:
            raise RequestError(
                f"data.image_size={image_size}: data.name={name} is made in memory, in "
                "a fixed size; leave data.image_size None"
            )
        train, test = (BUILT_IN[name](split) for split in _TRAIN_TEST)
    else:
        place = locate(name, data_dir)
        pair = _load(place, _TRAIN_TEST, cache_dir, image_size)
        if pair is None:
            if place.kind == "folders":
                raise RequestError(f"data.name={name}: there is no such folder")
            folder = _prepare(name, data_dir, download)
            place = dataclasses.replace(place, folder=folder)
            pair = _load(place, _TRAIN_TEST, cache_dir, image_size)
        train, test = pair
    if train.class_names != test.class_names:
        raise RequestError(f"{name}: training and test images differ in their classes")
    if train.images.shape[1:] != test.images.shape[1:]:
        raise RequestError(
            f"{name}: training images are {train.images.shape[1:]}, test images "
            f"{test.images.shape[1:]}; bring them to one size"
        )
    return train, test


def load_pool(
    folder: str, *, cache_dir: str | None = None, image_size: int | None = None
) -> ImageArrays:
    """Loads a synthetic pool: a TFDS dataset folder, an array folder, or `fake`.

    image_size: as in `load_real`; only a TFDS dataset folder has encoded images.

    Raises:
        RequestError: the folder is absent, damaged, or no pool.
    """
    if folder == "fake" and image_size is None:
        return arrays.fake_pool()
    folder = os.path.abspath(os.path.expanduser(folder))
    pools = _load(_at("pools", folder), ("train",), cache_dir, image_size)
    if pools is None:
        raise RequestError(
            f"there is no synthetic pool at {folder}. Import one (python -m "
            "rsmatch_jax.data.import_images --layout=cifake --source=ZIP "
            f"--out={folder}, or --layout=folders), generate one (python -m "
            "rsmatch_jax.synthesis.generate), or set --config.data.synthetic_ratio=0"
        )
    if pools[0].generators is None:
        raise RequestError(
            f"{folder} is a dataset of real images: a synthetic pool says which "
            "generator made each image (import it with --generator=NAME)"
        )
    return pools[0]


def default_pool(name: str, data_dir: str | None) -> str:
    """Returns the folder where the synthetic pool of dataset `name` is expected."""
    if name == "fake":
        return "fake"
    if name == "digits":
        return os.path.join(os.path.dirname(os.path.abspath(__file__)), "digits_pool")
    if is_path(name):
        name = os.path.basename(os.path.abspath(os.path.expanduser(name)))
    root = dataset_folder.default_data_dir(data_dir)
    return os.path.join(root, "rsmatch_pools", name.split(":")[0])


def is_path(name: str) -> bool:
    """Whether a dataset's name is a folder, not a TFDS name."""
    return name.startswith(("/", ".", "~")) or (
        os.path.isdir(name)
        and (
            dataset_folder.is_dataset(name)
            or arrays.is_array_folder(os.path.join(name, "train"))
        )
    )


def locate(name: str, data_dir: str | None) -> Place:
    """Returns where a real dataset is. Raises RequestError if `name` is no name."""
    if is_path(name):
        return _at("folders", os.path.abspath(os.path.expanduser(name)))
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
    return Place(kind, name, None, folder if os.path.exists(folder) else None)


def _prepare(name: str, data_dir: str | None, download: bool) -> str:
    """Lets TFDS download a dataset; returns its folder."""
    root = dataset_folder.default_data_dir(data_dir)
    base, _, _ = dataset_folder.split_name(name)
    if base == TINY_IMAGENET:
        raise RequestError(
            f"{base} is not in {root}, and TFDS has no such dataset: fetch "
            "tiny-imagenet-200.zip and run python -m rsmatch_jax.data.import_images "
            f"--layout={base} --source=ZIP --out={os.path.join(root, base, '1.0.0')}"
        )
    if not download:
        raise RequestError(
            f"{name} is not in {root} and data.download is False. Prepare it on "
            "another machine and pass --config.data.data_dir=DIR"
        )
    preflight.check_download(name, root)
    return _tf_read().prepare(name, root)


def _load(
    place: Place, splits: Sequence[str], cache_dir: str | None, image_size: int | None
) -> list[ImageArrays] | None:
    """The splits of a dataset; None if neither it nor a decoded copy exists."""
    cache = files.default_cache_dir(cache_dir)
    folder, is_pool = place.folder, place.kind == "pools"
    if folder is None:
        if image_size is not None:
            return None
        data = array_cache.find(cache, place.kind, place.name, place.version, splits)
        return [data[split] for split in splits] if data else None
    parts = [folder] if is_pool else [os.path.join(folder, s) for s in splits]
    if all(arrays.is_array_folder(part) for part in parts):
        if image_size is None:
            return [arrays.load(part) for part in parts]
        key = "data.synthetic_pool" if is_pool else "data.name"
        raise RequestError(
            f"{key}={folder} holds decoded arrays, which data.image_size={image_size} "
            "cannot crop from: use a TFDS dataset folder (import_images or generate "
            "with --full_size write one), or leave data.image_size None"
        )
    source = dataset_folder.inspect(folder)
    stored = {split: _stored_split(source, split) for split in splits}

    def build(split: str) -> tuple[ImageArrays, dict]:
        name = stored[split]
        if image_size is not None:
            data = encoded_index.build(
                source, name, image_size, with_generators=is_pool
            )
        else:
            dataset_folder.check_shards(source, [name])
            data = _tf_read().read_split(source, name, with_generators=is_pool)
        report = files.read_json(os.path.join(folder, POOL_REPORT))
        return data, {} if report is None else {"pool": report}

    data = array_cache.get_or_build(
        cache, place.kind, place.name, source, splits, build, image_size
    )
    return [data[split] for split in splits]


def _stored_split(source: Source, split: str) -> str:
    """The split of a dataset folder that serves as `split`."""
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
    if source.file_format != "tfrecord":
        return False
    try:
        for path, _ in dataset_folder.shards(source, split):
            for record in tfrecord.records(path, ("label",)):
                return record.get("label") == -1
    except (OSError, tfrecord.Damaged):
        pass  # a later read of the split names the damage
    return False


def _tf_read():
    other_way = ", or copy the cache folder of a machine that has decoded it"
    with dataset_folder.needs_tensorflow("decoding a dataset", other_way):
        from rsmatch_jax.data.stores import tf_read  # lazy: training needs no TF
    return tf_read
