"""Staged pictures: what counts, what is cleaned, who may write."""

import hashlib
import io
import os

import numpy as np
import pytest
from PIL import Image

from rsmatch_jax import files
from rsmatch_jax.errors import RequestError
from rsmatch_jax.synthesis.generate import batches
from rsmatch_jax.synthesis.generate.batches import Part
from rsmatch_jax.synthesis.prompts.prompt_file import Prompt, PromptFile

PETS = {"dataset": "pets", "class_names": ["cat", "dog"]}
LABELS = ((0, 0), (1, 1), (2, 0))
PROMPTS = PromptFile(PETS, [Prompt(label, f"text {i}") for i, label in LABELS])
HEADER = {
    **PETS,
    "size": 4,
    "settings": {"seed": 0, "steps": 50},
    "prompts": {"count": 3, "digest": PROMPTS.digest()},
}
VERSIONS = {"torch": "1"}


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def begun(out, name="a"):
    os.makedirs(batches.folder_of(out), exist_ok=True)
    part = Part(out, name)
    part.begin(HEADER, VERSIONS)
    return part


def folder_of(part):
    return os.path.join(part.folder, "batches")


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "pool")


@pytest.fixture
def part(out):
    """One generator with the batch of LABELS staged; the second one was dropped."""
    part = begun(out)
    part.stage(0, LABELS, [picture(0), "ugly", picture(2)])
    return part


def test_a_batch_is_read_again(part, out):
    again = Part(out, "a")
    assert again.entries == part.entries
    assert again.header == {**HEADER, "position": 0, "environments": [VERSIONS]}
    second = again.entries[1]
    assert (second.prompt, second.label, second.dropped) == (1, 1, "ugly")
    (_, _), (third, png) = again.pictures()
    assert (third.prompt, third.label) == (2, 0)
    # Area mean, by hand: the mean of a 2x2 block, which Pillow rounds twice.
    blocks = picture(2).reshape(4, 2, 4, 2, 3).astype(float).mean((1, 3))
    with Image.open(io.BytesIO(png)) as image:
        stored = np.asarray(image)
    assert np.abs(stored - blocks).max() <= 1
    want = hashlib.blake2b(stored.tobytes(), digest_size=16).hexdigest()
    assert third.pixels == want


def test_missing_batches(out):
    part = begun(out)
    assert part.missing(7, 3) == [0, 1, 2]
    part.stage(1, LABELS, ["x"] * 3)
    assert Part(out, "a").missing(7, 3) == [0, 2]
    assert part.missing(6, 3) == [0]
    assert part.missing(5, 3) == [0, 1], "other pictures beside the last"
    part.stage(2, ((6, 0),), ["x"])
    assert part.missing(7, 3) == [0]
    assert part.missing(10, 3) == [0, 2, 3]


def test_the_files_of_a_killed_process_are_removed(part, out):
    (name,) = os.listdir(folder_of(part))
    with open(os.path.join(folder_of(part), f"0000001.zip.77-1{files.TEMPORARY}"), "w"):
        pass
    again = Part(out, "a")
    assert list(again.batches) == [0]
    assert len(os.listdir(folder_of(part))) == 2, "reading changes nothing"
    again.begin(HEADER, VERSIONS)
    assert os.listdir(folder_of(part)) == [name]


def test_damage_is_named(part, out):
    path = os.path.join(folder_of(part), "0000000.zip")
    with open(path, "rb") as f:
        content = bytearray(f.read())
    content[content.index(b"IDAT") + 8] ^= 1
    with open(path, "wb") as f:
        f.write(content)
    with pytest.raises(RequestError, match=r"0000000\.zip is damaged.*delete it"):
        list(part.pictures())
    os.truncate(path, 20)
    with pytest.raises(RequestError, match=r"0000000\.zip is damaged.*delete it"):
        Part(out, "a")


def test_only_prompts_and_environments_of_a_header_change(part, out):
    longer = {"settings": {}, "prompts": {"count": 5, "digest": "y"}}
    for versions in (VERSIONS, {"torch": "2"}, VERSIONS):
        Part(out, "a").begin(longer, versions)
    assert Part(out, "a").header == {
        **HEADER,
        "position": 0,
        "prompts": longer["prompts"],
        "environments": [VERSIONS, {"torch": "2"}],
    }


def test_generators_keep_their_places(out):
    for name in ("b", "none", "a", "b"):
        part = begun(out, name)
        if name != "none":
            part.stage(0, LABELS, ["x"] * 3)
    assert [part.name for part in batches.parts(out)] == ["b", "a"]
    begun(out, "none").stage(0, LABELS, ["x"] * 3)
    assert [part.name for part in batches.parts(out)] == ["b", "a", "none"]


def test_other_settings_are_named_once_something_is_staged(part, out):
    begun(out, "b").check({"seed": 1, "steps": 4}, PromptFile(PETS, []))
    part = Part(out, "a")
    part.check({"seed": 0, "precision": "float16"}, PROMPTS)
    longer = PromptFile(PETS, [*PROMPTS.prompts, Prompt(0, "more")])
    with pytest.raises(RequestError, match="steps: 50 there, 4 here") as e:
        part.check({"seed": 0, "steps": 4}, longer)
    assert "seed" not in str(e.value) and "prompts" not in str(e.value)
    shorter = PromptFile(PETS, PROMPTS.prompts[:2])
    with pytest.raises(RequestError, match="prompts: 3 of .* there, 2 of .* here"):
        part.check({"seed": 0}, shorter)


@pytest.mark.parametrize(
    ("change", "size", "named"),
    [
        ({"dataset": "cars"}, 4, "pets.*cars"),
        ({"class_names": ["cat", "owl"]}, 4, "label 1 is dog there, owl here"),
        ({"class_names": ["cat", "dog", "owl"]}, 4, "2 classes there, 3 here"),
        ({}, 8, "--size=4"),
    ],
)
def test_other_prompts(part, out, change, size, named):
    changed = PromptFile({**PETS, **change}, [])
    batches.check_fit(out, PROMPTS, 4)
    batches.check_fit(out, PROMPTS, None)
    batches.check_fit(f"{out}2", changed, size)
    with pytest.raises(RequestError, match=named):
        batches.check_fit(out, changed, size)
