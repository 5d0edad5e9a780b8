"""Forms in which people have their pictures, and what must come out of each."""

import contextlib
import itertools

import pytest
from support.import_sources import make_folder, make_zip
from support.pictures import encode, noise

from rsmatch_jax.data.images import user_pictures
from rsmatch_jax.data.rs_ssl import REAL, UNKNOWN
from rsmatch_jax.data.stores.dataset_folder import natural_key
from rsmatch_jax.errors import RequestError

PNG = encode(noise(8, 8, 3))
KEY = "data.labeled"


def files(*names):
    return {name: PNG for name in names}


def table(*rows):
    return {"labels.csv": "\n".join(rows).encode()}


# {form: (files, {name: class} in their order, words of its notes)}
LABELLED = {
    "class folders": (
        files("cat/1.png", "cat/10.png", "cat/2.png", "dog/1.png"),
        {"cat/1.png": "cat", "cat/2.png": "cat", "cat/10.png": "cat"}
        | {"dog/1.png": "dog"},
        "",
    ),
    "folders in a class": (
        files("cat/1.png", "dog/a/1.png", "dog/b/c/1.png"),
        {"cat/1.png": "cat", "dog/a/1.png": "dog", "dog/b/c/1.png": "dog"},
        "{}: folders inside classes, read with them: dog/a, dog/b/c",
    ),
    "a wrapping folder": (
        files("all/cat/1.png", "all/dog/1.png"),
        {"all/cat/1.png": "cat", "all/dog/1.png": "dog"},
        "{}: entered its only folder, all",
    ),
    "a split in a folder": (
        files("train/cat/1.png", "train/dog/1.png"),
        {"train/cat/1.png": "cat", "train/dog/1.png": "dog"},
        "{}: entered its only folder, train",
    ),
    "a class named like a split": (
        files("cat/1.png", "train/1.png"),
        {"cat/1.png": "cat", "train/1.png": "train"},
        "{}: taken for classes, as the folders beside them: train",
    ),
    "classes that differ in case": (
        files("Cat/1.png", "cat/2.png"),
        {"Cat/1.png": "Cat", "cat/2.png": "cat"},
        "{}: classes that differ in case alone: Cat, cat",
    ),
    "other files": (
        {**files("cat/1.png", "dog/1.png"), "cat/notes.txt": b"", "cat/x.doc": b""},
        {"cat/1.png": "cat", "dog/1.png": "dog"},
        "{}: no pictures: 2 files, such as cat/notes.txt",
    ),
    "a table": (
        files("1.png", "below/2.png")
        | table("label,path,who", "x y,1.png,me", "z,below/2.png,me"),
        {"1.png": "x y", "below/2.png": "z"},
        "{}: columns that are not used: who",
    ),
}


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize(
    ("content", "expected", "words"), LABELLED.values(), ids=LABELLED
)
def test_labelled(content, expected, words, packed, tmp_path):
    if packed and "labels.csv" in content:
        pytest.skip("a table lies beside its files")
    make = make_zip if packed else make_folder
    source = make(tmp_path / ("x.zip" if packed else "x"), content)
    source += "/labels.csv" if "labels.csv" in content else ""
    with contextlib.ExitStack() as stack:
        pictures = user_pictures.labelled(stack, source, KEY)
        assert all(file.read() == PNG for file in pictures.files)
    classes = [pictures.class_names[label] for label in pictures.labels]
    assert list(zip(pictures.names, classes, strict=True)) == list(expected.items())
    assert pictures.notes == ((words.format(f"{KEY}={source}"),) if words else ())


# {form: (files, words of the refusal)}; see also test_label_table.py for tables, and
# support/photo_requests.py.
REFUSED = {
    "flat": (files("1.png", "2.png"), "lies in no class folder.*path,label"),
    "splits": (
        files("test/cat/1.png", "train/cat/1.png"),
        "the folders test, train in place of classes.*data.labeled=.*/x/train,.*test",
    ),
    "splits in a wrapping folder": (
        files("a/val/cat/1.png", "a/dev/cat/1.png"),
        "the folders dev, val in place of classes.*data.labeled=.*/x/a/dev,",
    ),
    "unlabelled ones": (
        files("cat/1.png", "dog/1.png", "Unlabeled/1.png"),
        "the folder Unlabeled, which is no class.*data.unlabeled",
    ),
    "nothing": ({"a.txt": b""}, "has no pictures"),
    "no place": ({}, "no such folder"),
}


def test_splits_in_an_archive(tmp_path):
    source = make_zip(tmp_path / "x.zip", files("train/cat/1.png", "test/cat/1.png"))
    words = "test, train in place of classes; unpack the archive, and name"
    with contextlib.ExitStack() as stack, pytest.raises(RequestError, match=words):
        user_pictures.labelled(stack, source, KEY)


@pytest.mark.parametrize(("content", "words"), REFUSED.values(), ids=REFUSED)
def test_refused(content, words, tmp_path):
    source = make_folder(tmp_path / "x", content)
    with contextlib.ExitStack() as stack, pytest.raises(RequestError, match=words) as e:
        user_pictures.labelled(stack, source, KEY)
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


def test_order_of_names_of_equal_numbers():
    """One order, whatever that of the names: a set's differs by start."""
    expected = ["001", "01", "1", "a01", "a1", "a1b", "a02"]
    orders = itertools.permutations(expected)
    assert all(sorted(x, key=natural_key) == expected for x in orders)


def unlabelled(sources):
    with contextlib.ExitStack() as stack:
        return user_pictures.unlabelled(stack, sources)


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
    names, classes = (" a.png", "b/c.png", "d\\.png", "e.png", "f.png"), ("cat", "dog")
    path = tmp_path / "origins.csv"
    path.write_text(
        "path,origin,label\n a.png,Real,cat\n.\\b/c.png,synthetic,\nd\\.png,SDXL,dog\n"
        "e.png,unknown,dog\n"
    )
    truth = user_pictures.origins(str(path), names, classes)
    assert truth.generator_names == ("synthetic", "SDXL")
    assert truth.origins.tolist() == [REAL, 0, 1, UNKNOWN, UNKNOWN]
    assert truth.labels.tolist() == [0, -1, 1, 1, -1]
    nothing = user_pictures.origins(None, names, classes)
    assert set(nothing.origins.tolist()) == {UNKNOWN}
    assert set(nothing.labels.tolist()) == {-1} and not nothing.generator_names
    path.write_text("path,origin\ne.png,real\n./e.png,sd\n")
    with pytest.raises(RequestError, match="line 3: e.png is in line 2 too"):
        user_pictures.origins(str(path), names, classes)
