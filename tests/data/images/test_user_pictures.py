"""Forms in which people have their pictures, and what must come out of each."""

import contextlib

import numpy as np
import pytest
from support.import_sources import make_folder, make_zip
from support.pictures import encode, noise

from rsmatch_jax.data import own
from rsmatch_jax.data.images import user_pictures
from rsmatch_jax.data.rs_ssl import REAL, UNKNOWN
from rsmatch_jax.errors import RequestError

PNG = encode(noise(8, 8, 3))


def files(*names):
    return {name: PNG for name in names}


def table(*rows):
    return {"labels.csv": "\n".join(rows).encode()}


def pairs(pictures):
    """{name: class name}"""
    return {
        name: pictures.class_names[label]
        for name, label in zip(pictures.names, pictures.labels, strict=True)
    }


TWO = files("cat/1.png", "cat/10.png", "cat/2.png", "dog/a/1.png")
# {form: (files, what of them is named, {name: class}, words of its notes)}
LABELLED = {
    "class folders": (TWO, "", dict.fromkeys(("cat/1.png", "cat/2.png"), "cat"), ""),
    "a wrapping folder": (
        files("all/cat/1.png", "all/dog/1.png"),
        "",
        {"all/cat/1.png": "cat", "all/dog/1.png": "dog"},
        "entered its only folder, all",
    ),
    "a split in a folder": (
        files("train/cat/1.png", "train/dog/1.png"),
        "",
        {"train/cat/1.png": "cat"},
        "entered its only folder, train",
    ),
    "other files": (
        {**TWO, "cat/notes.txt": b"", "cat/x.psd": b""},
        "",
        {"cat/1.png": "cat"},
        "2 files are no pictures",
    ),
    "a table": (
        {
            **files("1.png", "below/2.png"),
            **table("path,label", "1.png,cat", "below/2.png,dog"),
        },
        "labels.csv",
        {"1.png": "cat", "below/2.png": "dog"},
        "",
    ),
    "a table with more columns": (
        {
            **files("1.png", "2.png"),
            **table("label,path,who", "x y,1.png,me", "z,2.png,me"),
        },
        "labels.csv",
        {"1.png": "x y", "2.png": "z"},
        "columns that are not used: who",
    ),
}


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("form", LABELLED)
def test_labelled(form, packed, tmp_path):
    content, named, expected, words = LABELLED[form]
    if packed and named:
        pytest.skip("a table lies beside its files")
    make = make_zip if packed else make_folder
    source = make(tmp_path / ("x.zip" if packed else "x"), content)
    with contextlib.ExitStack() as stack:
        pictures = user_pictures.labelled(
            stack, f"{source}/{named}".rstrip("/"), "data.labeled"
        )
        assert all(file.read() == PNG for file in pictures.files)
    assert pairs(pictures).items() >= expected.items()
    assert words in "\n".join(pictures.notes)


def test_natural_order(tmp_path):
    with contextlib.ExitStack() as stack:
        source = make_folder(tmp_path / "x", TWO)
        pictures = user_pictures.labelled(stack, source, "data.labeled")
    assert pictures.names == ("cat/1.png", "cat/2.png", "cat/10.png", "dog/a/1.png")
    assert pictures.labels.tolist() == [0, 0, 0, 1]


