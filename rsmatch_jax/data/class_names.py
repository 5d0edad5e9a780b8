"""A dataset's class names, found without decoding or downloading its images."""

import os

from rsmatch_jax import files
from rsmatch_jax.data import sources
from rsmatch_jax.data.images.import_layouts import CIFAR10
from rsmatch_jax.data.stores import array_cache, arrays, dataset_folder
from rsmatch_jax.errors import RequestError

_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge
bus butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud
cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox
girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man
maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree
pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel
streetcar sunflower sweet_pepper table tank telephone television tiger tractor train
trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
# TFDS reads these from the archives: before the download it knows but their number.
_KNOWN = {"cifar10": CIFAR10, "cifar100": tuple(_CIFAR100.split())}


def class_names(
    name: str, *, data_dir: str | None = None, cache_dir: str | None = None
) -> tuple[str, ...]:
    """The class names of a real dataset, in label order.

    name, data_dir, cache_dir: as `sources.load_real` takes them. Of a TFDS set that is
    neither prepared nor decoded here, TFDS's own description is asked.
    Raises: RequestError where the names cannot be had.
    """
    if name == "digits":
        return arrays.digits("test").class_names
    if name == "fake":
        return arrays.fake("test").class_names
    if sources.is_path(name):
        return _of_folder(os.path.abspath(os.path.expanduser(name)))
    base, config, version = dataset_folder.split_name(name)
    folder = dataset_folder.find(name, dataset_folder.default_data_dir(data_dir))
    if folder is not None:
        return dataset_folder.label_names(folder)
    plain = f"{base}/{config}" if config else base
    cache = files.default_cache_dir(cache_dir)
    cached = array_cache.find(cache, "datasets", plain, version, ("train",))
    if cached:
        return cached["train"].class_names
    if plain in _KNOWN:
        return _KNOWN[plain]
    return _described(name)


def _of_folder(folder: str) -> tuple[str, ...]:
    train = os.path.join(folder, "train")
    if arrays.is_array_folder(train):
        return tuple(arrays.load_meta(train)["class_names"])
    if not os.path.isdir(folder):
        raise RequestError(f"--dataset={folder}: there is no such folder")
    return dataset_folder.label_names(folder)


def _described(name: str) -> tuple[str, ...]:
    try:
        from rsmatch_jax.data.stores import tf_class_names  # lazy: most sets need no TF
    except ImportError as e:
        raise RequestError(
            f"{name} is not prepared here, and asking TFDS for its class names needs "
            f"TensorFlow and tensorflow-datasets ({e}): pip install -r requirements.txt"
        ) from e
    return tf_class_names.described(name)
