"""A prompt file that is made longer equals one that was made at once."""

import json
import os

import numpy as np
import pytest

from rsmatch_jax import errors
from rsmatch_jax.synthesis.prompts import __main__ as prompts
from rsmatch_jax.synthesis.prompts import journal, sentences, words

BATCH = 8


def write(word, key):
    """Returns few different sentences, some incomplete, some without the word."""
    rng = np.random.default_rng(key)
    kinds = rng.integers(0, 10, BATCH)
    return [
        (f"{'Nothing' if kind == 1 else word}  is {rng.integers(60)}.", kind != 0)
        for kind in kinds
    ]


@pytest.fixture
def model(monkeypatch):
    """calls: the keys that were sampled; limit: number of calls before an interrupt."""

    class Model:
        calls, limit, write, made_with = [], None, staticmethod(write), {"torch": "1"}

    def logged(word, key):
        if len(Model.calls) == Model.limit:
            raise KeyboardInterrupt
        Model.calls.append(key)
        return Model.write(word, key)

    def load(name, sampling):
        assert sampling.batch_size == BATCH
        return logged, {"made_with": Model.made_with, "model_licence": "MIT"}

    monkeypatch.setattr(sentences, "load", load)
    return Model


def command(out, per_class, *flags):
    options = f"--per_class={per_class}", f"--out={out}", f"--batch_size={BATCH}"
    return prompts.main(["--dataset=digits", *options, *flags])


def complete(folder, per_class):
    """Returns the bytes of a file that was made at once."""
    out = folder / f"whole-{per_class}.jsonl"
    assert command(out, per_class) == 0
    return out.read_bytes()


def by_hand(per_class):
    """Returns (label, text) in the file's order, and numbers of judged sentences."""
    columns, judged = [], []
    for label, word in enumerate(map(words.words, "0123456789")):
        texts, count = {}, 0
        while len(texts) < per_class:
            number, place = divmod(count, BATCH)
            text, ended = write(word, (label, number))[place]
            count += 1
            text = text.replace("  ", " ")
            if ended and word in text:
                texts.setdefault(text.lower(), text)
        columns.append(texts.values())
        judged.append(count)
    rows = [pair for row in zip(*columns, strict=True) for pair in enumerate(row)]
    return rows, judged


