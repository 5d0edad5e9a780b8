"""Converts class names to words and looks for them in sentences."""

import pytest

from rsmatch_jax.data import class_names
from rsmatch_jax.errors import RequestError
from rsmatch_jax.synthesis.prompts import words

# Names of CIFAR-10 and CIFAR-100 whose plural is not the name with an s.
IRREGULAR = """
aquarium_fish aquarium_fish, baby babies, bus buses, butterfly butterflies,
cattle cattle, cockroach cockroaches, couch couches, deer deer, flatfish flatfish,
fox foxes, man men, mouse mice, poppy poppies, trout trout, wolf wolves, woman women
"""
PLURALS = dict(pair.split() for pair in IRREGULAR.split(","))


def names_of(dataset, folder):
    folder = str(folder)
    return class_names.class_names(dataset, data_dir=folder, cache_dir=folder)


def test_known_class_names(tmp_path):
    """In label order, which is the alphabet's."""
    for dataset, count, first, last in (
        ("cifar10", 10, ("airplane", "automobile", "bird", "cat"), "truck"),
        ("cifar100", 100, ("apple", "aquarium_fish", "baby", "bear"), "worm"),
    ):
        names = names_of(dataset, tmp_path)
        assert (len(names), names[:4], names[-1]) == (count, first, last)
        assert list(names) == sorted(set(names))


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_every_cifar_name_in_both_numbers_and_in_no_other_class(dataset, tmp_path):
    names = names_of(dataset, tmp_path)
    for name in names:
        word = words.words(name)
        assert word == name.replace("_", " ")
        many = PLURALS.get(name, f"{name}s").replace("_", " ")
        assert words.holds(f"A photo of the {word}.", word)
        assert words.holds(f"Two {many.upper()} on a hill", word)
        assert words.holds(f"{word.capitalize()}'s day", word)
        # Some sets name a class in the plural.
        assert words.holds(f"one {word} here", many)
        for other in names:
            if other != name:
                assert not words.holds(f"The {many}!", words.words(other)), other


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("aquarium_fish", "aquarium fish"),
        ("7", "seven"),
        ("0", "zero"),
        ("AnnualCrop", "annual crop"),
        ("Ankle boot", "ankle boot"),
        ("T-shirt", "t-shirt"),
        ("class_3", "class 3"),
    ],
)
def test_names_become_words(name, want):
    assert words.words(name) == want


@pytest.mark.parametrize(
    "name", ["n01440764", "n02085620-Chihuahua", "42", "T-shirt/top", "_", ""]
)
def test_names_without_words_point_to_the_file(name):
    with pytest.raises(RequestError, match="--words=FILE") as e:
        words.words(name)
    assert repr(name) in str(e.value)


@pytest.mark.parametrize(
    ("sentence", "word"),
    [
        ("A pick-up truck", "pickup truck"),
        ("pickup trucks in a row", "pickup truck"),
        ("the lawnmower", "lawn mower"),
        ("Street cars pass", "streetcar"),
        ("the cats' tails", "cat"),
        ("the cat’s tail", "cat"),
        ("(cat)", "cat"),
        ("red t-shirts", "t-shirt"),
        ("a tshirt", "t-shirt"),
        ("an x-ray", "x ray"),
        ("snow leopards", "snow leopard"),
        ("children play", "child"),
        ("a child plays", "children"),
        ("foxes", "fox"),
        ("potatoes", "potato"),
    ],
)
def test_sentences_that_hold_the_word(sentence, word):
    assert words.holds(sentence, word)


@pytest.mark.parametrize(
    ("sentence", "word"),
    [
        ("a category", "cat"),
        ("scatter", "cat"),
        ("the dog's hip", "ship"),
        ("c an", "can"),
        ("a truck for pickup", "pickup truck"),
        ("a pickup", "pickup truck"),
        ("pickups truck", "pickup truck"),
        ("a human", "man"),
        ("mouses", "mouse"),
        ("sweet red pepper", "sweet pepper"),
        ("", "cat"),
        ("a bu and a fo", "bus"),
        ("a plane", "airplane"),
    ],
)
def test_sentences_that_do_not(sentence, word):
    assert not words.holds(sentence, word)


def test_words_from_a_file(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("tench\n great  white shark \n")
    ids = ("n01440764", "n01484850")
    assert words.of_classes(ids, str(path)) == ("tench", "great white shark")
    assert words.of_classes(("cat", "maple_tree"), None) == ("cat", "maple tree")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("tench\n", "1 lines for 2 classes"),
        ("tench\n\n", "line 2"),
        ("tench\na/b\n", "line 2: 'a/b'"),
        ("tench\nTENCH\n", "classes 0 and 1"),
        (b"\xff\xfe", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_bad_word_files_are_named(tmp_path, content, named):
    path = tmp_path / "words.txt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.write_text(content)
    with pytest.raises(RequestError, match=named):
        words.of_classes(("n01440764", "n01484850"), str(path))


def test_classes_that_share_their_words_are_refused():
    with pytest.raises(RequestError, match="classes 0 and 2.*'a'"):
        words.of_classes(("a", "b", "A"), None)
