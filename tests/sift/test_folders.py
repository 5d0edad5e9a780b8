"""Pictures sorted into folders: links, copies, and what is refused."""

import os
import pathlib
import zipfile

import pytest
from support.pictures import encode, noise

from rsmatch_jax.data.images import image_files, image_source
from rsmatch_jax.errors import RequestError
from rsmatch_jax.sift import folders
from rsmatch_jax.sift.folders import Source
from rsmatch_jax.sift.rows import Row


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """(rows, sources) of six files, which relative paths reach by links."""
    monkeypatch.chdir(tmp_path)
    rows, sources = [], []
    for name, class_name, verdict in (
        ("a/one.png", "cat", "real"),
        ("b/one.png", "cat", "real"),
        ("b/one-2.png", "cat", "real"),
        ("c/ONE.png", "cat", "real"),
        ("c/one.png", "../up", "synthetic"),
        ('c/d é".png', "", "unsure"),
    ):
        path = pathlib.Path("photos", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(noise(4, 4, 3, seed=len(rows))))
        alias = f"{len(rows)}.png"
        os.symlink(path, alias)
        rows.append(Row(name, class_name, 0.5, 0.5, verdict))
        sources.append(Source(alias, path.read_bytes))
    return rows, sources


EXPECTED = [
    "real/cat/one.png",
    "real/cat/one-2.png",
    "real/cat/one-2-2.png",
    "real/cat/ONE-3.png",
    "synthetic/_.._up/one.png",
    'unsure/d é".png',
]


@pytest.mark.parametrize("flag", ["link", "copy"])
def test_a_folder_a_verdict_and_class(pictures, tmp_path, flag):
    rows, sources = pictures
    folders.fill(flag, "out", rows, sources)
    written = [p for p in (tmp_path / "out").rglob("*") if not p.is_dir()]
    assert {str(p.relative_to(tmp_path / "out")) for p in written} == set(EXPECTED)
    for place, source in zip(EXPECTED, sources, strict=True):
        path = tmp_path / "out" / place
        assert path.read_bytes() == source.read()
        assert path.is_symlink() == (flag == "link")
        if flag == "link":
            assert os.readlink(path) == os.path.realpath(source.file)
    assert sorted(os.listdir("out")) == ["real", "synthetic", "unsure"]
    # The other commands read what was made.
    assert len(image_files.find(["out"])) == len(rows)


def test_pictures_in_archives_are_copied_but_not_linked(pictures):
    rows, sources = pictures
    with zipfile.ZipFile("photos.zip", "w") as archive:
        for row, source in zip(rows, sources, strict=True):
            archive.writestr(row.path, source.read())
    with image_source.open_source("photos.zip") as (files, _):
        packed = {file.path: Source(None, file.read) for file in files}
        mixed = [sources[0], *(packed[row.path] for row in rows[1:])]
        with pytest.raises(RequestError) as refused:
            folders.fill("link", "out", rows, mixed)
        for word in ("--link=out", "b/one.png", "5 pictures", "--copy=out"):
            assert word in str(refused.value)
        assert not os.path.exists("out")
        folders.fill("copy", "out", rows, mixed)
    for place, source in zip(EXPECTED, sources, strict=True):
        assert pathlib.Path("out", place).read_bytes() == source.read()


def test_wrong_requests(pictures):
    rows, sources = pictures
    pathlib.Path("file").touch()
    pathlib.Path("full").mkdir()
    pathlib.Path("full", "x").touch()
    os.symlink("nowhere", "dangling")
    blind = [row._replace(verdict=None) for row in rows]
    for folder, some, words in (
        ("file", rows, ("--copy=file is no folder", "another")),
        ("dangling", rows, ("--copy=dangling is no folder",)),
        ("full", rows, ("--copy=full is not empty", "another")),
        ("file/below", rows, ("--copy=file/below cannot be filled", "another")),
        ("out", blind, ("no verdicts", "held out", "leave the flag out")),
    ):
        with pytest.raises(RequestError) as refused:
            folders.fill("copy", folder, some, sources)
        assert all(word in str(refused.value) for word in words), refused.value
    assert not os.path.exists("out")
    pathlib.Path("empty").mkdir()
    folders.fill("copy", "empty", rows, sources)


def test_a_damaged_archive_is_named(pictures):
    def read():
        raise image_source.Unreadable("a broken stream")

    with pytest.raises(RequestError, match="a broken stream"):
        folders.fill("copy", "other", pictures[0][:1], [Source(None, read)])


def test_an_interrupted_command_starts_over(pictures, monkeypatch):
    rows, sources = pictures

    def stop():
        raise KeyboardInterrupt

    for cleared in (True, False):  # False: killed, so that something stays
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            if not cleared:
                patched.setattr(folders.shutil, "rmtree", lambda *_, **__: None)
            folders.fill("copy", "out", rows, [*sources[:-1], Source(None, stop)])
        assert bool(os.listdir("out")) != cleared
    folders.fill("copy", "out", rows, sources)
    assert sorted(os.listdir("out")) == ["real", "synthetic", "unsure"]
    for place, source in zip(EXPECTED, sources, strict=True):
        assert pathlib.Path("out", place).read_bytes() == source.read()


def test_many_equal_names_take_no_quadratic_time(tmp_path):
    rows = [Row(f"{i}/x.png", "", None, 0.5, "real") for i in range(20_000)]
    places = list(folders._places(str(tmp_path), rows))
    assert len(set(places)) == len(rows)
    assert places[-1] == str(tmp_path / "real" / "x-20000.png")
