"""Datasets by name: the one door through which real and synthetic images come in.

Whatever the source, the result is `ImageArrays`. TFDS sets are decoded once into the
cache folder; every later start, or a host that has only that folder, needs no
TensorFlow. With an image size they stay encoded, and only their places are cached.
"""

import json
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
from rsmatch_jax.data.stores.dataset_folder import Source
from rsmatch_jax.errors import RequestError

POOL_REPORT = "pool.json"
TINY_IMAGENET = "tiny_imagenet"  # a layout of import_images makes it
_TRAIN_TEST = ("train", "test")


def load_real(
    name: str,
    *,
    data_dir: str | None = None,
    download: bool = True,
    cache_dir: str | None = None,
    image_size: int | None = None,
) -> tuple[ImageArrays, ImageArrays]:
    """The training and test images of a real dataset, memory-mapped where on disk.

    name: `digits`, `fake`, a folder (TFDS dataset, or array folders train/ and test/)
    or a TFDS name. Where a set has no `test` split, `validation` takes its place.
    data_dir: None for TFDS's own. download: whether TFDS may fetch what is missing.
    image_size: None for arrays of the size that the images are stored at, else images
    of any sizes stay encoded and are seen at this one (`encoded.EncodedImages`).
    Raises: RequestError naming the file, folder or host that is in the way.
    """
    if image_size is not None and name in ("digits", "fake"):
        raise RequestError(
            f"data.image_size={image_size}: data.name={name} is made in memory, at its "
            "own size; leave data.image_size None"
        )
    if name == "digits":
        pair = arrays.digits("train"), arrays.digits("test")
    elif name == "fake":
        pair = arrays.fake("train"), arrays.fake("test")
    elif is_path(name):
        folder = os.path.abspath(os.path.expanduser(name))
        pair = _real_folder(folder, cache_dir, image_size)
    else:
        pair = _real_tfds(name, data_dir, download, cache_dir, image_size)
    train, test = pair
    if train.class_names != test.class_names:
        raise RequestError(f"{name}: training and test images differ in their classes")
    if train.images.shape[1:] != test.images.shape[1:]:
        raise RequestError(
            f"{name}: training images are {train.images.shape[1:]}, test images "
            f"{test.images.shape[1:]}; bring them to one size"
        )
    return pair


def load_pool(
    folder: str, *, cache_dir: str | None = None, image_size: int | None = None
) -> ImageArrays:
    """A pool of synthetic images: a TFDS dataset folder, an array folder, or `fake`.

    image_size: as in `load_real`; only a TFDS dataset folder has encoded images.
    Raises: RequestError with the ways on where no pool is there, or naming what is
    wrong with it.
    """
    if folder == "fake" and image_size is None:
        return arrays.fake_pool()
    folder = os.path.abspath(os.path.expanduser(folder))
    if arrays.is_array_folder(folder):
        _refuse_arrays("data.synthetic_pool", folder, image_size)
        pool = arrays.load(folder)
    else:
        pool = _load("pools", folder, ("train",), cache_dir, image_size)
        if pool is None:
            raise RequestError(
                f"there is no synthetic pool at {folder}. Import one (python -m "
                "rsmatch_jax.data.import_images --layout=cifake --source=ZIP "
                f"--out={folder}, or --layout=folders), generate one (python -m "
                "rsmatch_jax.synthesis.generate), or set "
                "--config.data.synthetic_ratio=0"
            )
        pool = pool[0]
    if pool.generators is None:
        raise RequestError(
            f"{folder} is a dataset of real images: a synthetic pool says which "
            "generator made each image (import it with --generator=NAME)"
        )
    return pool


def default_pool(name: str, data_dir: str | None) -> str:
    """Where the synthetic pool of dataset `name` is looked for."""
    if name == "fake":
        return "fake"
    if name == "digits":
        return os.path.join(os.path.dirname(os.path.abspath(__file__)), "digits_pool")
    if is_path(name):
        name = os.path.basename(os.path.abspath(os.path.expanduser(name)))
    root = dataset_folder.default_data_dir(data_dir)
    return os.path.join(root, "rsmatch_pools", name.split(":")[0])


def is_path(name: str) -> bool:
    """Whether a dataset's name means a folder rather than a TFDS name."""
    return name.startswith(("/", ".", "~")) or (
        os.path.isdir(name)
        and (
            dataset_folder.is_dataset(name)
            or arrays.is_array_folder(os.path.join(name, "train"))
        )
    )


def prepared_folder(name: str, data_dir: str | None) -> str | None:
    """Returns the TFDS dataset folder that holds a real set, or None."""
    if name in ("digits", "fake"):
        return None
    if not is_path(name):
        return dataset_folder.find(name, dataset_folder.default_data_dir(data_dir))
    folder = os.path.abspath(os.path.expanduser(name))
    return folder if dataset_folder.is_dataset(folder) else None


def _real_folder(
    folder: str, cache_dir: str | None, image_size: int | None
) -> Sequence[ImageArrays]:
    parts = [os.path.join(folder, split) for split in _TRAIN_TEST]
    if all(arrays.is_array_folder(part) for part in parts):
        _refuse_arrays("data.name", folder, image_size)
        return [arrays.load(part) for part in parts]
    pair = _load("folders", folder, _TRAIN_TEST, cache_dir, image_size)
    if pair is None:
        raise RequestError(f"data.name={folder}: there is no such folder")
    return pair


