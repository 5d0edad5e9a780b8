"""The task of a user's pictures: what is held out, counted and left out."""

import numpy as np
import pytest
from support.import_sources import make_folder, make_zip
from support.pictures import encode, noise

from rsmatch_jax.data import user_parts, user_task
from rsmatch_jax.data.rs_ssl import REAL, UNKNOWN
from rsmatch_jax.errors import RequestError


def picture(seed, **options):
    return encode(noise(8, 8, 3, seed=seed), **options)


LABELLED = {f"{'a' if i < 3 else 'b'}/{i}.png": picture(i) for i in (1, 2, 3, 4)}


def load(root, test_share=0.0, labels_per_class=None, validation_per_class=0, **places):
    """The task and its notes of places below `root`, by default labelled, scraped."""
    paths = {key: str(root / name) for key, name in places.items()}
    keys = {"test": None, "origins": None, "cache_dir": str(root / "cache")}
    keys |= {"labeled": str(root / "labelled"), "unlabeled": str(root / "scraped")}
    options = {"encode": False, "alike": False, "seed": 0}
    task = user_task.load_task(
        user_parts.Places(**{**keys, **paths}),
        size=8,
        test_share=test_share,
        labels_per_class=labels_per_class,
        validation_per_class=validation_per_class,
        **options,
    )
    return task, list(task.notes)


@pytest.fixture
def root(tmp_path):
    make_folder(tmp_path / "labelled", LABELLED)
    scraped = {f"{i}.png": picture(i) for i in range(10, 14)}
    make_folder(tmp_path / "scraped", scraped)
    return tmp_path


def test_pictures_in_two_parts(root):
    """By content, whatever the file: kept, counted, and for test ones warned of."""
    test = {"a/x.png": LABELLED["a/1.png"], "b/y.png": picture(11)}
    make_folder(root / "test", {**test, "b/z.png": picture(20)})
    again = picture(3, compress_level=0)
    assert again != LABELLED["b/3.png"]
    (root / "scraped" / "again.png").write_bytes(again)
    task, notes = load(root, test="test")
    assert (len(task.lab_labels), len(task.unl_labels), len(task.test_labels)) == (
        4,
        9,
        3,
    )
    warning = "warning: test pictures that are {} ones too, kept, so that test figures"
    assert notes == [
        "unlabelled pictures that are labelled ones too, kept: 1",
        f"{warning.format('labelled')} are too good: 1 of 3",
        f"{warning.format('unlabelled')} are too good: 1 of 3",
    ]


def test_held_out_pictures_that_train_without_their_labels(root):
    """Of a labelled folder of which a part is labelled; also validation pictures."""
    for i in range(5, 10):
        (root / "labelled" / "ab"[i % 2] / f"{i}.png").write_bytes(picture(i))
    options = {"labels_per_class": 1, "validation_per_class": 1}
    task, _ = load(root, **options)
    files = task.files
    assert len(files["unlabelled"].names) == 7 + 4 and len(task.lab_labels) == 2
    # Copies of a picture that trains without its label, and of a validation picture.
    rest, held = (
        (root / "labelled" / files[part].names[i]).read_bytes()
        for part, i in (("unlabelled", 2), ("validation", 0))
    )
    (root / "scraped" / "copy.png").write_bytes(held)
    make_folder(root / "test", {"a/x.png": rest, "b/y.png": picture(20)})
    _, notes = load(root, test="test", **options)
    warning = "warning: {0} pictures that are unlabelled ones too, kept, so that {0} "
    assert notes == [
        warning.format("validation") + "figures are too good: 1 of 2",
        warning.format("test") + "figures are too good: 1 of 2",
    ]


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ({"unlabeled": "labelled"}, "labelled is the same place as data.unlabeled"),
        ({"labeled": "."}, r"holds data.unlabeled=.*scraped"),
        ({"unlabeled": "."}, r"data.unlabeled=.* holds data.labeled=.*labelled"),
        ({"unlabeled": "link"}, "labelled is the same place as data.unlabeled"),
        ({"test": "labelled/a"}, r"data.labeled=.* holds data.test="),
        ({"unlabeled": "scraped,{root}/scraped/new"}, "scraped holds data.unlabeled="),
        ({"unlabeled": "scraped/new,{root}/scraped"}, "scraped holds data.unlabeled="),
        ({"unlabeled": "scraped,{root}/scraped"}, "is the same place as data.unl"),
    ],
)
def test_places_in_one_another(root, places, words):
    (root / "link").symlink_to(root / "labelled")
    make_folder(root / "scraped", {"new/20.png": picture(20)})
    places = {key: place.format(root=root) for key, place in places.items()}
    with pytest.raises(RequestError, match=words):
        load(root, **places)


