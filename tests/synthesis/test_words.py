"""Converts class names to words and looks for them in sentences."""

import pytest

from rsmatch_jax.data import class_names
from rsmatch_jax.errors import RequestError
from rsmatch_jax.synthesis.prompts import words

# CIFAR-10 and, by superclass as its page has them, CIFAR-100: name, words, plural.
CIFAR10 = """
airplane airplanes, automobile automobiles, bird birds, cat cats, deer deer, dog dogs,
frog frogs, horse horses, ship ships, truck trucks
"""
CIFAR100 = """
beaver beavers, dolphin dolphins, otter otters, seal seals, whale whales,
aquarium_fish aquarium_fish, flatfish flatfish, ray rays, shark sharks, trout trout,
orchid orchids, poppy poppies, rose roses, sunflower sunflowers, tulip tulips,
bottle bottles, bowl bowls, can cans, cup cups, plate plates,
apple apples, mushroom mushrooms, orange oranges, pear pears, sweet_pepper
sweet_peppers, clock clocks, keyboard keyboards, lamp lamps, telephone telephones,
television televisions, bed beds, chair chairs, couch couches, table tables,
wardrobe wardrobes, bee bees, beetle beetles, butterfly butterflies,
caterpillar caterpillars, cockroach cockroaches, bear bears, leopard leopards,
lion lions, tiger tigers, wolf wolves, bridge bridges, castle castles, house houses,
road roads, skyscraper skyscrapers, cloud clouds, forest forests, mountain mountains,
plain plains, sea seas, camel camels, cattle cattle, chimpanzee chimpanzees,
elephant elephants, kangaroo kangaroos, fox foxes, porcupine porcupines,
possum possums, raccoon raccoons, skunk skunks, crab crabs, lobster lobsters,
snail snails, spider spiders, worm worms, baby babies, boy boys, girl girls, man men,
woman women, crocodile crocodiles, dinosaur dinosaurs, lizard lizards, snake snakes,
turtle turtles, hamster hamsters, mouse mice, rabbit rabbits, shrew shrews,
squirrel squirrels, maple_tree maple_trees, oak_tree oak_trees, palm_tree palm_trees,
pine_tree pine_trees, willow_tree willow_trees, bicycle bicycles, bus buses,
motorcycle motorcycles, pickup_truck pickup_trucks, train trains,
lawn_mower lawn_mowers, rocket rockets, streetcar streetcars, tank tanks,
tractor tractors
"""


def pairs(text):
    return [pair.split() for pair in text.split(",")]


def test_known_class_names(tmp_path):
    for dataset, text, count in (("cifar10", CIFAR10, 10), ("cifar100", CIFAR100, 100)):
        want = tuple(sorted(name for name, _ in pairs(text)))  # in label order
        assert len(want) == count
        got = class_names.class_names(
            dataset, data_dir=str(tmp_path), cache_dir=str(tmp_path)
        )
        assert got == want


@pytest.mark.parametrize("text", [CIFAR10, CIFAR100])
def test_every_cifar_name_in_both_numbers_and_in_no_other_class(text):
    names = pairs(text)
    for name, plural in names:
        word = words.words(name)
        assert word == name.replace("_", " ")
        many = plural.replace("_", " ")
        assert words.holds(f"A photo of the {word}.", word)
        assert words.holds(f"Two {many.upper()} on a hill", word)
        assert words.holds(f"{word.capitalize()}'s day", word)
        # Some sets name a class in the plural.
        assert words.holds(f"one {word} here", many)
        for other, _ in names:
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