def _real_tfds(
    name: str,
    data_dir: str | None,
    download: bool,
    cache_dir: str | None,
    image_size: int | None,
) -> Sequence[ImageArrays]:
    base, config, version = dataset_folder.split_name(name)
    plain = f"{base}/{config}" if config else base
    root = dataset_folder.default_data_dir(data_dir)
    cache = files.default_cache_dir(cache_dir)
    folder = dataset_folder.find(name, root)
    if folder is None:
        if image_size is None:
            cached = array_cache.find(cache, "datasets", plain, version, _TRAIN_TEST)
            if cached:
                return [cached[split] for split in _TRAIN_TEST]
        if base == TINY_IMAGENET:
            raise RequestError(
                f"{base} is not in {root}, and TFDS has no such dataset: fetch "
                "tiny-imagenet-200.zip and run python -m "
                f"rsmatch_jax.data.import_images --layout={base} --source=ZIP "
                f"--out={os.path.join(root, base, '1.0.0')}"
            )
        if not download:
            raise RequestError(
                f"{name} is not in {root} and data.download is False. Prepare it "
                "elsewhere and pass --config.data.data_dir=DIR"
            )
        preflight.check_download(name, root)
        folder = _tf_read().prepare(name, root)
    return _open("datasets", plain, folder, _TRAIN_TEST, cache, image_size)


def _load(
    kind: str,
    folder: str,
    splits: Sequence[str],
    cache_dir: str | None,
    image_size: int | None,
) -> Sequence[ImageArrays] | None:
    """A dataset folder's splits; of an absent folder its decoded copy, or None."""
    cache = files.default_cache_dir(cache_dir)
    parent, name = os.path.split(folder)
    if dataset_folder.is_version(name):
        name = f"{os.path.basename(parent)}/{name}"
    if os.path.exists(folder):
        return _open(kind, name, folder, splits, cache, image_size)
    if image_size is not None:
        return None
    cached = array_cache.find(cache, kind, name, None, splits)
    return [cached[split] for split in splits] if cached else None


def _open(
    kind: str,
    name: str,
    folder: str,
    splits: Sequence[str],
    cache: str,
    image_size: int | None,
) -> Sequence[ImageArrays]:
    """Opens the decoded copy of a dataset folder, or with an image size the index of
    its encoded images; makes it first if need be."""
    source = dataset_folder.inspect(folder)
    stored = {split: _stored_split(source, split) for split in splits}
    with_generators = kind == "pools"

    def decode(split: str):
        dataset_folder.check_shards(source, [stored[split]])
        data = _tf_read().read_split(
            folder, stored[split], with_generators=with_generators
        )
        return data, _pool_report(folder)

    def search(split: str):
        index = encoded_index.build(
            source, stored[split], with_generators=with_generators
        )
        return index, _pool_report(folder)

    if image_size is None:
        found = array_cache.get_or_build(cache, kind, name, source, splits, decode)
        return [found[split] for split in splits]
    found = array_cache.get_or_build(
        cache, f"encoded_{kind}", name, source, splits, search, encoded_index
    )
    return [found[split].images(folder, image_size) for split in splits]


def _stored_split(source: Source, split: str) -> str:
    """The split of a dataset folder that serves as `split`."""
    others = split == "test" and "validation" in source.splits
    if split in source.splits and not (others and _is_unlabelled(source, split)):
        return split
    if split == "test" and "validation" in source.splits:
        return "validation"
    raise RequestError(
        f"{source.folder} has no {split} split, only {', '.join(source.splits)}; a "
        "real dataset needs train and test (or validation), a synthetic pool train"
    )


def _is_unlabelled(source: Source, split: str) -> bool:
    """Whether a split begins with an image without label, as ImageNet's test split."""
    if not dataset_folder.is_tfrecord(source):
        return False
    try:
        for path, _ in dataset_folder.shards(source, split):
            for record in tfrecord.records(path, ("label",)):
                return record.get("label") == -1
    except (OSError, tfrecord.Damaged):
        pass  # whoever reads the split names what is wrong
    return False


def _refuse_arrays(key: str, folder: str, image_size: int | None):
    if image_size is not None:
        raise RequestError(
            f"{key}={folder} holds decoded arrays, which data.image_size={image_size} "
            "cannot crop from: give a TFDS dataset folder (import_images or generate "
            "with --full_size write one), or leave data.image_size None"
        )


def _pool_report(folder: str) -> dict:
    """How a pool was made, to be kept with its decoded copy."""
    path = os.path.join(folder, POOL_REPORT)
    if not os.path.isfile(path):
        return {}
    try:
        with open(path) as f:
            return {"pool": json.load(f)}
    except ValueError as e:
        raise RequestError(f"{path} cannot be read ({e}); import it again") from None


def _tf_read():
    """The module that needs TensorFlow, imported only where something is decoded."""
    try:
        from rsmatch_jax.data.stores import tf_read  # lazy: training hosts may lack TF
    except ImportError as e:
        raise RequestError(
            f"decoding a dataset needs TensorFlow and tensorflow-datasets ({e}): pip "
            "install -r requirements.txt, or copy the cache folder of a host that has "
            "decoded it"
        ) from e
    return tf_read