def test_longer_and_longer(tmp_path, model, capsys):
    out, before, sizes = tmp_path / "p.jsonl", [], (1, 3, 4, 17, 30)
    for shorter, per_class in zip((0, *sizes), sizes, strict=False):
        model.calls.clear()
        assert command(out, per_class) == 0
        drawn = list(model.calls)
        lines = out.read_bytes().splitlines()
        assert lines[1 : len(before)] == before[1:]
        before = lines
        printed = capsys.readouterr().out
        assert ("going on" in printed) == (shorter > 0)
        model.calls.clear()
        assert out.read_bytes() == complete(tmp_path, per_class)
        assert set(drawn) <= set(model.calls)
        # Only batches that were judged in part are sampled again.
        judged = by_hand(shorter)[1]
        assert len(drawn) == len(model.calls) - sum(n // BATCH for n in judged)

    # The class with the fewest judged sentences is next.
    assert model.calls[:20] == [(label, n) for n in (0, 1) for label in range(10)]
    header, *written = map(json.loads, lines)
    rows, judged = by_hand(30)
    assert [(p["label"], p["prompt"]) for p in written] == rows
    assert header["per_class"] == 30
    assert header["sampled"] == judged
    lost = np.array(list(header["rejected"].values())).sum(0)
    np.testing.assert_array_equal(lost + 30, judged)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("shorter", [0, 5])
def test_killed_again_and_again(tmp_path, model, shorter):
    """While it is made longer, with other lengths in between."""
    out, stage = tmp_path / "p.jsonl", tmp_path / "p.jsonl.partial"
    if shorter:
        assert command(out, shorter) == 0
    finished = out.read_bytes() if shorter else None
    stage.write_bytes(b'{"dataset": "di')  # killed in the first line
    for per_class, limit in ((9, 1), (9, 3), (40, 12), (30, 0), (40, 20)):
        model.calls.clear()
        model.limit = limit
        assert command(out, per_class) == errors.STOPPED
        assert (out.read_bytes() if out.exists() else None) == finished
        with open(stage, "ab") as f:
            f.write(b'{"label": 0, "te')
    model.limit = None
    if shorter:  # the shorter file is finished; the journal of the longer one stays
        begun = stage.read_bytes()
        assert command(out, shorter) == 0
        assert stage.read_bytes() == begun
    assert command(out, 45) == 0
    assert out.read_bytes() == complete(tmp_path, 45)
    assert not stage.exists()


def test_killed_between_the_last_two_steps(tmp_path, model, monkeypatch):
    out, stage = tmp_path / "p.jsonl", tmp_path / "p.jsonl.partial"
    assert command(out, 2) == 0

    def killed(path):
        raise KeyboardInterrupt

    for per_class in (5, 9):
        with monkeypatch.context() as patched:
            patched.setattr(prompts.os, "remove", killed)
            assert command(out, per_class) != 0
        assert stage.exists()
        assert out.read_bytes() == complete(tmp_path, per_class)
    assert command(out, 9) == 0
    assert command(out, 13) == 0
    assert out.read_bytes() == complete(tmp_path, 13)
    assert not stage.exists()


def test_fewer_are_refused(tmp_path, model, capsys):
    out, stage = tmp_path / "p.jsonl", tmp_path / "p.jsonl.partial"
    assert command(out, 5) == 0
    before = out.read_bytes()
    model.calls.clear()
    model.limit = 12
    assert command(out, 25) != 0
    begun = stage.read_bytes()
    tallies = journal.from_file(str(out))
    with journal.opened(str(stage)) as opened:
        opened.replay(tallies)
    most = max(len(counts.texts) for counts in tallies)
    assert most > 6
    capsys.readouterr()
    assert command(out, 6) == 2
    printed = capsys.readouterr().err
    assert f"--per_class=6 is fewer than the {most}" in printed
    assert f"--per_class={most} or more" in printed
    assert str(stage) in printed
    assert (out.read_bytes(), stage.read_bytes()) == (before, begun)


def test_a_model_that_writes_otherwise_is_refused(tmp_path, model, capsys):
    out = tmp_path / "p.jsonl"
    assert command(out, 3) == 0
    before = out.read_bytes()
    model.made_with = {"torch": "2"}
    assert command(out, 9) == 2
    assert "torch: 1 there, 2 here" in capsys.readouterr().err
    model.made_with = {"torch": "1"}
    model.write = staticmethod(lambda word, key: write(word, (*key, 1)))
    assert command(out, 9) == 1
    printed = capsys.readouterr().err
    assert "does not do so again" in printed
    assert "Traceback" not in printed
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda header, lines: lines.pop(3), "the number of prompts"),
        (lambda header, lines: lines.reverse(), "do not alternate"),
        (lambda header, lines: header["sampled"].reverse(), "do not add up"),
        (lambda header, lines: header.pop("sampled"), "'sampled'"),
        (lambda header, lines: header.pop("per_class"), "'per_class'"),
    ],
)
def test_an_edited_file_is_not_made_longer(tmp_path, model, capsys, change, reason):
    out = tmp_path / "p.jsonl"
    assert command(out, 3) == 0
    header, *lines = map(json.loads, out.read_text().splitlines())
    change(header, lines)
    out.write_text("".join(json.dumps(line) + "\n" for line in (header, *lines)))
    before = out.read_bytes()
    assert command(out, 9) == 2
    printed = capsys.readouterr().err
    assert "changed since it was made" in printed
    assert reason in printed
    assert out.read_bytes() == before
    assert os.listdir(tmp_path) == ["p.jsonl"]
