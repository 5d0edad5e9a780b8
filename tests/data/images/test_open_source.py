"""The answers about files that are named in place of a folder or an archive."""

import pytest
from support.import_sources import make_tar, make_zip
from support.pictures import encode, noise

from rsmatch_jax.data.images import archives, image_source
from rsmatch_jax.errors import RequestError

PNG = encode(noise(8, 8, 3))


def opened(source):
    """(paths of the pictures, notes)"""
    notes = []
    source = image_source.open_source(str(source), "data.unlabeled", notes.append)
    with source as (files, _):
        return [file.path for file in files], notes


@pytest.fixture
def packed(tmp_path):
    return make_zip(tmp_path / "s.zip", {"c/1.png": PNG})


@pytest.mark.parametrize("data", [b"path,label\n1.png,a\n", b"", bytes(600)])
def test_what_was_never_an_archive(tmp_path, data):
    """Only what is called an archive is a broken download."""
    (tmp_path / "list.csv").write_bytes(data)
    words = "list.csv is no folder, zip, tar or tar.gz; name one"
    with pytest.raises(RequestError, match=words):
        opened(tmp_path / "list.csv")
    (tmp_path / "s.zip").write_bytes(data)
    with pytest.raises(RequestError, match="no complete zip.*download it again"):
        opened(tmp_path / "s.zip")


def test_a_cut_zip_of_another_name(tmp_path, packed):
    with open(packed, "rb") as file:
        (tmp_path / "photos").write_bytes(file.read()[:50])
    with pytest.raises(RequestError, match="no complete zip.*download it again"):
        opened(tmp_path / "photos")


def test_a_zip_behind_a_program(tmp_path, packed):
    with open(packed, "rb") as file:
        (tmp_path / "photos.exe").write_bytes(b"MZ" + bytes(700) + file.read())
    assert opened(tmp_path / "photos.exe") == (["c/1.png"], [])


def test_an_archive_that_may_not_be_read(packed, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(archives, "open", refuse, raising=False)
    with pytest.raises(RequestError, match=r"s\.zip cannot be read \(Permission"):
        opened(packed)


def test_a_picture_below_a_hidden_folder(tmp_path):
    (tmp_path / ".data").mkdir()
    (tmp_path / ".data" / "1.png").write_bytes(PNG)
    with pytest.raises(RequestError, match=r"1\.png is a picture; name its folder"):
        opened(tmp_path / ".data" / "1.png")


@pytest.mark.parametrize("name", ["s.tar", "s.tar.gz"])
def test_a_tar_of_the_folder_it_was_made_in(tmp_path, name):
    """`tar -C dir .` enters the folder itself, which is not empty."""
    content = {"./": b"", "./c/": b"", "./c/1.png": PNG, "./void/": b""}
    paths, notes = opened(make_tar(tmp_path / name, content))
    assert paths == ["c/1.png"]
    assert notes == [f"data.unlabeled={tmp_path}/{name}: empty folders: void"]


def test_a_zip_with_its_root(tmp_path):
    source = make_zip(tmp_path / "s.zip", {"./": b"", "c/1.png": PNG})
    assert opened(source) == (["c/1.png"], [])
