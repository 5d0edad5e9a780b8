"""Folders of pictures that are named as a dataset or a pool."""

import os
import shlex
import sys

import pytest

from rsmatch_jax.data import images, sources
from rsmatch_jax.errors import RequestError


def load(data_dir, name):
    places = {"data_dir": str(data_dir), "cache_dir": str(data_dir / "cache")}
    return sources.load_real(name, download=False, **places)


@pytest.mark.parametrize("name", ["./photos", "photos", "my photos", "photos/cat"])
def test_a_folder_of_pictures_is_sent_to_the_importer(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "none"))
    path = tmp_path / name / "cat" / "deep" / "1.JPG"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    folder = shlex.quote(os.path.abspath(name))
    with pytest.raises(RequestError) as e:
        load(tmp_path, name)
    assert f"import --layout=folders --source={folder} --out=DIR" in str(e.value)
    assert f"--config=own --config.data.labeled={folder}" in str(e.value)
    assert ("download is False" in str(e.value)) == (name == "photos")
    with pytest.raises(RequestError, match="--generator=NAME --out=DIR") as e:
        sources.load_pool(name)
    assert "own" not in str(e.value)
    path.rename(path.with_suffix(".txt"))
    with pytest.raises(RequestError) as e:
        load(tmp_path, name)
    assert "rsmatch import" not in str(e.value)


def test_without_pillow_a_wrong_name_is_still_explained(tmp_path, monkeypatch):
    monkeypatch.delattr(images, "kinds", raising=False)
    monkeypatch.setitem(sys.modules, f"{images.__name__}.kinds", None)
    (tmp_path / "photos").mkdir()
    for name, words in (
        (f"{tmp_path}/gone", "there is no such folder"),
        (f"{tmp_path}/photos", "is no dataset folder"),
    ):
        with pytest.raises(RequestError, match=f"{name}.*{words}"):
            load(tmp_path, name)
    with pytest.raises(RequestError, match="there is no synthetic pool at"):
        sources.load_pool(f"{tmp_path}/gone")
