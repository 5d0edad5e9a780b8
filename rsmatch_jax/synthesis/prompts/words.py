"""Converts class names to words and looks for them in sentences.

A sentence holds a class's word if it contains the word, its plural or its singular as
a complete word, in upper or lower case. The parts of a word such as "pickup truck" must
be adjacent. Its last part may be inflected, and its parts may be joined or split
differently ("pick-up truck", "lawnmower"). Synonyms do not count ("plane"), homonyms do
("can", "orange").
"""

import os
import re
from collections.abc import Sequence

from rsmatch_jax.errors import RequestError

_DIGITS = "zero one two three four five six seven eight nine"
_IRREGULAR = """
calf calves, child children, foot feet, goose geese, knife knives, leaf leaves,
loaf loaves, man men, mouse mice, ox oxen, person people, scarf scarves, shelf shelves,
tooth teeth, wolf wolves, woman women
"""
_PAIRS = [pair.split() for pair in _IRREGULAR.split(",")]
_PLURALS = {noun: plural for noun, plural in _PAIRS}
_SINGULARS = {plural: noun for noun, plural in _PLURALS.items()}
_SYNSET = re.compile(r"n\d{8}")  # WordNet's ids
_TOKEN = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_WORDS = re.compile(r"[^\W_]+(?:[ '’-][^\W_]+)*")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")


def words(class_name: str) -> str:
    """Returns a class name as English words: "aquarium fish", or "seven" for 7."""
    if re.fullmatch("[0-9]", class_name):
        return _DIGITS.split()[int(class_name)]
    text = _HUMP.sub(" ", class_name).replace("_", " ").lower()
    text = " ".join(text.split())
    if _SYNSET.match(class_name) or not _is_words(text):
        raise RequestError(
            f"class name {class_name!r} cannot be turned into words; give "
            "--words=FILE, a file with a line per class, in label order"
        )
    return text


def of_classes(class_names: Sequence[str], path: str | None) -> tuple[str, ...]:
    """Returns the words of every class, from its name or from a file's line."""
    class_words = _read(path, class_names) if path else tuple(map(words, class_names))
    first = {}
    for label, text in enumerate(class_words):
        other = first.setdefault(text.casefold(), label)
        if other != label:
            raise RequestError(
                f"classes {other} and {label} ({class_names[other]}, "
                f"{class_names[label]}) are both {text!r}, so their sentences would "
                "not differ; give --words=FILE with another word for each"
            )
    return class_words


def holds(sentence: str, word: str) -> bool:
    """Whether a sentence holds a class's word, by the rule at the top of this file."""
    parts = _tokens(word)
    forms = {"".join(parts[:-1]) + last for last in _inflections(parts[-1])}
    longest = max(map(len, forms))
    tokens = _tokens(sentence)
    for start in range(len(tokens)):
        joined = ""
        for token in tokens[start:]:
            # Single letters are not joined unless the class has them (x ray).
            if len(token) == 1 and token not in parts:
                break
            joined += token
            if joined in forms:
                return True
            if len(joined) >= longest:
                break
    return False


def _tokens(text: str) -> list[str]:
    """Returns the words in lower case, without a possessive s."""
    tokens = _TOKEN.findall(text.casefold())
    return [t[:-2] if t.endswith(("'s", "’s")) else t for t in tokens]


def _inflections(noun: str) -> set[str]:
    """Returns the noun, its plurals and its possible singulars."""
    stems = {noun[:-1], noun[:-2], noun[:-3] + "y"}
    stems = {s for s in stems if len(s) > 2 and noun in _plurals(s)}
    if noun in _SINGULARS:
        stems.add(_SINGULARS[noun])
    return {noun} | _plurals(noun) | stems


def _plurals(noun: str) -> set[str]:
    if noun in _PLURALS:
        return {_PLURALS[noun]}
    if noun.endswith("y") and noun[-2:-1] not in tuple("aeiou"):
        return {noun[:-1] + "ies"}
    if noun.endswith(("s", "x", "z", "sh")):
        return {noun + "es"}
    if noun.endswith(("ch", "o")):
        return {noun + "s", noun + "es"}
    return {noun + "s"}


def _is_words(text: str) -> bool:
    return bool(_WORDS.fullmatch(text)) and any(c.isalpha() for c in text)


def _read(path: str, class_names: Sequence[str]) -> tuple[str, ...]:
    try:
        with open(os.path.expanduser(path), encoding="utf-8-sig") as f:
            lines = tuple(" ".join(line.split()) for line in f.read().splitlines())
    except (OSError, UnicodeDecodeError) as e:
        raise RequestError(f"--words={path} cannot be read: {e}") from None
    if len(lines) != len(class_names):
        raise RequestError(
            f"--words={path} has {len(lines)} lines for {len(class_names)} classes; "
            "give a line per class, in label order"
        )
    for number, text in enumerate(lines, start=1):
        if not _is_words(text):
            raise RequestError(
                f"--words={path}, line {number}: {text!r} is no word for "
                f"{class_names[number - 1]!r}; use letters, digits, spaces and hyphens"
            )
    return lines
