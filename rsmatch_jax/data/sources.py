"""Datasets by name: the one door through which real and synthetic images come in.

Whatever the source, the result is `ImageArrays`. TFDS sets are decoded once into the
cache folder; every later start, or a host that has only that folder, needs no
TensorFlow.
"""

import json
import os
from collections.abc import Sequence

from rsmatch_jax.data import array_cache, arrays, dataset_folder, preflight
from rsmatch_jax.data.arrays import ImageArrays
from rsmatch_jax.data.dataset_folder import Source
from rsmatch_jax.errors import RequestError

POOL_REPORT = "pool.json"
_TRAIN_TEST = ("train", "test")


def load_real(
    name: str,
    *,
    data_dir: str | None = None,
    download: bool = True,
    cache_dir: str | None = None,
) -> tuple[ImageArrays, ImageArrays]:
    """The training and test images of a real dataset, memory-mapped where on disk.

    name: `digits`, `fake`, a folder (TFDS dataset, or array folders train/ and test/)
    or a TFDS name. Where a set has no `test` split, `validation` takes its place.
    data_dir: None for TFDS's own. download: whether TFDS may fetch what is missing.
    Raises: RequestError naming the file, folder or host that is in the way.
    """
    if name == "digits":
        pair = arrays.digits("train"), arrays.digits("test")
    elif name == "fake":
        pair = arrays.fake("train"), arrays.fake("test")
    elif is_path(name):
        pair = _real_folder(os.path.abspath(os.path.expanduser(name)), cache_dir)
    else:
        pair = _real_tfds(name, data_dir, download, cache_dir)
    train, test = pair
    if train.class_names != test.class_names:
        raise RequestError(f"{name}: training and test images differ in their classes")
    if train.images.shape[1:] != test.images.shape[1:]:
        raise RequestError(
            f"{name}: training images are {train.images.shape[1:]}, test images "
            f"{test.images.shape[1:]}; bring them to one size"
        )
    return pair


def load_pool(folder: str, *, cache_dir: str | None = None) -> ImageArrays:
    """A pool of synthetic images: a TFDS dataset folder, an array folder, or `fake`.

    Raises: RequestError with the ways on where no pool is there, or naming what is
    wrong with it.
    """
    if folder == "fake":
        return arrays.fake_pool()
    folder = os.path.abspath(os.path.expanduser(folder))
    if arrays.is_array_folder(folder):
        pool = arrays.load(folder)
    else:
        pool = _load("pools", folder, ("train",), cache_dir)
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


def _real_folder(folder: str, cache_dir: str | None) -> Sequence[ImageArrays]:
    parts = [os.path.join(folder, split) for split in _TRAIN_TEST]
    if all(arrays.is_array_folder(part) for part in parts):
        return [arrays.load(part) for part in parts]
    pair = _load("folders", folder, _TRAIN_TEST, cache_dir)
    if pair is None:
        raise RequestError(f"data.name={folder}: there is no such folder")
    return pair


def _real_tfds(
    name: str, data_dir: str | None, download: bool, cache_dir: str | None
) -> Sequence[ImageArrays]:
    base, config, version = dataset_folder.split_name(name)
    plain = f"{base}/{config}" if config else base
    root = dataset_folder.default_data_dir(data_dir)
    cache = array_cache.default_cache_dir(cache_dir)
    folder = dataset_folder.find(name, root)
    if folder is None:
        cached = array_cache.find(cache, "datasets", plain, version, _TRAIN_TEST)
        if cached:
            return [cached[split] for split in _TRAIN_TEST]
        if not download:
            raise RequestError(
                f"{name} is not in {root} and data.download is False. Prepare it "
                "elsewhere and pass --config.data.data_dir=DIR"
            )
        preflight.check_download(name, root)
        folder = _tf_read().prepare(name, root)
    return _decode("datasets", plain, folder, _TRAIN_TEST, cache)


def _load(
    kind: str, folder: str, splits: Sequence[str], cache_dir: str | None
) -> Sequence[ImageArrays] | None:
    """A dataset folder's splits; of an absent folder its cached copy, or None."""
    cache = array_cache.default_cache_dir(cache_dir)
    parent, name = os.path.split(folder)
    if dataset_folder.is_version(name):
        name = f"{os.path.basename(parent)}/{name}"
    if os.path.exists(folder):
        return _decode(kind, name, folder, splits, cache)
    cached = array_cache.find(cache, kind, name, None, splits)
    return [cached[split] for split in splits] if cached else None


def _decode(
    kind: str, name: str, folder: str, splits: Sequence[str], cache: str
) -> Sequence[ImageArrays]:
    """Opens the decoded copy of a dataset folder; decodes it first if need be."""
    source = dataset_folder.inspect(folder)
    stored = {split: _stored_split(source, split) for split in splits}

    def build(split: str):
        dataset_folder.check_shards(source, [stored[split]])
        data = _tf_read().read_split(
            folder, stored[split], with_generators=kind == "pools"
        )
        return data, _pool_report(folder)

    found = array_cache.get_or_build(cache, kind, name, source, splits, build)
    return [found[split] for split in splits]


def _stored_split(source: Source, split: str) -> str:
    """The split of a dataset folder that serves as `split`."""
    if split in source.splits:
        return split
    if split == "test" and "validation" in source.splits:
        return "validation"
    raise RequestError(
        f"{source.folder} has no {split} split, only {', '.join(source.splits)}; a "
        "real dataset needs train and test (or validation), a synthetic pool train"
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
        from rsmatch_jax.data import tf_read  # lazy: training hosts may lack TF
    except ImportError as e:
        raise RequestError(
            f"decoding a dataset needs TensorFlow and tensorflow-datasets ({e}): pip "
            "install -r requirements.txt, or copy the cache folder of a host that has "
            "decoded it"
        ) from e
    return tf_read
