"""The class names of a dataset, without decoding or downloading its images."""

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
# TFDS learns these names from the download.
_KNOWN = {"cifar10": CIFAR10, "cifar100": tuple(_CIFAR100.split())}


def class_names(
    name: str, *, data_dir: str | None = None, cache_dir: str | None = None
) -> tuple[str, ...]:
    """Returns the class names in label order; arguments as `sources.load_real`."""
    if name in sources.BUILT_IN:
        return sources.BUILT_IN[name]("test").class_names
    place = sources.locate(name, data_dir)
    if place.folder is not None:
        train = os.path.join(place.folder, "train")
        if arrays.is_array_folder(train):
            return tuple(arrays.load_meta(train)["class_names"])
        return dataset_folder.label_names(place.folder)
    cache = files.default_cache_dir(cache_dir)
    if copy := array_cache.find(cache, place, ("train",)):
        return copy[0].class_names
    if place.kind == "folders":
        raise RequestError(f"--dataset={name}: there is no such folder")
    if place.name in _KNOWN:
        return _KNOWN[place.name]
    with dataset_folder.needs_tensorflow(f"{name} is not prepared here: asking TFDS"):
        from rsmatch_jax.data.stores import tf_read  # lazy: most datasets need no TF
    return tf_read.class_names(name)
