"""Tests the prompts command as far as it works without PyTorch."""

import dataclasses
import json
import os
import sys

import pytest

from rsmatch_jax.errors import RequestError, RunFailed
from rsmatch_jax.synthesis.prompts import __main__ as prompts
from rsmatch_jax.synthesis.prompts import journal, sentences, tally, words
from rsmatch_jax.synthesis.prompts.tally import Tally


@pytest.fixture(autouse=True)
def no_transformers(monkeypatch):
    # torch cannot be blocked: SciPy looks it up and fails on None.
    monkeypatch.setitem(sys.modules, "transformers", None)


def command(out, *flags):
    return prompts.main(["--dataset=digits", "--per_class=3", f"--out={out}", *flags])


def test_without_torch_one_line_says_what_to_install(tmp_path, capsys):
    assert command(tmp_path / "p.jsonl") == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    assert "pip install -r requirements-synthesis.txt" in printed
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
        "words": [words.words(digit) for digit in "0123456789"],
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
        ("--seed=1", "seed: 0 there, 1 here"),
        ("--temperature=0.5", "temperature: 1.0 there, 0.5 here"),
        (
            "--model=other",
            "model: mrm8488/t5-base-finetuned-common_gen there, other here",
        ),
        ("--allow_missing_word", "allow_missing_word: False there, True here"),
        ("--dataset=fake", "dataset: digits there, fake here"),
        ("--per_class=2", "fewer than the 3"),
    ):
        assert command(out, flag) == 2
        printed = capsys.readouterr().err
        assert named in printed
        assert "another --out" in printed
    assert command(out, "--max_tries=3") == 0  # changes no sentence
    assert out.read_bytes() == before
    assert os.listdir(tmp_path) == ["p.jsonl"]


def test_a_stage_of_another_request_is_refused_before_the_model_loads(tmp_path, capsys):
    stage = tmp_path / "p.jsonl.partial"
    stage.write_text(json.dumps(request()) + "\n")
    assert command(tmp_path / "p.jsonl", "--top_p=0.9") == 2
    assert "top_p: 1.0 there, 0.9 here" in capsys.readouterr().err
    assert command(tmp_path / "p.jsonl") == 2  # the right one gets as far as PyTorch
    assert "pip install" in capsys.readouterr().err
    assert stage.read_text() == json.dumps(request()) + "\n"


def test_a_stage_that_another_run_holds_is_refused(tmp_path, capsys):
    with journal.opened(str(tmp_path / "p.jsonl.partial")) as stage:
        stage.append(request())
        assert command(tmp_path / "p.jsonl") == 2
    assert "another run" in capsys.readouterr().err


def test_sentences_are_judged():
    counts = Tally(texts=["A cat."], seen={"a cat."})
    written = [
        (" Two \n cats ", True),
        ("two CATS", True),
        ("a dog", True),
        ("a cat on a", False),
        ("  ", True),
        ("a CAT.", True),
        ("The cat", True),
        ("a cat too many", True),
    ]
    counts.sampled = 1
    batch = tally.judge(counts, written, "cat", 3, False)
    assert batch == {
        "first": 1,
        "texts": ["Two cats", "The cat"],
        "sampled": 7,
        "rejected": {"unfinished": 2, "word missing": 1, "repeated": 2},
    }
    assert counts.texts == ["A cat."]
    counts.add(batch)
    assert counts.texts == ["A cat.", "Two cats", "The cat"]
    assert counts.sampled == 8
    with pytest.raises(ValueError, match="does not follow"):
        counts.add(batch)
    assert counts.skip(written, 7) == written[7:]
    with pytest.raises(RunFailed, match="does not do so again"):
        counts.skip(written, 6)
    batch = tally.judge(Tally(), written, "cat", 3, True)
    assert batch["texts"] == ["Two cats", "a dog", "a CAT."]


def test_turns():
    def tallies(*states):
        return [Tally(texts=["x"] * n, sampled=b) for n, b in states]

    assert tally.next_class(tallies((0, 0), (0, 0)), 2) == 0
    assert tally.next_class(tallies((0, 1), (0, 0)), 2) == 1
    assert tally.next_class(tallies((2, 1), (1, 5), (0, 4)), 2) == 2
    assert tally.next_class(tallies((2, 1), (2, 5)), 2) is None


BATCH = {"label": 0, "first": 0, "texts": ["a"], "sampled": 1}
GOOD = {**BATCH, "rejected": dict.fromkeys(tally.REASONS, 0)}


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
    for lines in ("{}\n" + json.dumps(GOOD) + "\n", ""):
        path.write_text(lines + '{"label": 1, "te')
        with journal.opened(str(path)) as stage:
            assert (stage.header is None) == (not lines)
            stage.append({"new": 1})
        assert path.read_text() == lines + '{"new": 1}\n'
