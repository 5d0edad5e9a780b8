"""Folders with symbolic links: each real file once, and every link ends."""

import glob
import os

import pytest
from support.pictures import encode, noise

from rsmatch_jax.data.images import folder_tree, image_files, image_source

PNG = encode(noise(8, 8, 3))


def make(root, *names, **links):
    """Makes files of PNGs, and links {name: what it leads to} with __ for a slash."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PNG)
    for name, target in links.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
    return root


def tree_of(folder):
    tree = folder_tree.Tree(str(folder))
    return sorted(tree.files.values()), tree.lines


def test_links_are_followed_wherever_they_lead(tmp_path):
    make(tmp_path / "store", "1.png", "deep/er/2.png", "3.png")
    folder = make(
        tmp_path / "s",
        "c/0.png",
        c__one="../../store/1.png",
        d=tmp_path / "store" / "deep",
        e__chain="../c/hop",
        c__hop=tmp_path / "store" / "3.png",
    )
    files, lines = tree_of(folder)
    # The end of both ways to 3.png is one file, so the first link has it.
    assert files == ["c/0.png", "c/hop", "c/one", "d/er/2.png"]
    assert lines == ["links to files that are read already: e/chain (as c/hop)"]


def test_a_source_that_is_a_link(tmp_path):
    make(tmp_path / "store", "c/1.png")
    (tmp_path / "s").symlink_to("store")
    assert tree_of(tmp_path / "s") == (["c/1.png"], [])


def test_each_real_file_is_read_once(tmp_path):
    """The path without a link wins, whatever the order of the names."""
    make(tmp_path, "b/1.png", "b/2.png", a__1="../b/1.png", c="b", d__2="../b/2.png")
    files, lines = tree_of(tmp_path)
    assert files == ["b/1.png", "b/2.png"]
    assert lines == [
        "links to files that are read already: a/1 (as b/1.png), d/2 (as b/2.png)",
        "folders that are read elsewhere already: c",
    ]


def test_a_folder_inside_a_linked_one_is_read_once(tmp_path):
    make(tmp_path / "store", "1.png", "in/2.png")
    folder = make(tmp_path / "s", a="../store/in", b="../store")
    files, lines = tree_of(folder)
    assert files == ["a/2.png", "b/1.png"]
    assert lines == ["folders that are read elsewhere already: b/in"]


def test_loops_and_dangling_links_are_named(tmp_path):
    folder = make(
        tmp_path / "s",
        "c/1.png",
        c__up="..",
        c__here=".",
        c__root="/",
        c__me="me",
        c__gone="nowhere/x.png",
        d__away=tmp_path / "other",
        ping="pong",
        pong="ping",
    )
    make(tmp_path / "other", "2.png", back=folder, above=tmp_path)
    files, lines = tree_of(folder)
    assert files == ["c/1.png", "d/away/2.png"]
    assert lines == [
        "links that lead nowhere: c/gone",
        "links to a folder around them, not followed: c/here, c/root, c/up, "
        "d/away/above, d/away/back",
        "links that lead to themselves: c/me, ping, pong",
    ]
    notes = []
    assert len(image_files.find([str(folder)], notes.append)) == 2
    assert [line.removeprefix(f"{folder}: ") for line in notes] == lines


PATTERNS = ["**/*.png", "s/**/*.png", "s/**", "*/**/d/*", "s/**/d/**/1.*", "**/e/.*"]
PATTERNS += ["s/**/[ad]*/[!1].png", "s/d*/**/?.png", "{}/s/**/*.p?g", "s/**/.h/*"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_over_folders(tmp_path, monkeypatch, pattern):
    """As glob's where nothing is linked; where links make loops glob never ends."""
    names = ("1", "2", "d/1", "d/e/1", "d/e/.2", "d/d/3", ".h/1", "d/.h/1", "a[1]/1")
    make(tmp_path / "s", *(f"{name}.png" for name in names))
    monkeypatch.chdir(tmp_path)
    pattern = pattern.format(tmp_path)
    expected = [p for p in glob.glob(pattern, recursive=True) if os.path.isfile(p)]
    assert expected
    assert sorted(image_files.find([pattern])) == sorted(expected)
    make(tmp_path / "s", d__up="..", d__here=".", d__e__top=tmp_path)
    assert sorted(image_files.find([pattern])) == sorted(expected)


def test_what_is_no_plain_file_is_never_opened(tmp_path):
    make(tmp_path, "c/1.png", c__zero="/dev/zero")
    os.mkfifo(tmp_path / "c" / "2.png")
    (tmp_path / "void").mkdir()
    files, lines = tree_of(tmp_path)
    assert files == ["c/1.png"]
    assert lines == [
        "neither files nor folders, left out: c/2.png, c/zero",
        "empty folders: void",
    ]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    make(tmp_path, "a/1.png", "b/2.png")
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    files, lines = tree_of(tmp_path)
    assert files == ["a/1.png"]
    assert lines == ["folders that cannot be read: b (Permission denied)"]


def test_a_name_that_is_no_text(tmp_path):
    (tmp_path / "c").mkdir()
    for name in (b"a\xe9.png", b"a\xe8.png"):
        with open(os.fsencode(tmp_path / "c") + b"/" + name, "wb") as f:
            f.write(PNG)
    with image_source.open_source(str(tmp_path)) as (files, _):
        assert [file.path for file in files] == ["c/a\\xe8.png", "c/a\\xe9.png"]
        assert all(file.read() == PNG for file in files)
    for path in image_files.find([str(tmp_path)]):
        assert image_files.load(path, 8).reason == ""
