"""Converts class names to words and looks for them in sentences."""

import pytest

from rsmatch_jax.data import class_names
from rsmatch_jax.errors import RequestError
from rsmatch_jax.synthesis.prompts import words

# Names by superclass, as the page of CIFAR-100 has them.
CIFAR = {
    "cifar10": "airplane automobile bird cat deer dog frog horse ship truck",
    "cifar100": """
    beaver dolphin otter seal whale aquarium_fish flatfish ray shark trout orchid poppy
    rose sunflower tulip bottle bowl can cup plate apple mushroom orange pear
    sweet_pepper clock keyboard lamp telephone television bed chair couch table wardrobe
    bee beetle butterfly caterpillar cockroach bear leopard lion tiger wolf bridge
    castle house road skyscraper cloud forest mountain plain sea camel cattle chimpanzee
    elephant kangaroo fox porcupine possum raccoon skunk crab lobster snail spider worm
    baby boy girl man woman crocodile dinosaur lizard snake turtle hamster mouse rabbit
    shrew squirrel maple_tree oak_tree palm_tree pine_tree willow_tree bicycle bus
    motorcycle pickup_truck train lawn_mower rocket streetcar tank tractor
    """,
}
# The plurals that do not only add an s.
PLURALS = """
aquarium_fish aquarium_fish, baby babies, bus buses, butterfly butterflies,
cattle cattle, cockroach cockroaches, couch couches, deer deer, flatfish flatfish,
fox foxes, man men, mouse mice, poppy poppies, trout trout, wolf wolves, woman women
"""


@pytest.mark.parametrize(("dataset", "count"), [("cifar10", 10), ("cifar100", 100)])
def test_every_cifar_name_in_both_numbers_and_in_no_other_class(
    dataset, count, tmp_path
):
    names = sorted(CIFAR[dataset].split())  # in label order
    assert len(names) == count
    folders = {"data_dir": str(tmp_path), "cache_dir": str(tmp_path)}
    assert class_names.class_names(dataset, **folders) == tuple(names)
    plurals = dict(pair.split() for pair in PLURALS.split(","))
    for name in names:
        word = words.words(name)
        assert word == name.replace("_", " ")
        many = plurals.get(name, name + "s").replace("_", " ")
        assert words.holds(f"A photo of the {word}.", word)
        assert words.holds(f"Two {many.upper()} on a hill", word)
        assert words.holds(f"{word.capitalize()}'s day", word)
        # Some sets name a class in the plural.
        assert words.holds(f"one {word} here", many)
        for other in names:
            if other != name:
                assert not words.holds(f"The {many}!", words.words(other)), other


NAMES = """
aquarium_fish: aquarium fish, 7: seven, 0: zero, AnnualCrop: annual crop,
Ankle boot: ankle boot, T-shirt: t-shirt, class_3: class 3
"""


@pytest.mark.parametrize("pair", NAMES.split(","))
def test_names_become_words(pair):
    name, word = pair.strip().split(": ")
    assert words.words(name) == word


@pytest.mark.parametrize(
    "name", ["n01440764", "n02085620-Chihuahua", "42", "T-shirt/top", "_", ""]
)
def test_names_without_words_point_to_the_file(name):
    with pytest.raises(RequestError, match="--words=FILE") as e:
        words.words(name)
    assert repr(name) in str(e.value)


HELD = {
    "pickup truck": ("A pick-up truck", "pickup trucks in a row"),
    "lawn mower": ("the lawnmower",),
    "streetcar": ("Street cars pass",),
    "cat": ("the cats' tails", "the cat’s tail", "(cat)"),
    "t-shirt": ("red t-shirts", "a tshirt"),
    "x ray": ("an x-ray",),
    "snow leopard": ("snow leopards",),
    "child": ("children play",),
    "children": ("a child plays",),
    "fox": ("foxes",),
    "potato": ("potatoes",),
}
NOT_HELD = {
    "pickup truck": ("a truck for pickup", "a pickup", "pickups truck"),
    "cat": ("a category", "scatter", ""),
    "ship": ("the dog's hip",),
    "can": ("c an",),
    "man": ("a human",),
    "mouse": ("mouses",),
    "sweet pepper": ("sweet red pepper",),
    "bus": ("a bu and a fo",),
    "airplane": ("a plane",),
}


@pytest.mark.parametrize(("table", "expected"), [(HELD, True), (NOT_HELD, False)])
def test_sentences_that_hold_the_word_and_that_do_not(table, expected):
    for word, sentences in table.items():
        for sentence in sentences:
            assert words.holds(sentence, word) == expected, (sentence, word)


def test_words_from_a_file(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("tench\n great  white shark \n", encoding="utf-8-sig")
    ids = ("n01440764", "n01484850")
    assert words.of_classes(ids, str(path)) == ("tench", "great white shark")
    assert words.of_classes(("cat", "maple_tree"), None) == ("cat", "maple tree")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"tench\n", "1 lines for 2 classes"),
        (b"tench\n\n", "line 2"),
        (b"tench\na/b\n", "line 2: 'a/b'"),
        (b"tench\nTENCH\n", "classes 0 and 1"),
        (b"\xff\xfe", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_bad_word_files_are_named(tmp_path, content, named):
    path = tmp_path / "words.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RequestError, match=named):
        words.of_classes(("n01440764", "n01484850"), str(path))