def test_an_archive_in_a_folder_is_another_place(root):
    """No folder's reading opens it."""
    make_zip(root / "scraped" / "more.zip", {"20.png": picture(20)})
    task, _ = load(root, unlabeled=f"scraped,{root}/scraped/more.zip")
    assert len(task.files["unlabelled"].names) == 4 + 4 + 1


def test_labels_that_lie_among_the_collected_pictures(root):
    (root / "scraped" / "labels.csv").write_text("path,label\n10.png,a\n11.png,b\n")
    task, notes = load(root, labeled="scraped/labels.csv")
    assert task.class_names == ("a", "b")
    assert "unlabelled pictures that are labelled ones too, kept: 2" in notes


def test_without_a_picture_in_two_parts(root):
    _, notes = load(root, test_share=0.5)
    assert notes == [
        "data.test is not set: 2 of 4 labelled pictures are held out as the test set "
        "(data.test_share=0.5 of each class)"
    ]


@pytest.mark.parametrize("place", ["labelled", "scraped"])
def test_files_that_are_no_pictures(root, place):
    """Counted and left out; refused if nothing of a class is left."""
    folder = root / place / ("b" if place == "labelled" else "")
    (folder / "9.png").write_bytes(b"junk")
    _, (note, _) = load(root)
    key = {"labelled": "data.labeled", "scraped": "data.unlabeled"}[place]
    assert note.startswith(
        f"{key}: no complete pictures, left out: 1 of 5 files, such as"
    )
    for path in folder.glob("*.png"):
        path.write_bytes(b"junk")
    of_class = " of class b" if place == "labelled" else ""
    with pytest.raises(
        RequestError, match=f"{key}: there are no readable.*{of_class};"
    ):
        load(root)


def test_origins_of_a_picture_that_cannot_be_read(root):
    """Its row is skipped, whatever the others say."""
    (root / "scraped" / "11.png").write_bytes(b"junk")
    rows = "path,origin,label\n10.png,real,a\n./11.png,sd,b\n13.png,sd,b\n"
    (root / "origins.csv").write_text(rows)
    task, notes = load(root, origins="origins.csv")
    assert task.unl_origins[-3:].tolist() == [REAL, UNKNOWN, 0]
    assert task.unl_labels[-3:].tolist() == [0, -1, 1]
    (note,) = [note for note in notes if note.startswith("data.origins")]
    assert note.endswith("are no complete pictures, not used: 11.png")


def test_hold_out():
    """Of each class its share, at least one and not all, the same at every start."""
    labels = np.repeat([0, 1, 2, 3], [50, 10, 2, 3]).astype(np.int32)
    train, test = user_task.hold_out(labels, "abcd", 0.2, 3)
    assert np.bincount(labels[test]).tolist() == [10, 2, 1, 1]
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(65))
    assert np.array_equal(user_task.hold_out(labels, "abcd", 0.2, 3)[1], test)
    assert not np.array_equal(user_task.hold_out(labels, "abcd", 0.2, 4)[1], test)
    assert len(user_task.hold_out(labels, "abcd", 0.0, 3)[1]) == 0
    _, most = user_task.hold_out(labels, "abcd", 0.9, 3)
    assert np.bincount(labels[most]).tolist() == [45, 9, 1, 2]
    with pytest.raises(RequestError, match="class d has 1 readable.*data.test_share"):
        user_task.hold_out(np.append(labels[:62], 3), "abcd", 0.2, 3)
