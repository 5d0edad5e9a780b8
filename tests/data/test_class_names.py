"""The class names of a dataset, from whatever is there of it."""

import json
import sys

import numpy as np
import pytest

from rsmatch_jax.data import class_names, stores
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.errors import RequestError

CLASSES = ("cat", "dog", "maple_tree")


def array_folder(folder):
    data = arrays.ImageArrays(
        name="pets",
        images=np.zeros((3, 4, 4, 3), np.uint8),
        labels=np.arange(3, dtype=np.int32),
        class_names=CLASSES,
    )
    arrays.save(str(folder), data)


def tfds_folder(folder, names=True):
    """As TFDS writes it, but for the images."""
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text('{"name": "pets", "version": "1.0.0"}')
    label = {"label": {"classLabel": {"numClasses": "3"}}}
    features = json.dumps({"featuresDict": {"features": label}})
    (folder / "features.json").write_text(features)
    if names:
        (folder / "label.labels.txt").write_text("".join(f"{n}\n" for n in CLASSES))


def test_class_names_come_from_what_is_there(tmp_path, monkeypatch):
    # A module that is imported already is an attribute of its package as well.
    monkeypatch.delattr(stores, "tf_read", raising=False)
    for library in ("tensorflow", "tensorflow_datasets", f"{stores.__name__}.tf_read"):
        monkeypatch.setitem(sys.modules, library, None)

    def names(name, data="no", cache="no"):
        return class_names.class_names(
            str(name), data_dir=str(tmp_path / data), cache_dir=str(tmp_path / cache)
        )

    assert names("digits") == tuple("0123456789")
    assert names("fake")[1] == "class_1"
    array_folder(tmp_path / "arrays" / "train")
    assert names(tmp_path / "arrays") == CLASSES
    tfds_folder(tmp_path / "data" / "pets" / "1.0.0")
    assert names(tmp_path / "data" / "pets" / "1.0.0") == CLASSES
    assert names("pets", "data") == CLASSES
    tfds_folder(tmp_path / "data" / "plain" / "1.0.0", names=False)
    assert names("plain", "data") == ("0", "1", "2")
    array_folder(tmp_path / "cache" / "datasets" / "birds" / "1.0.0-abc" / "train")
    assert names("birds", "data", "cache") == CLASSES

    with pytest.raises(RequestError, match="pip install -r requirements.txt"):
        names("food101")
    (tmp_path / "data" / "plain" / "1.0.0" / "features.json").write_text("{}")
    with pytest.raises(RequestError, match=r"features\.json"):
        names("plain", "data")
    with pytest.raises(RequestError, match="no dataset folder"):
        names(tmp_path)


def test_class_names_of_a_set_that_is_not_prepared(tmp_path):
    nowhere = {"data_dir": str(tmp_path), "cache_dir": str(tmp_path)}
    names = class_names.class_names("food101", **nowhere)
    assert len(names) == 101
    assert names[0] == "apple_pie"
    with pytest.raises(RequestError, match="class names of mnist"):
        class_names.class_names("mnist", **nowhere)
    with pytest.raises(RequestError, match="dataset=mnits"):
        class_names.class_names("mnits", **nowhere)
    assert not list(tmp_path.iterdir())


def test_tfds_writes_the_files_that_the_names_are_read_from(tmp_path):
    from rsmatch_jax.data.stores import tf_write

    picture = np.zeros((4, 4, 3), np.uint8)
    examples = [tf_write.Example(picture, label, str(label)) for label in range(3)]
    folder = str(tmp_path / "pets")
    tf_write.write(folder, {"train": examples}, class_names=CLASSES, size=(4, 4))
    assert class_names.class_names(folder) == CLASSES