REFUSED = {
    "flat": (files("1.png", "2.png"), "", "lies in no class folder.*path,label"),
    "splits": (
        files("train/cat/1.png", "test/cat/1.png"),
        "",
        "the folders test, train in place of classes.*data.labeled=.*test",
    ),
    "one class": (files("cat/1.png"), "", "one class, cat"),
    "unlabelled ones": (
        files("cat/1.png", "dog/1.png", "Unlabeled/1.png"),
        "",
        "the folder Unlabeled, which is no class.*data.unlabeled",
    ),
    "nothing": ({"a.txt": b""}, "", "has no pictures"),
    "a row without a file": (
        {**files("1.png"), **table("path,label", "1.png,a", "2.png,b")},
        "labels.csv",
        "2.png",
    ),
    "a row without a label": (
        {**files("1.png"), **table("path,label", "1.png,")},
        "labels.csv",
        "label",
    ),
    "a file twice": (
        {**files("1.png"), **table("path,label", "1.png,a", "./1.png,b")},
        "labels.csv",
        "1.png",
    ),
    "no header": (
        {**files("1.png"), **table("1.png,a")},
        "labels.csv",
        "path,label",
    ),
    "no rows": (table("path,label"), "labels.csv", "no rows"),
    "no place": ({"a": b""}, "nowhere", "no such folder"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_refused(form, tmp_path):
    content, named, words = REFUSED[form]
    source = make_folder(tmp_path / "x", content)
    with contextlib.ExitStack() as stack, pytest.raises(RequestError, match=words) as e:
        user_pictures.labelled(stack, f"{source}/{named}".rstrip("/"), "data.labeled")
    assert "data.labeled=" in str(e.value)


def test_classes_of_a_test_set(tmp_path):
    """A class that the labelled pictures lack is refused by name; fewer are fine."""
    for content, words in (
        (files("cat/1.png", "dog/1.png"), None),
        (files("cat/1.png", "owl/1.png"), "has the classes owl, which data.labeled"),
    ):
        source = make_folder(tmp_path / str(words), content)
        refused = pytest.raises(RequestError, match=words) if words else None
        with contextlib.ExitStack() as stack, refused or contextlib.nullcontext():
            pictures = user_pictures.labelled(
                stack, source, "data.test", ("ape", "cat", "dog")
            )
            assert pictures.labels.tolist() == [1, 2]


def unlabelled(sources):
    with contextlib.ExitStack() as stack:
        return user_pictures.unlabelled(stack, sources, "data.unlabeled")


def test_unlabelled(tmp_path):
    """Trees and archives, joined by commas; no folder means anything."""
    tree = make_folder(tmp_path / "a" / "pics", files("train/1.png", "x.png"))
    packed = make_zip(tmp_path / "b.zip", files("cat/2.png"))
    other = make_folder(tmp_path / "c" / "pics", files("x.png"))
    comma = make_folder(tmp_path / "d,e", files("y.png"))
    assert unlabelled(tree).names == ("train/1.png", "x.png")
    assert unlabelled(comma).names == ("y.png",)
    pictures = unlabelled(f"{tree}, {packed},{other}")
    names = ("a/pics/train/1.png", "a/pics/x.png", "{}/b.zip/cat/2.png", "c/pics/x.png")
    assert pictures.names == tuple(n.format(tmp_path.name) for n in names)
    assert set(pictures.labels.tolist()) == {-1}
    for sources, words in (
        (f"{tree},{tree}", "twice"),
        (",", "names no folder"),
        (f"{tree},{tmp_path}/gone", "gone: there is no such folder"),
        (make_folder(tmp_path / "empty", {"a.txt": b""}), "has no pictures"),
    ):
        with pytest.raises(RequestError, match=words):
            unlabelled(sources)


def test_origins(tmp_path):
    names = (" a.png", "b/c.png", "d\\.png", "e.png", "f.png")
    path = tmp_path / "origins.csv"
    path.write_text(
        "path,origin,label\n a.png,Real,cat\n.\\b/c.png,synthetic,\nd\\.png,SDXL,dog\n"
        "e.png,unknown,dog\n"
    )
    known = user_pictures.origins(str(path), names, ("cat", "dog"), "data.origins")
    assert known.generator_names == ("synthetic", "SDXL")
    assert known.origins.tolist() == [REAL, 0, 1, UNKNOWN, UNKNOWN]
    assert known.labels.tolist() == [0, -1, 1, 1, -1]
    for rows, words in (
        ("path,origin\nz.png,real\n", "z.png is none of the unlabelled pictures"),
        ("path,origin,label\na.png,real,owl\n", "owl is none of the classes cat, dog"),
        ("origin\nreal\n", "path"),
    ):
        path.write_text(rows)
        with pytest.raises(RequestError, match=words):
            user_pictures.origins(str(path), names, ("cat", "dog"), "data.origins")


def test_hold_out():
    """Of each class its share, at least one and not all, the same at every start."""
    labels = np.repeat([0, 1, 2, 3], [50, 10, 2, 3]).astype(np.int32)
    train, test = own.hold_out(labels, "abcd", 0.2, 3)
    assert np.bincount(labels[test]).tolist() == [10, 2, 1, 1]
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(65))
    assert np.array_equal(own.hold_out(labels, "abcd", 0.2, 3)[1], test)
    assert not np.array_equal(own.hold_out(labels, "abcd", 0.2, 4)[1], test)
    assert len(own.hold_out(labels, "abcd", 0.0, 3)[1]) == 0
    _, most = own.hold_out(labels, "abcd", 0.9, 3)
    assert np.bincount(labels[most]).tolist() == [45, 9, 1, 2]
    with pytest.raises(RequestError, match="class d has 1 readable.*data.test_share"):
        own.hold_out(np.append(labels[:62], 3), "abcd", 0.2, 3)
