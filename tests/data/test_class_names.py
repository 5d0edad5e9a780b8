"""The class names of a dataset, from its folder, the cache or TFDS."""

import json
import sys

import pytest

from rsmatch_jax.data import class_names, stores
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.errors import RequestError

CLASSES = ("cat", "dog", "maple_tree")
FAKE = arrays.fake("test").class_names


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
    assert names("fake") == FAKE
    arrays.save(str(tmp_path / "arrays" / "train"), arrays.fake("test"))
    assert names(tmp_path / "arrays") == FAKE
    tfds_folder(tmp_path / "data" / "pets" / "1.0.0")
    assert names(tmp_path / "data" / "pets" / "1.0.0") == CLASSES
    assert names("pets", "data") == CLASSES
    tfds_folder(tmp_path / "data" / "plain" / "1.0.0", names=False)
    assert names("plain", "data") == ("0", "1", "2")
    entry = tmp_path / "cache" / "datasets" / "birds" / "1.0.0-abc"
    arrays.save(str(entry / "train"), arrays.fake("test"))
    assert names("birds", "data", "cache") == FAKE

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
