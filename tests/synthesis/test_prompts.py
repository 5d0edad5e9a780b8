"""Tests prompt files and, as far as it works without PyTorch, the prompts command."""

import dataclasses
import json
import os
import sys

import pytest

from rsmatch_jax.errors import RequestError, RunFailed
from rsmatch_jax.synthesis.prompts import __main__ as prompts
from rsmatch_jax.synthesis.prompts import journal, prompt_file, sentences, words
from rsmatch_jax.synthesis.prompts.journal import Tally
from rsmatch_jax.synthesis.prompts.prompt_file import Prompt


@pytest.fixture(autouse=True)
def no_transformers(monkeypatch):
    # torch cannot be blocked: SciPy looks it up and fails on None.
    monkeypatch.setitem(sys.modules, "transformers", None)


def command(out, *flags):
    return prompts.main(["--dataset=digits", "--per_class=3", f"--out={out}", *flags])


def test_without_torch_one_line_says_what_to_install(tmp_path, capsys):
    assert command(tmp_path / "p.jsonl") == 2
    printed = capsys.readouterr().err
    assert ("\n" + printed).count("\nerror: ") == 1
    assert printed.count("\n") == 1
    assert "pip install -r requirements-synthesis.txt" in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["my notes\n", '{"per_class": "3"}\n', None])
def test_a_taken_out_is_refused(tmp_path, capsys, content):
    out = tmp_path / "p.jsonl"
    out.mkdir() if content is None else out.write_text(content)
    assert command(out) == 2
    assert "no prompt file" in capsys.readouterr().err
    assert content is None or out.read_text() == content


def request():
    return {
        "dataset": "digits",
        "class_names": list("0123456789"),
        "words": [words.words(digit) for digit in "0123456789"],
        "model": sentences.DEFAULT_MODEL,
        "per_class": 3,
        "allow_missing_word": False,
        **dataclasses.asdict(sentences.Sampling()),
    }


REFUSED = {
    "--seed=1": "seed: 0 there, 1 here",
    "--temperature=0.5": "temperature: 1.0 there, 0.5 here",
    "--top_p=0.9": "top_p: 1.0 there, 0.9 here",
    "--model=other": "t5-base-finetuned-common_gen there, other here",
    "--allow_missing_word": "allow_missing_word: False there, True here",
    "--dataset=fake": "dataset: digits there, fake here",
}


@pytest.mark.parametrize("name", ["p.jsonl", "p.jsonl.partial"])
def test_another_request_is_refused_before_the_model_loads(tmp_path, capsys, name):
    content = json.dumps(request()) + "\n"
    (tmp_path / name).write_text(content)
    rows = {**REFUSED, "--per_class=2": "fewer than the 3"}
    for flag, named in (rows if name == "p.jsonl" else REFUSED).items():
        assert command(tmp_path / "p.jsonl", flag) == 2
        printed = capsys.readouterr().err
        assert named in printed
        assert "another --out" in printed
    # The same request finds the file finished, or gets as far as PyTorch.
    code = command(tmp_path / "p.jsonl", "--max_tries=3")  # changes no sentence
    printed = capsys.readouterr()
    if name == "p.jsonl":
        assert code == 0
        assert "finished already" in printed.out
    else:
        assert code == 2
        assert "pip install" in printed.err
    assert (tmp_path / name).read_text() == content
    assert os.listdir(tmp_path) == [name]


def test_a_stage_that_another_run_holds_is_refused(tmp_path, capsys):
    with journal.opened(str(tmp_path / "p.jsonl.partial")) as stage:
        stage.append(request())
        assert command(tmp_path / "p.jsonl") == 2
    assert "another run" in capsys.readouterr().err


def test_sentences_are_judged():
    counts = Tally({"a cat.": "A cat."})
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
    batch = journal.judge(counts, written, "cat", 3, False)
    assert batch == {
        "first": 1,
        "texts": ["Two cats", "The cat"],
        "sampled": 7,
        "rejected": {"unfinished": 2, "word missing": 1, "repeated": 2},
    }
    assert [*counts.texts.values()] == ["A cat."]
    counts.add(batch)
    assert [*counts.texts.values()] == ["A cat.", "Two cats", "The cat"]
    assert counts.sampled == 8
    with pytest.raises(ValueError, match="does not follow"):
        counts.add(batch)
    assert counts.skip(written, 7) == written[7:]
    with pytest.raises(RunFailed, match="does not do so again"):
        counts.skip(written, 6)
    batch = journal.judge(Tally(), written, "cat", 3, True)
    assert batch["texts"] == ["Two cats", "a dog", "a CAT."]


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


HEADER = prompt_file.text("pets", ["cat", "dög"], {"seed": 3}, ())


def test_round_trip(tmp_path):
    path = tmp_path / "p.jsonl"
    contents = (Prompt(1, 'A "dög" barks.'), Prompt(0, "one\u2028two"))
    text = prompt_file.text("pets", ["cat", "dög"], {"seed": 3}, contents)
    assert text.startswith(HEADER)
    path.write_text(f"\ufeff{text}\n\n", "utf-8")  # as some editors leave it
    content_read = prompt_file.read(str(path))
    assert content_read.prompts == contents
    assert content_read.dataset == "pets"
    assert content_read.class_names == ("cat", "dög")
    assert content_read.header["seed"] == 3


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "rsmatch prompts"),
        ("", "line 1"),
        ("[]\n", "line 1"),
        ('{"dataset": "pets"}\n', "class names"),
        ('{"dataset": "pets", "class_names": []}\n', "class names"),
        (HEADER + '{"label": 2, "prompt": "x"}\n', "line 2: label=2"),
        (HEADER + '{"label": true, "prompt": "x"}\n', "label=True"),
        (HEADER + '{"label": 0, "prompt": " "}\n', "line 2: no prompt"),
        (HEADER + '{"label": 0, "prompt": "x"}\n{"la', "line 3"),
    ],
)
def test_bad_lines_are_named(tmp_path, content, named):
    path = tmp_path / "p.jsonl"
    if content is not None:
        path.write_text(content, "utf-8")
    with pytest.raises(RequestError, match=named):
        prompt_file.read(str(path))
