"""The prompts command, as far as it goes without PyTorch; a dataset's class names."""

import dataclasses
import json
import os
import sys

import numpy as np
import pytest
from digit_words import NUMBERS

from rsmatch_jax.data import class_names
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.errors import RequestError, RunFailed
from rsmatch_jax.synthesis.prompts import __main__ as prompts
from rsmatch_jax.synthesis.prompts import journal, sentences
from rsmatch_jax.synthesis.prompts.journal import Tally


@pytest.fixture(autouse=True)
def no_transformers(monkeypatch):
    # torch itself cannot be blocked: SciPy looks it up and stumbles over None.
    monkeypatch.setitem(sys.modules, "transformers", None)


def command(out, *flags):
    return prompts.main(["--dataset=digits", "--per_class=3", f"--out={out}", *flags])


def test_without_torch_one_line_says_what_to_install(tmp_path, capsys):
    assert command(tmp_path / "p.jsonl") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert "pip install -r requirements-synthesis.txt" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flag", "named"),
    [
        ("--per_class=0", "--per_class=0"),
        ("--per_class=many", "--per_class"),
        ("--batch_size=0", "--batch_size=0"),
        ("--temperature=0", "--temperature=0"),
        ("--temperature=nan", "--temperature=nan"),
        ("--top_p=1.5", "--top_p=1.5"),
        ("--top_k=-1", "--top_k=-1"),
        ("--max_tokens=0", "--max_tokens=0"),
        ("--max_tries=0", "--max_tries=0"),
        ("--seed=-1", "--seed=-1"),
        ("--perclass=3", "--perclass=3"),
        ("--dataset=nowhere/at/all", "nowhere/at/all"),
        ("--dataset=./nowhere", "no such folder"),
        ("--words=nowhere.txt", "--words=nowhere.txt"),
        ("--out=nowhere/p.jsonl", "there is no folder"),
    ],
)
def test_bad_flags_exit_2(flag, named, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("p.jsonl", flag) == 2
    said = capsys.readouterr().err
    assert named in said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_a_taken_out_is_refused(tmp_path, capsys):
    out = tmp_path / "p.jsonl"
    out.write_text("my notes\n")
    assert command(out) == 2
    assert "no prompt file" in capsys.readouterr().err
    assert out.read_text() == "my notes\n"
    assert command(tmp_path) == 2
    assert "no prompt file" in capsys.readouterr().err


def request(**changes):
    return {
        "dataset": "digits",
        "class_names": list("0123456789"),
        "words": NUMBERS,
        "model": sentences.DEFAULT_MODEL,
        "per_class": 3,
        "allow_missing_word": False,
        **dataclasses.asdict(sentences.Sampling()),
        **changes,
    }


def test_a_finished_file_is_left_alone_and_another_request_refused(tmp_path, capsys):
    out = tmp_path / "p.jsonl"
    out.write_text(json.dumps(request(extra=1)) + "\n")
    before = out.read_bytes()
    assert command(out) == 0
    assert "finished already" in capsys.readouterr().out
    for flag, named in (
        ("--seed=1", "seed 0, now 1"),
        ("--temperature=0.5", "temperature 1.0, now 0.5"),
        ("--model=other", "now 'other'"),
        ("--allow_missing_word", "allow_missing_word False, now True"),
        ("--dataset=fake", "dataset 'digits', now 'fake'"),
        ("--per_class=2", "fewer than the 3"),
    ):
        assert command(out, flag) == 2
        said = capsys.readouterr().err
        assert named in said
        assert "another --out" in said
    assert command(out, "--max_tries=3") == 0  # changes no sentence
    assert out.read_bytes() == before
    assert os.listdir(tmp_path) == ["p.jsonl"]


def test_a_stage_of_another_request_is_refused_before_the_model_loads(tmp_path, capsys):
    stage = tmp_path / "p.jsonl.partial"
    stage.write_text(json.dumps(request()) + "\n")
    assert command(tmp_path / "p.jsonl", "--top_p=0.9") == 2
    assert "top_p 1.0, now 0.9" in capsys.readouterr().err
    assert command(tmp_path / "p.jsonl") == 2  # the right one gets as far as PyTorch
    assert "pip install" in capsys.readouterr().err
    assert stage.read_text() == json.dumps(request()) + "\n"


def test_a_stage_that_another_run_holds_is_refused(tmp_path, capsys):
    with journal.opened(str(tmp_path / "p.jsonl.partial")) as stage:
        stage.begin(request())
        assert command(tmp_path / "p.jsonl") == 2
    assert "another run" in capsys.readouterr().err


def test_sifting():
    tally = Tally(texts=["A cat."], seen={"a cat."})
    said = [
        (" Two \n cats ", True),
        ("two CATS", True),
        ("a dog", True),
        ("a cat on a", False),
        ("  ", True),
        ("a CAT.", True),
        ("The cat", True),
        ("a cat too many", True),
    ]
    tally.sampled = 1
    batch = journal.sift(tally, said, "cat", 3, False)
    assert batch == {
        "first": 1,
        "texts": ["Two cats", "The cat"],
        "sampled": 7,
        "rejected": {"unfinished": 2, "word missing": 1, "repeated": 2},
    }
    assert tally.texts == ["A cat."]
    tally.add(batch)
    assert tally.texts == ["A cat.", "Two cats", "The cat"]
    assert tally.sampled == 8
    with pytest.raises(ValueError, match="does not follow"):
        tally.add(batch)
    assert tally.rest(said, 7) == said[7:]
    with pytest.raises(RunFailed, match="does not do so again"):
        tally.rest(said, 6)
    batch = journal.sift(Tally(), said, "cat", 3, True)
    assert batch["texts"] == ["Two cats", "a dog", "a CAT."]


def test_turns():
    def tallies(*states):
        return [Tally(texts=["x"] * n, sampled=b) for n, b in states]

    assert journal.next_class(tallies((0, 0), (0, 0)), 2) == 0
    assert journal.next_class(tallies((0, 1), (0, 0)), 2) == 1
    assert journal.next_class(tallies((2, 1), (1, 5), (0, 4)), 2) == 2
    assert journal.next_class(tallies((2, 1), (2, 5)), 2) is None


BATCH = {"label": 0, "first": 0, "texts": ["a"], "sampled": 1}
GOOD = {**BATCH, "rejected": dict.fromkeys(journal.REASONS, 0)}


@pytest.mark.parametrize(
    ("lines", "number"),
    [
        (["{}", "no json"], 2),
        (["[]"], 1),
        (["{}", json.dumps({**GOOD, "label": 2})], 2),
        (["{}", json.dumps({**GOOD, "label": -1})], 2),
        (["{}", json.dumps(GOOD), json.dumps({**GOOD, "first": 2})], 3),
        (["{}", json.dumps({**GOOD, "sampled": 2})], 2),
        (["{}", json.dumps(BATCH)], 2),
    ],
)
def test_a_damaged_stage_names_its_line(tmp_path, lines, number):
    path = tmp_path / "stage"
    path.write_text("\n".join(lines) + "\n")
    with (
        pytest.raises(RequestError, match=f"line {number}"),
        journal.opened(str(path)) as stage,
    ):
        stage.replay([Tally(), Tally()])


def test_half_a_line_is_dropped(tmp_path):
    path = tmp_path / "stage"
    for kept in ("{}\n" + json.dumps(GOOD) + "\n", ""):
        path.write_text(kept + '{"label": 1, "te')
        with journal.opened(str(path)) as stage:
            assert (stage.header is None) == (not kept)
            stage.begin({"new": 1})
        assert path.read_text() == kept + '{"new": 1}\n'


CLASSES = ("cat", "dog", "maple_tree")


def array_folder(folder):
    data = arrays.ImageArrays(
        name="pets",
        images=np.zeros((3, 4, 4, 3), np.uint8),
        labels=np.arange(3, dtype=np.int32),
        class_names=CLASSES,
    )
    arrays.save(str(folder), data)


def tfds_folder(folder, names=True):
    """As TFDS writes it, but for the images."""
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text('{"name": "pets", "version": "1.0.0"}')
    label = {"label": {"classLabel": {"numClasses": "3"}}}
    features = json.dumps({"featuresDict": {"features": label}})
    (folder / "features.json").write_text(features)
    if names:
        (folder / "label.labels.txt").write_text("".join(f"{n}\n" for n in CLASSES))


def test_class_names_come_from_what_is_there(tmp_path, monkeypatch):
    for library in ("tensorflow", "tensorflow_datasets"):
        monkeypatch.setitem(sys.modules, library, None)
    nowhere = {"data_dir": str(tmp_path / "no"), "cache_dir": str(tmp_path / "no")}
    digits = tuple("0123456789")
    assert class_names.class_names("digits", **nowhere) == digits
    assert class_names.class_names("fake", **nowhere)[1] == "class_1"

    array_folder(tmp_path / "arrays" / "train")
    assert class_names.class_names(str(tmp_path / "arrays"), **nowhere) == CLASSES
    tfds_folder(tmp_path / "data" / "pets" / "1.0.0")
    prepared = str(tmp_path / "data" / "pets" / "1.0.0")
    assert class_names.class_names(prepared, **nowhere) == CLASSES
    data_dir = str(tmp_path / "data")
    found = class_names.class_names("pets", data_dir=data_dir, cache_dir="/no")
    assert found == CLASSES
    tfds_folder(tmp_path / "data" / "plain" / "1.0.0", names=False)
    found = class_names.class_names("plain", data_dir=data_dir, cache_dir="/no")
    assert found == ("0", "1", "2")
    array_folder(tmp_path / "cache" / "datasets" / "birds" / "1.0.0-abc" / "train")
    cache = str(tmp_path / "cache")
    found = class_names.class_names("birds", data_dir=data_dir, cache_dir=cache)
    assert found == CLASSES

    with pytest.raises(RequestError, match="pip install -r requirements.txt"):
        class_names.class_names("food101", **nowhere)
    (tmp_path / "data" / "plain" / "1.0.0" / "features.json").write_text("{}")
    with pytest.raises(RequestError, match=r"features\.json"):
        class_names.class_names("plain", data_dir=data_dir, cache_dir="/no")
    with pytest.raises(RequestError, match="no dataset folder"):
        class_names.class_names(str(tmp_path), **nowhere)


def test_class_names_of_a_set_that_is_not_prepared(tmp_path):
    nowhere = {"data_dir": str(tmp_path), "cache_dir": str(tmp_path)}
    found = class_names.class_names("food101", **nowhere)
    assert len(found) == 101
    assert found[0] == "apple_pie"
    with pytest.raises(RequestError, match="class names of mnist"):
        class_names.class_names("mnist", **nowhere)
    with pytest.raises(RequestError, match="dataset=mnits"):
        class_names.class_names("mnits", **nowhere)
    assert not list(tmp_path.iterdir())


def test_tfds_writes_the_files_that_the_names_are_read_from(tmp_path):
    from rsmatch_jax.data.stores import tf_write

    picture = np.zeros((4, 4, 3), np.uint8)
    examples = [tf_write.Example(picture, label, str(label)) for label in range(3)]
    folder = str(tmp_path / "pets")
    tf_write.write(folder, {"train": examples}, class_names=CLASSES, size=(4, 4))
    assert class_names.class_names(folder) == CLASSES
